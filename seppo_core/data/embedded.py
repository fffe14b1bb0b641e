"""The texts that programs store in a picture or a clip, found without decoding a pixel.

PyAV reads a clip's tags, and Pillow the EXIF of every format but PNG. PNG's chunks are walked here, because Pillow
tells a text behind the pixels only once it has decoded them, all frames of an animated PNG, where ComfyUI puts them.
"""

import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from PIL import Image

from .generation import NoPromptError
from .pictures import DAMAGE

MAX_TEXT = 16_000_000
"""Bytes of text, unpacked, that are read from one file."""

MAX_CHUNKS = 200_000
"""Of one file; a walk over more takes seconds and finds nothing that a program wrote."""

PNG = b"\x89PNG\r\n\x1a\n"
MATROSKA = b"\x1aE\xdf\xa3"
USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
PREFIXED = re.compile(r"\s*(prompt|workflow)\s*:\s*", re.IGNORECASE)
"""ComfyUI's mark before the JSON that it puts into EXIF tags."""

Found = Iterator[tuple[str, bytes | str]]
"""Key and text; bytes are UTF-8 or Latin-1."""


class TextTooLongError(Exception):
    """One text is over the limit; its message is the key."""


def embedded_texts(file: BinaryIO) -> dict[str, str]:
    """Every text in the file by its key; empty if there is none, or the file is of an unknown kind.

    The kind is told by the first bytes. Texts before any damage count. NoPromptError if the only texts
    there are over MAX_TEXT.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    texts: dict[str, str] = {}
    too_long: list[str] = []
    left = MAX_TEXT
    for key, value in _found(file, head, too_long):
        left -= len(value)
        if left < 0:
            too_long.append(key)
            break
        texts.setdefault(key, value if isinstance(value, str) else _decoded(value))
    if too_long and not texts:
        raise NoPromptError(
            f"its text {too_long[0][:40]!r} is over {MAX_TEXT // 10**6} MB; is it the right file?"
        )
    return texts


def _found(file: BinaryIO, head: bytes, too_long: list[str]) -> Found:
    read = next((read for fits, read in KINDS if fits(head)), None)
    if read is None:
        return
    try:
        yield from read(file, too_long)
    except (OSError, *DAMAGE, Image.DecompressionBombError):
        return


def _decoded(data: bytes) -> str:
    """Some programs write UTF-8 where the format asks for Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _png(file: BinaryIO, too_long: list[str]) -> Found:
    """Text chunks wherever they stand; checksums are not looked at."""
    file.seek(len(PNG))
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8 or header[4:] == b"IEND":
            return
        length = int.from_bytes(header[:4], "big")
        unpack = PNG_TEXTS.get(header[4:])
        if unpack is None:
            file.seek(length + 4, io.SEEK_CUR)
        elif length > MAX_TEXT:
            too_long.append(_decoded(file.read(80).partition(b"\0")[0]))
            file.seek(length - 80 + 4, io.SEEK_CUR)
        else:
            data = file.read(length + 4)[:length]
            try:
                yield from unpack(data)
            except TextTooLongError as error:
                too_long.append(str(error))
            except zlib.error:
                continue


def _plain_chunk(data: bytes) -> Found:
    key, _, text = data.partition(b"\0")
    yield _decoded(key), text


def _packed_chunk(data: bytes) -> Found:
    key, _, packed = data.partition(b"\0")
    yield _decoded(key), _inflated(_decoded(key), packed[1:])


def _international_chunk(data: bytes) -> Found:
    key, _, rest = data.partition(b"\0")
    text = rest[2:].split(b"\0", 2)[-1]
    yield _decoded(key), _inflated(_decoded(key), text) if rest[:1] == b"\1" else text


def _inflated(key: str, packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(packed, MAX_TEXT)
    if stream.unconsumed_tail:
        raise TextTooLongError(key)
    return data


def _exif_chunk(data: bytes) -> Found:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = Image.Exif()
        exif.load(data)
        texts = [*_exif_texts(exif)]
    yield from texts


def _exif_texts(exif: Image.Exif) -> Found:
    tags: list[tuple[int, Any]] = [*exif.items()]
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT) or exif.get(USER_COMMENT)
    for tag, value in tags:
        if isinstance(value, bytes):
            value = _decoded(value).rstrip("\0")
        if isinstance(value, str) and tag != USER_COMMENT:
            marked = PREFIXED.match(value)
            key = marked[1].lower() if marked else EXIF_NAMES.get(tag, f"0x{tag:04x}")
            yield key, value[marked.end() :] if marked else value
    if comment:
        text = _user_comment(comment) if isinstance(comment, bytes) else str(comment)
        marked = PREFIXED.match(text)
        yield marked[1].lower() if marked else "UserComment", text[marked.end() if marked else 0 :]


EXIF_NAMES = {0x010E: "ImageDescription", 0x0131: "Software", 0x9C9C: "XPComment"}


def _user_comment(data: bytes) -> str:
    """EXIF's UserComment: eight bytes name the encoding; UTF-16 comes in either byte order."""
    mark, text = data[:8], data[8:]
    if mark.startswith(b"UNICODE"):
        big = text[0:200:2].count(0) >= text[1:200:2].count(0)
        return text.decode("utf-16-be" if big else "utf-16-le", "replace").strip("\0\ufeff")
    if mark.startswith(b"JIS"):
        return text.decode("iso2022_jp", "replace").strip("\0")
    known = mark.startswith(b"ASCII") or not mark.strip(b"\0")
    return _decoded(text if known else data).strip("\0")


def _through_pillow(file: BinaryIO, too_long: list[str]) -> Found:
    """EXIF, and a JPEG's comment. Pillow reads the headers alone; of a WebP the whole file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=["JPEG", "WEBP", "TIFF", "AVIF"]) as image:
            texts = [*_exif_texts(image.getexif())]
            comment = image.info.get("comment")
    yield from texts
    if comment:
        yield "Comment", comment


def _container(file: BinaryIO, too_long: list[str]) -> Found:
    """Tags of a video's container and its streams."""
    try:
        import av
    except ImportError:
        raise NoPromptError("a video's tags are read with PyAV: pip install av") from None
    kind = "matroska" if file.read(4) == MATROSKA else "mov"
    file.seek(0)
    older = int(av.__version__.partition(".")[0]) < 19  # from then on the argument is gone
    try:
        with av.open(
            file, format=kind, **({"metadata_errors": "replace"} if older else {})
        ) as container:
            tags = [
                pair for part in (container, *container.streams) for pair in part.metadata.items()
            ]
    except av.error.FFmpegError:  # not all of its kinds are among DAMAGE
        return
    yield from ((str(key), str(value)) for key, value in tags)


PNG_TEXTS: dict[bytes, Callable[[bytes], Found]] = {
    b"tEXt": _plain_chunk,
    b"comf": _plain_chunk,  # ComfyUI's animated PNG
    b"zTXt": _packed_chunk,
    b"iTXt": _international_chunk,
    b"eXIf": _exif_chunk,
}

KINDS: list[tuple[Callable[[bytes], bool], Callable[[BinaryIO, list[str]], Found]]] = [
    (lambda head: head.startswith(PNG), _png),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _through_pillow),
    (lambda head: head.startswith(b"\xff\xd8"), _through_pillow),
    (lambda head: head[:4] in (b"II*\0", b"MM\0*"), _through_pillow),
    (lambda head: head[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1"), _through_pillow),
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"), _container),
    (lambda head: head.startswith(MATROSKA), _container),
]
"""Whether the first 16 bytes fit, and what reads such a file. The first that fits is taken."""
