"""Winning images from a folder: pictures with captions beside them, in tables, or in names."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import DatasetError
from . import captions
from .captions import (
    Reading,
    Written,
    as_written,
    caption_of,
    first_written,
    table_rows,
    written_captions,
)
from .pictures import FORMATS, PictureFile, StoredPicture
from .winners import LeftOut, Winner, Winners

SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
NO_ROW = f"it lacks file_name or a caption (one of {', '.join(captions.CAPTION_KEYS)})"
REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
MAX_REPEATS = 10_000
REGULARIZATION = re.compile(r"reg(ulari[sz]ation)?([ _-]?(data|images?|img))?", re.IGNORECASE)
"""What users of kohya's trainer call its folder of pictures that are not to be learned."""
MOUNT_POINT = 0xA0000003
"""`stat.IO_REPARSE_TAG_MOUNT_POINT`, which only Windows has"""


@dataclass
class Folder:
    """What one folder holds; names only, nothing is read."""

    path: str
    name: str
    """relative to where the walk began, with slashes; empty for that place itself"""
    files: dict[str, bool] = field(default_factory=dict)
    """name -> whether it is a link, be it to a folder"""

    def named(self, file: str) -> str:
        return f"{self.name}/{file}" if self.name else file

    @cached_property
    def captions(self) -> dict[str, dict[str, str]]:
        """Caption files: what their names stand beside -> suffix in small letters -> name."""
        found: dict[str, dict[str, str]] = {}
        for name in self.files:
            if (suffix := suffix_of(name)) in captions.SUFFIXES:
                found.setdefault(name[: -len(suffix)], {}).setdefault(suffix, name)
        return found

    @cached_property
    def captioned(self) -> set[str]:
        """What caption files may be called, without their suffix."""
        others = [name for name in self.files if suffix_of(name) not in captions.SUFFIXES]
        return {*others, *(name.rpartition(".")[0] for name in others)}

    def beside(self, name: str) -> list[tuple[str, str]]:
        """Suffix and name of the files that caption `name`, in the order they are asked: `a.txt`, `a.png.txt`."""
        own = (self.captions.get(stem, {}) for stem in (name.rpartition(".")[0], name))
        return [(s, files[s]) for files in own for s in captions.SUFFIXES if s in files]


def walk(root: str | Path, left_out: list[LeftOut]) -> Iterator[Folder]:
    """Every folder below `root`, sorted by name, with its plain files and its links, which are not followed.

    Hidden ones are passed over.
    """
    root = str(root)
    waiting = [Folder(root, "")]
    while waiting:
        folder = waiting.pop()
        inner = []
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    is_folder = entry.is_dir(follow_symlinks=False)
                    is_link = entry.is_symlink() or is_folder and _is_junction(entry)
                    if is_folder and not is_link:
                        inner.append(Folder(entry.path, folder.named(entry.name)))
                    elif is_link or entry.is_file(follow_symlinks=False):
                        folder.files[entry.name] = is_link
        except OSError as error:
            if folder.path == root:
                raise DatasetError(f"{root}: cannot be read ({error.strerror})") from None
            left_out.append(LeftOut(folder.name, f"the folder cannot be read ({error.strerror})"))
        folder.files = dict(sorted(folder.files.items()))
        yield folder
        waiting += sorted(inner, key=lambda found: found.name, reverse=True)


def _is_junction(entry: os.DirEntry) -> bool:
    """Windows' other link to a folder, which counts as a folder; Python 3.12 has a method for it."""
    status = entry.stat(follow_symlinks=False)
    return getattr(status, "st_reparse_tag", 0) == MOUNT_POINT


def reached(path: Path, left_out: list[LeftOut]) -> Iterator[tuple[Folder, list[str]]]:
    """Every folder below `path` with the names of its files; of a file, its folder and that name alone."""
    if path.is_file():
        folder = next(walk(path.parent, left_out))
        folder.files.setdefault(path.name, path.is_symlink())
        yield folder, [path.name]
    else:
        for folder in walk(path, left_out):
            yield folder, [*folder.files]


def root_of(path: Path) -> str:
    """The folder that links must not leave."""
    return os.path.realpath(path.parent if path.is_file() else path)


def files_of(
    path: Path, suffixes: Collection[str], left_out: list[LeftOut]
) -> Iterator[tuple[str, str]]:
    """Path and name of every file of these suffixes below `path`, or of `path` itself."""
    root = root_of(path)
    for folder, names in reached(path, left_out):
        for name in names:
            if suffix_of(name) not in suffixes:
                continue
            try:
                found = confined(folder, name, root)
            except DatasetError as error:
                left_out.append(LeftOut(folder.named(name), str(error)))
                continue
            yield found, folder.named(name)


def read_folder(path: Path, reading: Reading) -> Winners:
    """Pictures below `path`, each with the caption that `reading` asks for."""
    return read_captioned(path, reading, SUFFIXES, PictureFile)


