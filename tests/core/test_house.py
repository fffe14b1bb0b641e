"""The page that draws the house shows the one that stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import make_house


def test_the_picture_is_that_of_the_imports():
    assert make_house.page() == make_house.PAGE.read_text("utf-8"), "run scripts/make_house.py"


def test_every_file_that_the_page_names_is_there():
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", make_house.PAGE.read_text("utf-8"))
    missing = [name for name in named if not any(found_below(name))]
    assert len(named) > 30 and not missing


def found_below(name: str) -> list[Path]:
    """A name alone is told of a file in the room of its row."""
    return [*make_house.CORE.rglob(name.rstrip("/")), *make_house.ROOT.glob(name.rstrip("/"))]
