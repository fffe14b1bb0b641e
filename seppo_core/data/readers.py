"""Where winning images are read from: one reader per layout of files, in one table."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DatasetError
from . import captions, clips, folder, parquet, tars
from .captions import Reading
from .clips import read_clips
from .folder import read_folder, suffix_of
from .parquet import read_parquet
from .tars import read_tars
from .winners import Winners, printable, require_none


@dataclass(frozen=True)
class Reader:
    """How one layout of files is read."""

    read: Callable[[Path, Reading], Winners]
    """takes a folder, or one file of these suffixes; gives what can be used, and what not and why"""
    suffixes: frozenset[str]
    """of the files it looks for"""


READERS: dict[str, Reader] = {
    "folder": Reader(read_folder, frozenset(folder.SUFFIXES)),
    "parquet": Reader(read_parquet, frozenset(parquet.SUFFIXES)),
    "webdataset": Reader(read_tars, frozenset(tars.SUFFIXES)),
    "clips": Reader(read_clips, frozenset(clips.SUFFIXES)),
}

AUTOMATIC = "auto"
NAMED = 8
"""kinds of files that a report names"""


def read_winners(path: Path, *, reader: str = AUTOMATIC, **settings: Any) -> Winners:
    """The winning images at `path`; `settings` are the fields of `Reading`.

    `auto` takes the reader whose files are the most there, and `folder` where there are none. DatasetError
    if nothing is there or nothing can be used, and under `strict` if anything cannot.
    """
    path = Path(path)
    if reader not in (AUTOMATIC, *READERS):
        raise ConfigError(f"unknown reader {reader!r}; choose from {[AUTOMATIC, *READERS]}")
    if not path.exists():
        raise DatasetError(f"{path}: there is no such folder; create it and put winning images in")
    reading = Reading(**settings)
    name = fitting(path) if reader == AUTOMATIC else reader
    chosen = READERS[name]
    if path.is_file() and path.suffix.lower() not in chosen.suffixes:
        raise DatasetError(f"{path.name}: give the folder that it lies in")
    others = other_files(path, chosen)
    winners = chosen.read(path, reading)
    if others:
        winners.notes.append(f"not for reader '{name}': {others}")
    if reading.strict:
        require_none(winners.source, winners.left_out)
    return winners


def fitting(path: Path) -> str:
    """The reader whose files are the most at `path`; what two can take counts for the first."""
    first = {s: name for name, reader in reversed(READERS.items()) for s in reader.suffixes}
    counts = Counter(first.get(suffix_of(name)) for name, _, _ in listing(path))
    return max(READERS, key=counts.__getitem__)


def other_files(path: Path, reader: Reader) -> str:
    """What lies at `path` that this reader passes over: "3 .gif, 1 .heic". Hidden files do not count."""
    if path.is_file():
        return ""
    known = {*reader.suffixes, *captions.SUFFIXES}
    counts = Counter(
        suffix_of(name) or "without suffix"
        for found in folder.walk(path, [])
        for name in found.files
        if name not in captions.TABLES and suffix_of(name) not in known
    )
    most = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(NAMED))
    return printable(most + (" and others" if len(counts) > NAMED else ""))


def listing(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of every file below `path` that any reader depends on.

    Of a file these are its own, and those of what may caption it.
    """
    known = {*captions.SUFFIXES, *(s for reader in READERS.values() for s in reader.suffixes)}
    alone = path.is_file()
    its_own = {path.name, *captions.TABLES, *(path.stem + s for s in captions.SUFFIXES)}
    rows = []
    for found, _ in folder.reached(path, []):
        for name in found.files:
            if name in its_own if alone else name in captions.TABLES or suffix_of(name) in known:
                try:
                    status = os.stat(f"{found.path}{os.sep}{name}")  # noqa: PTH116
                except OSError:  # a link to nowhere, or gone by now
                    continue
                rows.append((found.named(name), status.st_size, status.st_mtime_ns))
    return sorted(rows)
