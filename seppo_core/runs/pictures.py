"""What there is to look at of a run besides its metrics: pictures and per-winner lines, in `.album/` of its directory.

It is for looking only: no training reads it, and a run goes on where it cannot be written.
"""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from .report import ExampleReport
from .state import json_lines

FOLDER = ".album"
"""Hidden, so that nothing takes its pictures for a user's."""
LEVELS = 8
"""columns of the map of winners and noise levels"""
MOST_WINNERS = 64
"""rows of that map"""
QUALITY = 80

log = logging.getLogger(__name__)


class RunPictures:
    """The pictures of the run in `directory`. What a continued run does again replaces what was there."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER
        self.works = True

    def write_about(self, about: dict[str, Any]) -> None:
        """What the page needs to find the run again: plain JSON."""
        self._try(lambda: (self.folder / "about.json").write_text(json.dumps(about), "utf-8"))

    def about(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "about.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def touched(self) -> float:
        """When the page's panel showed the run last, in seconds since 1970; 0 if none did."""
        try:
            return (self.folder / "about.json").stat().st_mtime
        except OSError:
            return 0.0

    def add_examples(self, step: int, examples: Sequence[ExampleReport]) -> None:
        rows = [_row(example) for example in examples]
        self._append("examples.jsonl", {"step": step, "rows": rows})

    def add_picture(
        self, kind: str, step: int, picture: Image.Image, **about: Any
    ) -> dict[str, Any]:
        """Keep a picture of `kind` (sample or test); returns its line: step, file and `about`."""
        number = about.get("number", 0)
        line = {"step": step, "file": f"{kind}_{step:08d}_{number:03d}.webp", **about}

        def write() -> None:
            picture.convert("RGB").save(self.folder / line["file"], quality=QUALITY)

        self._try(write)
        self._append(f"{kind}s.jsonl", line)
        return line

    def pictures(self, kind: str, last_step: int) -> list[dict[str, Any]]:
        """The lines of `kind` up to a step, in the order of steps; of one written twice the newer."""
        lines = (line for line in self._lines(f"{kind}s.jsonl") if line["step"] <= last_step)
        found = {line["file"]: line for line in lines if "file" in line}
        return sorted(found.values(), key=lambda line: (line["step"], line.get("number", 0)))

    def cells(self, last_step: int) -> dict[str, list[int]]:
        """Of the map, up to a step: "winner,level" -> [how often looked at, how often the policy was ahead]."""
        steps = {line["step"]: line.get("rows") for line in self._lines("examples.jsonl")}
        found: dict[str, list[int]] = {}
        for step, rows in steps.items():
            if step <= last_step:
                with suppress(TypeError, ValueError):  # a damaged line
                    _count(rows, found)
        return found

    def picture_path(self, file: str) -> Path | None:
        """Of a picture that a line names; None for any other name."""
        path = self.folder / file
        whole = path.name == file and path.suffix == ".webp" and path.is_file()
        return path if whole and not path.is_symlink() else None

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            whole, _, _ = (self.folder / name).read_text("utf-8", errors="replace").rpartition("\n")
        except OSError:
            return []
        return json_lines(whole)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        def write() -> None:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        self._try(write)

    def _try(self, write: Callable[[], object]) -> None:
        """Once something could not be written, nothing more is: looking must not hinder training."""
        if not self.works:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write()
        except OSError as error:
            self.works = False
            log.warning("%s: no more pictures of this run are kept (%s)", self.folder, error)


def _count(rows: list[list[float]], found: dict[str, list[int]]) -> None:
    for winner, level, margin in rows:
        place = f"{int(winner)},{min(int(level * LEVELS), LEVELS - 1)}"
        cell = found.setdefault(place, [0, 0])
        cell[0] += 1
        cell[1] += margin < 0


def _row(example: ExampleReport) -> list[float]:
    """Winner, level and winner margin, with four significant digits."""
    values = (example.level, example.winner_margin)
    return [example.winner, *(float(f"{value:.4g}") for value in values)]
