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
from .winners import (
    LeftOut,
    NothingUsableError,
    Winners,
    grouped,
    listed,
    printable,
    require_none,
)


@dataclass(frozen=True)
class Reader:
    """How one layout of files is read."""

    read: Callable[[Path, Reading], Winners]
    """takes a folder, or one file of these suffixes; gives what can be used, and what not and why"""
    suffixes: frozenset[str]
    """of the files it looks for"""
    advice: str = ""
    """what to do with files of other suffixes"""


READERS: dict[str, Reader] = {
    "folder": Reader(
        read_folder, frozenset(folder.SUFFIXES), "; save it as PNG or JPEG if it is a picture"
    ),
    "parquet": Reader(read_parquet, frozenset(parquet.SUFFIXES)),
    "webdataset": Reader(read_tars, frozenset(tars.SUFFIXES)),
    "clips": Reader(read_clips, frozenset(clips.SUFFIXES), "; save it as MP4 if it is a clip"),
}

AUTOMATIC = "auto"
NAMED = 8
"""kinds of files, and files of each other kind, that a report names"""

LITTER = ("thumbs.db", "desktop.ini")
"""What Windows leaves in folders."""


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
    if path.is_file() and (suffix := suffix_of(path.name)) not in chosen.suffixes:
        if suffix in captions.SUFFIXES or path.name in captions.TABLES:
            raise DatasetError(f"{path.name}: give the folder that it lies in")
        raise DatasetError(str(*why_unread([Unread(path.name, suffix or NO_SUFFIX)], name)))
    unread = unread_files(path, chosen)
    try:
        winners = chosen.read(path, reading)
    except NothingUsableError as error:
        raise DatasetError(f"{error}{listed(why_unread(unread, name), 5)}") from None
    winners.notes += told_unread(unread, name)
    if reading.strict:
        require_none(winners.source, [*winners.left_out, *why_unread(unread, name)])
    return winners


def fitting(path: Path) -> str:
    """The reader whose files are the most at `path`; what two can take counts for the first."""
    first = {s: name for name, reader in reversed(READERS.items()) for s in reader.suffixes}
    counts = Counter(first.get(suffix_of(name)) for name, _, _ in listing(path))
    return max(READERS, key=counts.__getitem__)


@dataclass(frozen=True)
class Unread:
    """A file that the reader passes over."""

    name: str
    kind: str
    """its suffix, or why it is none of this reader's files whatever its suffix"""


NO_SUFFIX = "without suffix"
FOLDER_LINK = "is a link to a folder, which is not followed; put the folder itself there"
DEAD_LINK = "is a link that leads to no file; put the file itself there"
LONE_CAPTION = "captions nothing, for no file of its name lies beside it"


def unread_files(path: Path, reader: Reader) -> list[Unread]:
    """What lies at `path` that this reader passes over. Hidden files do not count."""
    if path.is_file():
        return []
    return [
        Unread(found.named(file), kind)
        for found in folder.walk(path, [])
        if not folder.regularization(found.name)
        for file in found.files
        if (kind := _unread_kind(found, file, reader))
    ]


def _unread_kind(found: folder.Folder, file: str, reader: Reader) -> str:
    """Empty for what is read."""
    suffix = suffix_of(file)
    if suffix in reader.suffixes or file in captions.TABLES or file.lower() in LITTER:
        return ""
    if suffix in captions.SUFFIXES:
        return "" if file[: -len(suffix)] in found.captioned else LONE_CAPTION
    if found.files[file]:
        path = f"{found.path}{os.sep}{file}"
        if os.path.isdir(path):  # noqa: PTH112
            return FOLDER_LINK
        if not os.path.isfile(path):  # noqa: PTH113
            return DEAD_LINK
    return suffix or NO_SUFFIX


def told_unread(unread: list[Unread], name: str) -> list[str]:
    """Lines of the report: how many of each suffix, and the others with the reason."""
    reasons = [LeftOut(one.name, one.kind) for one in unread if one.kind in OTHER_KINDS]
    counts = Counter(one.kind for one in unread if one.kind not in OTHER_KINDS)
    most = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(NAMED))
    most += " and others" if len(counts) > NAMED else ""
    notes = [printable(f"not for reader '{name}': {most}")] if most else []
    return [*notes, *map(str, grouped(reasons, NAMED))]


def why_unread(unread: list[Unread], name: str) -> list[LeftOut]:
    """Each with its reason, and what to do about it."""
    takers = {s: other for other, reader in reversed(READERS.items()) for s in reader.suffixes}
    reasons = {}
    for kind in {one.kind for one in unread} - OTHER_KINDS:
        advice = f"; reader '{takers[kind]}' takes it" if kind in takers else READERS[name].advice
        word = "a file without suffix" if kind == NO_SUFFIX else kind
        reasons[kind] = f"{word} is not for reader '{name}'{advice}"
    return [LeftOut(one.name, reasons.get(one.kind, one.kind)) for one in unread]


OTHER_KINDS = {FOLDER_LINK, DEAD_LINK, LONE_CAPTION}


def listing(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of every file below `path` that any reader depends on.

    Of a file these are its own, and those of what may caption it.
    """
    known = {*captions.SUFFIXES, *(s for reader in READERS.values() for s in reader.suffixes)}
    alone = path.is_file()
    rows = []
    for found, _ in folder.reached(path, []):
        its_own = {path.name, *captions.TABLES, *(name for _, name in found.beside(path.name))}
        for name in found.files:
            if name in its_own if alone else name in captions.TABLES or suffix_of(name) in known:
                try:
                    status = os.stat(f"{found.path}{os.sep}{name}")  # noqa: PTH116
                except OSError:  # a link to nowhere, or gone by now
                    continue
                rows.append((found.named(name), status.st_size, status.st_mtime_ns))
    return sorted(rows)
