"""Short videos as winners: MP4, MOV, WebM and MKV through PyAV; animated WebP and GIF through Pillow.

Whatever the rate at which a file was recorded, frames are chosen by the time at which they are shown.
"""

import hashlib
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from ..errors import DatasetError, MissingPackageError
from .captions import Reading
from .containers import cut_off_matroska, cut_off_mov, gif_delays, webp_delays
from .folder import read_captioned
from .pictures import DAMAGE, MAX_PIXELS, StoredPicture, as_rgb, reasons, size_complaint
from .prepare import ClipSelection
from .winners import Winners

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".gif", ".webp")

MAX_DECODED = 20_000
"""Frames that are decoded for one selection, those from the last keyframe before it included."""

MAX_CLIP_PIXELS = 1_000_000_000
"""Of all frames of a selection together: 3 GB."""

FRAMES_STEP = 4
"""Video VAEs take 4n + 1 frames; a clip that lacks frames is cut to such a count."""

HASHED_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ClipFile(StoredPicture):
    """A clip in a file of its own. Where one picture has to stand for it, its middle frame does."""

    path: str | Path
    name: str

    def open(self) -> BinaryIO:
        return open(self.path, "rb")  # noqa: PTH123

    def load(self, background: str = "white") -> Image.Image:
        return self.frames(ClipSelection(count=1), background)[0]

    def content(self) -> str:
        digest = hashlib.sha256()
        with self._named(), self.open() as file:
            while data := file.read(HASHED_BYTES):
                digest.update(data)
        return digest.hexdigest()

    def complaint(self) -> str:
        """Why this is no usable clip; empty if it is one. Its first frame is decoded."""
        try:
            with reasons(), self.open() as file, footage(file) as shown:
                next(shown.frames(shown.first))
        except StopIteration:
            return "there is no frame in it"
        except DatasetError as error:
            return str(error)
        return ""

    def frames(self, selection: ClipSelection, background: str = "white") -> list[Image.Image]:
        """The selected frames from the clip's middle, as upright RGB of one size.

        A clip that lacks frames gives the largest count 4n + 1 that it has. DatasetError if it cannot be
        decoded.
        """
        with self._named(), self.open() as file, footage(file) as shown:
            return selected(shown, selection, background)


def read_clips(path: Path, reading: Reading) -> Winners:
    """Clips below `path`, or `path` itself, with captions as pictures in a folder have them.

    MissingPackageError without PyAV, if there is any but animated WebP and GIF.
    """
    return read_captioned(path, reading, SUFFIXES, ClipFile)


@dataclass(frozen=True)
class Footage:
    """What an open file shows. Times are in seconds."""

    first: Fraction
    """of the first frame"""
    length: Fraction
    """0 if the file does not say"""
    interval: Fraction
    """between frames, as recorded"""
    frames: Callable[[Fraction], Iterator[tuple[Fraction, Any]]]
    """Time and content of the frames from a time on, or from somewhat earlier, in order."""
    rgb: Callable[[Any, str], Image.Image]
    """Content of a frame over a background."""


