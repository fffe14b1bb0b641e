"""Small copies of pictures to look at, made once and kept on disk."""

import hashlib
import io
import os
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from ..data.pictures import PictureFile
from ..errors import ConfigError
from ..files import atomic, unless_refused

SIDES = {256: 80, 1024: 92}
"""Longest sides in pixels, for a grid and to judge by -> quality of the WebP files."""
MAX_BYTES = 2_000_000_000
"""that are kept"""


def thumbnail_name(path: Path, side: int) -> str:
    """A name that changes with the file, its time, its size and `side`; ConfigError for other sides."""
    if side not in SIDES:
        raise ConfigError(f"thumbnails have sides of {' or '.join(map(str, SIDES))}, not {side}")
    status = path.stat()
    key = (os.path.realpath(path), status.st_mtime_ns, status.st_size, side)
    return hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()


def thumbnail(path: Path, side: int, folder: Path) -> bytes:
    """A small copy as WebP, kept in `folder`; it is made if it is not there.

    DatasetError gives the reason, with the file's name, why the picture cannot be shown.
    """
    name = thumbnail_name(path, side)
    kept = folder / name[:2] / f"{name}.webp"
    with suppress(OSError):
        return kept.read_bytes()
    image = PictureFile(path, path.name).load()
    image.thumbnail((side, side))
    made = io.BytesIO()
    image.save(made, "WEBP", quality=SIDES[side])
    with unless_refused(kept), atomic(kept) as temporary:
        temporary.write_bytes(made.getbuffer())
    return made.getvalue()


def tidy(folder: Path, limit: int = MAX_BYTES) -> int:
    """Remove the oldest small copies so that the others have `limit` bytes at most; how many these were."""
    kept = sorted(
        ((path, path.stat()) for path in folder.glob("*/*.webp")),
        key=lambda item: item[1].st_mtime_ns,
        reverse=True,
    )
    sizes = accumulate(status.st_size for _, status in kept)
    gone = [path for (path, _), total in zip(kept, sizes, strict=True) if total > limit]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
