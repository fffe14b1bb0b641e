"""Small copies of pictures to look at, made once and kept on disk."""

import hashlib
import os
from pathlib import Path

from ..data.pictures import PictureFile
from ..errors import ConfigError
from ..files import atomic

SIDES = (256, 1024)
"""Longest sides in pixels: for a grid, and to judge by."""
QUALITY = 80
MAX_KEPT = 40_000


def thumbnail_name(path: Path, side: int) -> str:
    """A name that changes with the file, its time, its size and `side`; ConfigError for other sides."""
    if side not in SIDES:
        raise ConfigError(f"thumbnails have sides of {' or '.join(map(str, SIDES))}, not {side}")
    status = path.stat()
    key = (os.path.realpath(path), status.st_mtime_ns, status.st_size, side)
    return hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()


def thumbnail(path: Path, side: int, folder: Path) -> Path:
    """The WebP file of a small copy in `folder`; it is made if it is not there.

    DatasetError gives the reason, with the file's name, why the picture cannot be shown.
    """
    name = thumbnail_name(path, side)
    kept = folder / name[:2] / f"{name}.webp"
    if not kept.exists():
        image = PictureFile(path, path.name).load()
        image.thumbnail((side, side))
        with atomic(kept) as temporary:
            image.save(temporary, "WEBP", quality=QUALITY)
    return kept


def tidy(folder: Path, limit: int = MAX_KEPT) -> int:
    """Remove the oldest small copies beyond `limit`; how many these were."""
    kept = sorted(folder.glob("*/*.webp"), key=lambda path: path.stat().st_mtime_ns)
    gone = kept[: max(0, len(kept) - limit)]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
