"""What the outer structure of a clip's file tells, without decoding: whether it is whole, and its frames' times.

The libraries do not tell these. PyAV gives fewer frames of an MP4, MOV, WebM or MKV that is cut off, and no error
unless its index is missing. Pillow counts fewer frames in a GIF that is cut off, and it decodes a frame before it tells
how long that is shown.

Every function raises DatasetError with the reason alone where the file ends too early.
"""

import io
from typing import BinaryIO

from ..errors import DatasetError

SHORTEST_DELAY, USUAL_DELAY = 20, 100
"""Milliseconds. Browsers show frames that ask for less than the first for the second."""

MAX_BOXES = 10_000


def cut_off_mov(file: BinaryIO) -> None:
    """An MP4 or MOV is cut off where its index or its media data reach beyond its end."""
    end = file.seek(0, io.SEEK_END)
    place = 0
    for _ in range(MAX_BOXES):
        file.seek(place)
        header = file.read(16)
        if len(header) < 8:
            break
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8:  # 0 means: up to the end; anything else is no box
            break
        place += size
        if place > end and header[4:8] in (b"mdat", b"moov"):
            raise _cut_off(place - end)
    file.seek(0)


def cut_off_matroska(file: BinaryIO) -> None:
    """A WebM or MKV is cut off where its one segment reaches beyond its end; a live one has no stated end."""
    end = file.seek(0, io.SEEK_END)
    file.seek(4)
    place = _element_size(file) + file.tell()
    file.seek(place)
    if file.read(4) == b"\x18\x53\x80\x67":
        missing = _element_size(file) + file.tell() - end
        if missing > 0:
            raise _cut_off(missing)
    file.seek(0)


def _element_size(file: BinaryIO) -> int:
    """The variable-length number there; 0 where it says that the size is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return 0
    length = 9 - first[0].bit_length()
    bits = 7 * length
    value = int.from_bytes(first + file.read(length - 1), "big") & (1 << bits) - 1
    return 0 if value == (1 << bits) - 1 else value


def webp_delays(file: BinaryIO, most: int) -> list[int]:
    """How long each frame is shown, in ms; empty for a still picture. At most `most` frames are looked at."""
    file.seek(12)
    delays: list[int] = []
    while len(delays) < most:
        header = file.read(8)
        if len(header) < 8:
            break
        size = int.from_bytes(header[4:], "little")
        following = file.tell() + size + size % 2
        if header[:4] == b"ANMF":
            delays.append(_delay(int.from_bytes(file.read(15)[12:], "little")))
        file.seek(following)
    return delays


def gif_delays(file: BinaryIO, most: int) -> list[int]:
    """How long each frame is shown, in ms. At most `most` frames are looked at."""
    file.seek(10)
    flags = _byte(file)
    file.seek(2, io.SEEK_CUR)
    _skip_palette(file, flags)
    delays: list[int] = []
    delay = 0
    while len(delays) < most:
        kind = _byte(file)
        if kind == 0x3B:
            break
        if kind == 0x21 and _byte(file) == 0xF9:
            control = file.read(5)
            delay = int.from_bytes(control[2:4], "little") * 10
        elif kind == 0x2C:
            file.seek(8, io.SEEK_CUR)
            _skip_palette(file, _byte(file))
            file.seek(1, io.SEEK_CUR)
            delays.append(_delay(delay))
        elif kind != 0x21:
            raise DatasetError("cannot be decoded, the clip is damaged")
        while length := _byte(file):
            file.seek(length, io.SEEK_CUR)
    return delays


def _skip_palette(file: BinaryIO, flags: int) -> None:
    """Past the table of colours that follows flags which say how large it is, or that there is none."""
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, io.SEEK_CUR)


def _byte(file: BinaryIO) -> int:
    data = file.read(1)
    if not data:
        raise DatasetError("cannot be decoded, the clip is cut off")
    return data[0]


def _delay(stated: int) -> int:
    return stated if stated >= SHORTEST_DELAY else USUAL_DELAY


def _cut_off(missing: int) -> DatasetError:
    return DatasetError(f"the clip is cut off, {missing} bytes are missing")
