"""Where winning images are read from: one reader per layout of files, in one table."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError, DatasetError
from .pictures import FORMATS, PictureFile
from .winners import LeftOut, Winner, Winners

SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
MAX_REPEATS = 10_000


def read_folder(path: Path, caption: str) -> Winners:
    """Pictures below `path`, each captioned by the `.txt` beside it.

    Folders named `N_words`, as kohya's trainer has them, count N times, and their words caption what has no
    `.txt`; `caption` does so for the rest. Hidden files and links that leave the folder are not followed.
    """
    winners: list[Winner] = []
    left_out: list[LeftOut] = []
    missing: list[str] = []
    for file in picture_files(path):
        name = file.relative_to(path).as_posix()
        picture = PictureFile(file, name)
        repeats, words = folder_repeats(file.parent.name if file.parent != path else "")
        try:
            complaint = _outside(file, path) or picture.complaint()
            text = caption_beside(file) or words or caption.strip()
        except DatasetError as error:
            complaint, text = str(error), ""
        if complaint or repeats == 0:
            left_out.append(LeftOut(name, complaint or "its folder's name asks for 0 repeats"))
        elif not text:
            missing.append(name)
        else:
            winners.append(Winner(picture, text, repeats))
    if missing:
        raise DatasetError(
            f"{path.name}: {len(missing)} of {len(missing) + len(winners)} images have no caption "
            f"(first: {missing[0]}). Put a .txt of the same name beside each, or give one caption for all"
        )
    return Winners(winners, path.name, left_out)


def picture_files(path: Path) -> Iterator[Path]:
    """Every file below `path` that is named like a picture, in the order of their names."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(folder, name)


def folder_repeats(name: str) -> tuple[int, str]:
    """Repeats and words of a folder's name: `10_my cat` -> (10, "my cat"), anything else (1, "")."""
    match = REPEATS.fullmatch(name)
    if not match:
        return 1, ""
    if len(match[1]) > 5 or int(match[1]) > MAX_REPEATS:
        raise DatasetError(f"folder {name!r} asks for more than {MAX_REPEATS} repeats; rename it")
    return int(match[1]), match[2].strip()


def caption_beside(picture: Path) -> str:
    """The text of the `.txt` beside a picture; empty without one. UTF-8, or UTF-16 with its mark."""
    try:
        data = picture.with_suffix(".txt").read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise DatasetError(f"its caption file cannot be read ({error.strerror})") from None
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding).strip()
    except UnicodeDecodeError:
        raise DatasetError("its caption file is not UTF-8 text; save it as UTF-8") from None


def _outside(file: Path, folder: Path) -> str:
    for path in (file, file.with_suffix(".txt")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            return f"{path.name} is a link to a file outside the folder"
    return ""


READERS: dict[str, Callable[[Path, str], Winners]] = {"folder": read_folder}


def read_winners(path: Path, *, reader: str = "folder", caption: str = "") -> Winners:
    """The winning images at `path`; `caption` is for pictures that have none of their own.

    DatasetError if nothing is there, nothing can be used, or a caption is missing.
    """
    try:
        read = READERS[reader]
    except KeyError:
        raise ConfigError(f"unknown reader {reader!r}; choose from {sorted(READERS)}") from None
    path = Path(path)
    if not path.is_dir():
        raise DatasetError(f"{path}: there is no such folder; create it and put winning images in")
    return read(path, caption)


def listing(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of every picture and caption below `path`: what a reader depends on."""
    rows = []
    for folder, _, files in os.walk(path):
        for name in files:
            if Path(name).suffix.lower() in {*SUFFIXES, ".txt"}:
                file = Path(folder, name)
                status = file.stat() if file.exists() else file.lstat()
                rows.append((file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(rows)
