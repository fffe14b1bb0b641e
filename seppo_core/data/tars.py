"""Winning images from tar archives in WebDataset's layout, read where they lie; nothing is ever extracted.

The files of a sample share their name up to the first dot: `000012.jpg`, `000012.txt`.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..errors import DatasetError
from . import captions, folder
from .captions import Reading, caption_of, first_written, written_captions
from .folder import files_of, suffix_of
from .pictures import StoredPicture
from .winners import NAMED, LeftOut, Winner, Winners, printable

COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")
SUFFIXES = (".tar", *COMPRESSED)

COMPRESSED_MARKS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
DECOMPRESS = (
    "is compressed; a picture inside cannot be reached directly. Decompress it to a .tar first"
)

READ_BYTES = 2**14

MAX_HEADER_BYTES = 2**20
"""A long name with its attributes takes some kB."""


class FilePart(io.RawIOBase):
    """A stretch of a file, as a file of its own."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        left = max(0, self._size - self._at)
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:left])
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("cannot seek before the beginning")
        self._at = start + offset
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()


class Headers:
    """An archive's file as tarfile reads it, which takes a header into memory whatever size it claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


@dataclass(frozen=True, slots=True)
class PictureInTar(StoredPicture):
    """A picture inside an archive that is not compressed."""

    path: str
    """of the archive"""
    name: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        file = open(self.path, "rb", buffering=0)  # noqa: PTH123 (100,000 paths as str are half the memory)
        return io.BufferedReader(FilePart(file, self.offset, self.size), READ_BYTES)


@dataclass(slots=True)
class Sample:
    """The files of one key. An archive may hold several samples of one key."""

    key: str
    endings: set[str] = field(default_factory=set)
    """what follows the key in the names that were seen"""
    picture: PictureInTar | None = None
    written: dict[str, bytes] = field(default_factory=dict)
    """caption file's suffix -> content"""


def read_tars(path: Path, reading: Reading) -> Winners:
    """The first picture of every sample in the archives at `path`, with the sample's caption.

    What came before the place where an archive is cut off or damaged is used. Members with absolute names
    or `..`, links and devices are left out.
    """
    winners: list[Winner] = []
    left_out: list[LeftOut] = []
    others: Counter[str] = Counter()
    for file, name in files_of(path, SUFFIXES, left_out):
        for sample in samples_of(file, name, left_out, others):
            if sample.picture is None:
                continue
            try:
                winners.append(_winner(sample, sample.picture, reading))
            except DatasetError as error:
                left_out.append(LeftOut(sample.picture.name, str(error)))
            reading.on_item(len(winners) + len(left_out))
    notes = reading.notes()
    if others:
        most = ", ".join(f"{count} {kind}" for kind, count in others.most_common(NAMED))
        notes.append(printable(f"in the archives and not read: {most}"))
    if not winners:
        left_out += [LeftOut(path.name, note) for note in notes]
    return Winners(winners, path.name, left_out, notes)


def _winner(sample: Sample, picture: PictureInTar, reading: Reading) -> Winner:
    """DatasetError gives the reason, without the name, why this sample is not used."""
    if complaint := picture.complaint():
        raise DatasetError(complaint)
    written = first_written(
        written_captions(suffix, sample.written[suffix], reading)
        for suffix in captions.SUFFIXES
        if suffix in sample.written
    )
    stem = sample.key.rpartition("/")[2]
    (caption, *more), about = caption_of(written, picture, stem, reading)
    return Winner(picture, caption, about=about, more=tuple(more))


def samples_of(path: str, name: str, left_out: list[LeftOut], others: Counter[str]) -> list[Sample]:
    """The samples of one archive in its order, grouped by key wherever their files stand.

    Files of kinds that are not read are counted in `others`.

    A file that a sample already has begins another sample of the same key. Captions are read, pictures
    only located.
    """
    samples: list[Sample] = []
    latest: dict[str, Sample] = {}
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            for member in members(file, name, left_out):
                key, ending = split_key(member.name)
                kind = suffix_of(ending)
                if kind not in folder.SUFFIXES and kind not in captions.SUFFIXES:
                    others[kind or "without suffix"] += 1
                    continue
                sample = latest.get(key)
                if sample is None or ending in sample.endings:
                    sample = latest[key] = Sample(key)
                    samples.append(sample)
                sample.endings.add(ending)
                _take(sample, kind, member, file, path, name, left_out)
    except OSError as error:
        left_out.append(LeftOut(name, f"cannot be read ({error.strerror or error})"))
    return samples


def _take(
    sample: Sample,
    kind: str,
    member: tarfile.TarInfo,
    file: BinaryIO,
    path: str,
    archive: str,
    left_out: list[LeftOut],
) -> None:
    named = f"{archive}/{member.name}"
    if kind in captions.SUFFIXES:
        if kind not in sample.written:
            file.seek(member.offset_data)
            wanted = min(member.size, captions.MAX_CAPTION_BYTES + 1)
            sample.written[kind] = file.read(wanted)
    elif sample.picture is None:
        sample.picture = PictureInTar(path, named, member.offset_data, member.size)
    else:
        left_out.append(LeftOut(named, "its sample has a picture already; the first one counts"))


def split_key(name: str) -> tuple[str, str]:
    """`a/b.c.png` -> ("a/b", ".c.png"): a sample's key, and what tells its files apart."""
    place, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return place + slash + stem, dot + ending


def members(file: BinaryIO, name: str, left_out: list[LeftOut]) -> Iterator[tarfile.TarInfo]:
    """The archive's plain files with harmless names, each wholly there; the rest is reported.

    The file may be read between two of them.
    """
    if file.read(8).startswith(COMPRESSED_MARKS):
        left_out.append(LeftOut(name, DECOMPRESS))
        return
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        with tarfile.TarFile(fileobj=Headers(file), mode="r") as archive:
            for member in headers(archive):
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is not wholly there")
                if member.isdir():
                    continue
                if complaint := complaint_about(member):
                    left_out.append(LeftOut(f"{name}/{member.name}", complaint))
                elif not member.name.rpartition("/")[2].startswith("."):
                    member.name = member.name.removeprefix("./")
                    yield member
            if file.seek(archive.offset) >= size or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"there is no end mark at byte {archive.offset}")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        reason = f"cut off, damaged or no tar archive ({error}); what came before it is used"
        left_out.append(LeftOut(name, reason))


def headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every header once, none of them kept. ReadError if one leads back."""
    reached = -1
    while member := archive.next():
        if archive.offset <= reached or member.size < 0:
            raise tarfile.ReadError(f"the header of {member.name} leads back")
        reached = archive.offset
        archive.members.clear()
        yield member


def complaint_about(member: tarfile.TarInfo) -> str:
    """Why a member is not read; empty if it may be."""
    if member.name.startswith(("/", "\\")) or member.name[1:2] == ":":
        return "its name is an absolute path"
    if ".." in member.name.replace("\\", "/").split("/"):
        return "its name leads out of the archive with '..'"
    if not member.isreg() or member.issparse():
        return "is a link, a device or a sparse file"
    return ""
