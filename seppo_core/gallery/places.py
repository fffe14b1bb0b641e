"""Pictures in a host's folders: an address for each, such as "output/foxes/a.png", and lists of them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..data.folder import SUFFIXES, files_of, suffix_of
from ..errors import DatasetError

Roots = Mapping[str, Path]
"""What an address begins with -> the folder it stands for."""

NO_ADDRESS = "is no address of a picture, which looks like 'output/foxes/a.png'"
GONE = "there is no such file any more; put it back, or take its mark away"


class Listed(NamedTuple):
    """A picture of a folder, not yet opened."""

    name: str
    """relative to the folder, with slashes"""
    mtime_ns: int
    size: int


def listing(root: Path) -> list[Listed]:
    """Every picture below `root`, newest first.

    What is hidden is passed over, and so are links that leave the folder and names that are no text.
    """
    if not root.is_dir():
        return []
    rows = []
    for path, name in files_of(root, SUFFIXES, []):
        try:
            name.encode()
            status = os.stat(path)  # noqa: PTH116 (once for each of 100,000 pictures)
        except (OSError, UnicodeEncodeError):
            continue
        rows.append(Listed(name, status.st_mtime_ns, status.st_size))
    return sorted(rows, key=lambda row: (-row.mtime_ns, row.name))


def located(roots: Roots, address: str) -> Path:
    """The picture's file. DatasetError gives the reason alone why the address leads to none."""
    place, _, name = address.partition("/")
    parts = name.split("/")
    hidden = any(not part or part.startswith(".") for part in parts)
    if place not in roots or hidden or suffix_of(name) not in SUFFIXES:
        raise DatasetError(NO_ADDRESS)
    root = os.path.realpath(roots[place])
    path = os.path.join(root, *parts)  # noqa: PTH118
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):
        raise DatasetError(NO_ADDRESS) from None
    if not real.startswith(root + os.sep):
        raise DatasetError(f"leads out of the {place} folder")
    if not os.path.isfile(real):  # noqa: PTH113
        raise DatasetError(GONE)
    return Path(path)