def read_captioned(
    path: Path,
    reading: Reading,
    suffixes: Collection[str],
    stored: Callable[[str, str], StoredPicture],
) -> Winners:
    """Files of these suffixes below `path`, or `path` itself; `stored(path, name)` makes each a picture.

    Folders named `N_words`, as kohya's trainer has them, count N times, and their words caption what has
    nothing better; what lies in its folder `reg` is no winner. Hidden files, links to folders and links that
    leave the folder are not followed.
    """
    winners: list[Winner] = []
    left_out: list[LeftOut] = []
    tables: dict[str, str] = {}
    passed_over: Counter[str] = Counter()
    root = root_of(path)
    for folder, names in reached(path, left_out):
        if outer := regularization(folder.name):
            passed_over[outer] += sum(suffix_of(name) in suffixes for name in names)
            continue
        tables |= table_captions(folder, root, left_out)
        for name in names:
            named = folder.named(name)
            listed = tables.pop(named, None)
            if suffix_of(name) not in suffixes:
                continue
            try:
                picture = stored(confined(folder, name, root), named)
                winners.append(winner_in(folder, name, picture, listed, root, reading))
            except DatasetError as error:
                left_out.append(LeftOut(named, str(error)))
            reading.on_item(len(winners) + len(left_out))
    if not path.is_file():
        left_out += [
            LeftOut(name, "named in a metadata table, but no such file")
            for name in tables
            if not regularization(name)
        ]
    passed = [LeftOut(name, told_passed(count)) for name, count in passed_over.items() if count]
    if not winners:
        left_out += passed
    return Winners(winners, path.name, left_out, [*map(str, passed), *reading.notes()])


def told_passed(count: int) -> str:
    return (
        f"{count} in there are not read, for kohya's trainer keeps regularization images under this name; "
        "rename the folder if these are winners"
    )


def regularization(name: str) -> str:
    """The outermost folder on the way to `name` that holds kohya's regularization images; empty if none does."""
    parts = name.split("/")
    return next(
        ("/".join(parts[:i]) for i, part in enumerate(parts, 1) if REGULARIZATION.fullmatch(part)),
        "",
    )


def winner_in(
    folder: Folder,
    name: str,
    picture: StoredPicture,
    listed: str | None,
    root: str,
    reading: Reading,
) -> Winner:
    """DatasetError gives the reason, without the name, why this picture is not used."""
    if complaint := picture.complaint():
        raise DatasetError(complaint)
    repeats, words = folder_repeats(folder.name.rpartition("/")[2])
    if repeats == 0:
        raise DatasetError("its folder's name asks for 0 repeats")
    written = first_written([caption_beside(folder, name, root, reading), as_written(listed)])
    stem = name.rpartition(".")[0]
    (caption, *more), about = caption_of(written, picture, stem, reading, words)
    return Winner(picture, caption, repeats, about=about, more=tuple(more))


def confined(folder: Folder, name: str, root: str) -> str:
    """The path of a file in `folder`; DatasetError if it is a link that leaves `root` or leads to no file."""
    path = f"{folder.path}{os.sep}{name}"
    if folder.files[name]:
        if not os.path.isfile(path):  # noqa: PTH113
            raise DatasetError("is a link that leads to no file; put the file itself there")
        if not os.path.realpath(path).startswith(root + os.sep):
            raise DatasetError("is a link to a file outside the folder; put the file itself there")
    return path


def caption_beside(folder: Folder, name: str, root: str, reading: Reading) -> Written:
    """What the caption files of `name` say."""

    def read(suffix: str, file: str) -> Written:
        try:
            path = confined(folder, file, root)
        except DatasetError as error:
            raise DatasetError(f"{file} beside it {error}") from None
        try:
            with open(path, "rb") as opened:  # noqa: PTH123 (once for each of 100,000 pictures)
                data = opened.read(captions.MAX_CAPTION_BYTES + 1)
        except OSError as error:
            raise DatasetError(f"its caption file cannot be read ({error.strerror})") from None
        return written_captions(suffix, data, reading)

    return first_written(read(suffix, file) for suffix, file in folder.beside(name))


def folder_repeats(name: str) -> tuple[int, str]:
    """Repeats and words of a folder's name: `10_my cat` -> (10, "my cat"), anything else (1, "")."""
    match = REPEATS.fullmatch(name)
    if not match:
        return 1, ""
    if len(match[1]) > 5 or int(match[1]) > MAX_REPEATS:
        raise DatasetError(f"folder {name!r} asks for more than {MAX_REPEATS} repeats; rename it")
    return int(match[1]), match[2].strip()


def table_captions(folder: Folder, root: str, left_out: list[LeftOut]) -> dict[str, str]:
    """Caption by name, from the walk's beginning, of the folder's tables; what cannot be read is reported."""
    found: dict[str, str] = {}
    for name in captions.TABLES:
        if name in folder.files:
            try:
                rows = table_rows(Path(confined(folder, name, root)))
                for number, (file, caption) in enumerate(rows, 1):
                    if file and caption is not None:
                        found[posixpath.normpath(folder.named(file))] = caption
                    else:
                        left_out.append(LeftOut(f"{folder.named(name)} row {number}", NO_ROW))
            except DatasetError as error:
                left_out.append(LeftOut(folder.named(name), str(error)))
            except OSError as error:
                reason = f"cannot be read ({error.strerror})"
                left_out.append(LeftOut(folder.named(name), reason))
    return found


def suffix_of(name: str) -> str:
    """In small letters, with its dot; empty without one."""
    return name[name.rfind(".") :].lower() if "." in name else ""