def selected(shown: Footage, selection: ClipSelection, background: str) -> list[Image.Image]:
    recorded = shown.interval
    step = selection.stride * (1 / Fraction(selection.fps) if selection.fps else recorded)
    spare = shown.length - (selection.count - 1) * step - recorded
    start = shown.first + max(0, spare / 2 // recorded) * recorded
    images = _at_moments(shown, start, step, selection.count, background)
    if len(images) < selection.count and start > shown.first:
        # The file says that it is longer than it is.
        images = _at_moments(shown, shown.first, step, selection.count, background)
    if not images:
        raise DatasetError("there is no frame in it")
    if len(images) < selection.count:
        del images[(len(images) - 1) // FRAMES_STEP * FRAMES_STEP + 1 :]
    return images


def _at_moments(
    shown: Footage, start: Fraction, step: Fraction, count: int, background: str
) -> list[Image.Image]:
    """The frames that are seen at `start`, `start + step`, ...; fewer than `count` where the clip ends.

    Containers round times, so a frame that begins up to half an interval later counts as seen.
    """
    images: list[Image.Image] = []
    late = shown.interval / 2
    seen: tuple[Fraction, Any] | None = None
    for number, (time, frame) in enumerate(shown.frames(start)):
        while seen and len(images) < count and start + len(images) * step + late < time:
            _add(images, shown.rgb(seen[1], background), count)
        if len(images) == count:
            return images
        if number >= MAX_DECODED:
            raise DatasetError(
                f"over {MAX_DECODED} frames would have to be decoded; cut the clip, or encode it anew with "
                "more keyframes"
            )
        seen = time, frame
    while seen and len(images) < count and start + len(images) * step <= seen[0] + late:
        _add(images, shown.rgb(seen[1], background), count)
    return images


def _add(images: list[Image.Image], image: Image.Image, count: int) -> None:
    width, height = image.size
    if complaint := size_complaint(image.size):
        raise DatasetError(complaint)
    if count * width * height > MAX_CLIP_PIXELS:
        raise DatasetError(
            f"{count} frames of {width}x{height} pixels are over the limit of "
            f"{MAX_CLIP_PIXELS // 10**6} megapixels; take fewer frames or make them smaller"
        )
    if images and images[0].size != image.size:
        raise DatasetError("its frames change size; encode it anew")
    images.append(image)


@contextmanager
def footage(file: BinaryIO) -> Iterator[Footage]:
    """What the file shows, by its first bytes, whichever suffix it carries. DatasetError gives the reason."""
    head = file.read(16)
    file.seek(0)
    if not head:
        raise DatasetError("the file is empty (0 bytes)")
    opener = next((opener for fits, opener in KINDS if fits(head)), None)
    if opener is None:
        raise DatasetError("not an MP4, MOV, WebM, MKV, GIF or WebP clip, whatever its name says")
    with opener(file) as shown:
        yield shown


@contextmanager
def _container(file: BinaryIO, kind: str, check: Callable[[BinaryIO], None]) -> Iterator[Footage]:
    """The kind is given so that no demuxer is tried that opens other files, as playlists do."""
    check(file)
    try:
        import av
    except ImportError:
        raise MissingPackageError(
            "reading video clips needs PyAV: pip install av (or 'seppo[video]')"
        ) from None
    # From 19 on, tags that are not UTF-8 do no harm, and the argument is gone.
    older = int(av.__version__.partition(".")[0]) < 19
    try:
        with av.open(
            file, format=kind, **({"metadata_errors": "replace"} if older else {})
        ) as container:
            yield _video(container)
    except (av.error.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise DatasetError(
            f"cannot be decoded, the clip is cut off, damaged or of an unknown codec ({error})"
        ) from None


def _video(container: "InputContainer") -> Footage:
    if not container.streams.video:
        raise DatasetError("there is no video in it")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise DatasetError("its codec is unknown to PyAV; encode it anew, for example as H.264")
    if complaint := size_complaint((stream.codec_context.width, stream.codec_context.height)):
        raise DatasetError(complaint)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    tick = _fraction(stream.time_base)
    first = (stream.start_time or 0) * tick
    interval = 1 / _fraction(stream.average_rate or stream.guessed_rate or Fraction(25))
    if stream.duration:
        length = stream.duration * tick
    elif stream.frames:
        length = stream.frames * interval
    else:
        length = Fraction(container.duration or 0, 1_000_000)

    def decoded(start: Fraction) -> Iterator[tuple[Fraction, "VideoFrame"]]:
        """From the last keyframe at or before `start`; from the first, where none is found there."""
        for place in (start, first):
            container.seek(int(place / tick), stream=stream)
            timed = ((f.pts * tick, f) for f in container.decode(stream) if f.pts is not None)
            head = next(timed, None)
            if head and (head[0] <= start + interval / 2 or place == first):
                yield head
                yield from timed
                return

    return Footage(first, length, interval, decoded, _upright)


def _fraction(rational: Any) -> Fraction:
    """PyAV has types of its own for these in newer versions."""
    return Fraction(rational.numerator, rational.denominator)


TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
"""Counterclockwise, as both PyAV and Pillow count."""


def _upright(frame: "VideoFrame", background: str) -> Image.Image:
    if any(component.is_alpha for component in frame.format.components):
        image = as_rgb(Image.fromarray(frame.to_ndarray(format="rgba")), background)
    else:
        image = frame.to_image()
    turn = TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


@contextmanager
def _animation(file: BinaryIO, walk: Callable[[BinaryIO, int], list[int]]) -> Iterator[Footage]:
    """`walk` tells the frames' durations in ms. Pillow comes first: it opens no WebP that is cut off."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=["GIF", "WEBP"])
        if complaint := size_complaint(image.size):
            raise DatasetError(complaint)
        with image:
            delays = walk(file, MAX_DECODED)
            if len(delays) < 2:
                raise DatasetError(
                    "is a single picture, not a clip; take reader 'folder' for pictures"
                )
            usual = Fraction(statistics.median_low(delays), 1000)
            times = [Fraction(sum(delays[:number]), 1000) for number in range(len(delays))]
            yield Footage(
                Fraction(0), times[-1] + usual, usual, lambda start: _pages(image, times), as_rgb
            )
    except Image.DecompressionBombError as error:
        raise DatasetError(f"too large to be decoded safely: {error}") from None
    except (OSError, *DAMAGE) as error:
        raise DatasetError(f"cannot be decoded, the clip is cut off or damaged ({error})") from None


def _pages(image: Image.Image, times: list[Fraction]) -> Iterator[tuple[Fraction, Image.Image]]:
    """Each is drawn over the one before it, so all are decoded from the first on."""
    for number, time in enumerate(times):
        image.seek(number)
        yield time, image.copy()


KINDS: list[
    tuple[Callable[[bytes], bool], Callable[[BinaryIO], AbstractContextManager[Footage]]]
] = [
    (
        lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"),
        partial(_container, kind="mov", check=cut_off_mov),
    ),
    (
        lambda head: head.startswith(b"\x1aE\xdf\xa3"),
        partial(_container, kind="matroska", check=cut_off_matroska),
    ),
    (lambda head: head.startswith((b"GIF87a", b"GIF89a")), partial(_animation, walk=gif_delays)),
    (
        lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
        partial(_animation, walk=webp_delays),
    ),
]
"""Whether the first 16 bytes fit, and what opens such a file."""
