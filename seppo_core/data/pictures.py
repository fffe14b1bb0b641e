"""One picture: where it lies, a name for its content, and its pixels as plain RGB."""

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from ..errors import DatasetError

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
"""Pillow's name -> file suffixes. A file is opened as any of these, whichever suffix it carries."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded; they would take over 300 MB each."""

MIN_SIDE = 8
"""Pixels that one latent value stands for; narrower pictures show nothing that could be encoded."""

ANIMATED = ("PNG", "WEBP", "AVIF")
"""Formats whose files may hold more than one picture of the same scene."""

WHITES = (255, 65535, 2**31 - 1)
FLOAT_WHITES = (1, 255, 65535)
"""What white may be in pictures of 32-bit numbers, which do not say it: their maximum tells."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes it upright"""

DAMAGE = (
    *(ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, zlib.error, MemoryError, RuntimeError),
)
"""What Pillow raises on damaged files besides OSError; each of its formats has its own way."""

END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
END_BYTES = 64


class Picture(Protocol):
    """Anything that becomes one RGB image. `name` is what messages call it."""

    name: str

    def load(self, background: str = "white") -> Image.Image:
        """Pixels as RGB, 8 bit, upright, alpha composed over `background`. DatasetError says what is wrong."""

    def content(self) -> str:
        """A hash over the stored bytes: equal content is encoded once."""


class StoredPicture:
    """A picture whose encoded bytes are read anew whenever they are needed; subclasses say from where."""

    __slots__ = ()
    name: str

    def open(self) -> BinaryIO:
        """The encoded bytes, seekable. OSError or DatasetError if they cannot be had."""
        raise NotImplementedError

    def load(self, background: str = "white") -> Image.Image:
        with self._named(), self.open() as file, open_image(file) as image:
            return as_rgb(image, background)

    def content(self) -> str:
        with self._named(), self.open() as file:
            return hashlib.sha256(file.read()).hexdigest()

    def complaint(self) -> str:
        """Why this is no usable picture; empty if it is one.

        Only the header is read, and the end of the file; what looks cut off there is decoded to be sure,
        for some cameras append data of their own.
        """
        try:
            with reasons(), self.open() as file, open_image(file) as image:
                if not _ends_properly(file, image.format):
                    as_rgb(image)
        except DatasetError as error:
            return str(error)
        return ""

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the block carry this picture's name."""
        try:
            with reasons():
                yield
        except DatasetError as error:
            raise DatasetError(f"{self.name}: {error}") from None


@dataclass(frozen=True, slots=True)
class PictureFile(StoredPicture):
    """A picture in a file of its own."""

    path: str | Path
    name: str

    def open(self) -> BinaryIO:
        return open(self.path, "rb")  # noqa: PTH123 (100,000 paths as str are half the memory)


@dataclass(frozen=True, eq=False)
class PictureTensor:
    """A picture at hand: uint8 [H, W, 3]."""

    pixels: Tensor
    name: str

    def load(self, background: str = "white") -> Image.Image:
        return Image.fromarray(self.pixels.numpy())

    def content(self) -> str:
        header = repr(tuple(self.pixels.shape)).encode()
        return hashlib.sha256(header + self.pixels.numpy().tobytes()).hexdigest()


def picture_from_tensor(image: Tensor, name: str) -> PictureTensor:
    """A picture from ComfyUI's layout: [H, W, C] in 0..1, C = 1, 3 or 4 (alpha is composed over white)."""
    channels = image.shape[-1] if image.ndim == 3 else 0
    if channels not in (1, 3, 4):
        raise DatasetError(
            f"{name}: expected an image [height, width, 1, 3 or 4 channels], got {list(image.shape)}"
        )
    if not torch.isfinite(image).all():
        raise DatasetError(f"{name}: the image holds NaN or infinite values; check what made it")
    pixels = image.detach().to("cpu", torch.float32).clamp(0, 1)
    if channels == 4:
        alpha = pixels[..., 3:]
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    pixels = pixels.expand(-1, -1, 3) if channels == 1 else pixels
    with torch.inference_mode(False):
        return PictureTensor((pixels.clone() * 255).round().to(torch.uint8), name)


@contextmanager
def reasons() -> Iterator[None]:
    """Turn what the system says while a file is read into a DatasetError that gives the reason alone."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror or error})") from None


@cache
def _formats() -> list[str]:
    """Of FORMATS, those that the installed Pillow reads: AVIF came with 11.3."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def open_image(file: BinaryIO) -> Image.Image:
    """The picture with only its header read. DatasetError carries the reason alone, without a name."""
    if not file.read(1):
        raise DatasetError("the file is empty (0 bytes)")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise DatasetError(
            f"not a {', '.join(_formats())} picture, whatever its name says"
        ) from None
    except Image.DecompressionBombError as error:
        raise DatasetError(f"too large to be decoded safely: {error}") from None
    except DAMAGE as error:
        raise DatasetError(f"its header is damaged or over a limit ({error})") from None
    if complaint := size_complaint(image.size):
        raise DatasetError(complaint)
    if image.format in ANIMATED and getattr(image, "is_animated", False):
        raise DatasetError(
            "is an animation; take reader 'clips' for a video model, or save one frame"
        )
    return image


def size_complaint(size: tuple[int, int]) -> str:
    width, height = size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        return f"{width}x{height} pixels are over the limit of {limit} megapixels; make it smaller"
    if min(size) < MIN_SIDE:
        return f"{width}x{height} pixels are too few; each side needs at least {MIN_SIDE}"
    return ""


def _ends_properly(file: BinaryIO, kind: str | None) -> bool:
    """Whether the file's last bytes are those of a whole picture; False means it has to be decoded."""
    if kind not in END_MARKS:
        return kind == "WEBP"  # Pillow opens none that is cut off
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - END_BYTES))
    return END_MARKS[kind] in file.read()


def as_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """Decode to 8-bit RGB: rotated as EXIF asks, alpha over `background`, wider numbers scaled down."""
    try:
        with _cut_off_told():
            image.load()
        upright = _upright(image)
        if image.mode.startswith(("I", "F")):
            return _from_wide(upright, known_16_bit=";16" in image.mode or image.format == "PNG")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            layer = upright.convert("RGBA")
            paper = Image.new("RGBA", layer.size, background)
            return Image.alpha_composite(paper, layer).convert("RGB")
        return upright.convert("RGB")
    except (OSError, *DAMAGE) as error:
        raise DatasetError(f"cannot be decoded, the file is cut off or damaged ({error})") from None


@contextmanager
def _cut_off_told() -> Iterator[None]:
    """Others in a host's process let Pillow fill what is missing with grey, for the whole process."""
    allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = allowed


def _upright(image: Image.Image) -> Image.Image:
    """Pillow's own way writes the EXIF anew, which fails on what some cameras put there."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except (OSError, *DAMAGE):
        turn = None
    return image if turn is None else image.transpose(turn)


def _from_wide(image: Image.Image, known_16_bit: bool) -> Image.Image:
    """Pillow clips 16-bit, 32-bit and float grey at 255; scale it instead, by the least white that fits."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise DatasetError("holds NaN or infinite pixels; save it as 8-bit RGB")
    top = float(values.max())
    whites = (65535,) if known_16_bit else FLOAT_WHITES if image.mode == "F" else WHITES
    white = next((white for white in whites if top <= white), top)
    grey = np.multiply(values, 255 / white, dtype=np.float32)
    np.rint(grey.clip(0, 255, out=grey), out=grey)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
