"""One picture: where it lies, a name for its content, and its pixels as plain RGB."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DatasetError

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Pillow's name -> file suffixes. A file is opened as any of these, whichever suffix it carries."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded; they would take over 300 MB each."""

END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
END_BYTES = 64


class Picture(Protocol):
    """Anything that becomes one RGB image. `name` is what messages call it."""

    name: str

    def load(self) -> Image.Image:
        """Pixels as RGB, 8 bit, upright, alpha composed over white. DatasetError says what is wrong."""

    def content(self) -> str:
        """A hash over the stored bytes: equal content is encoded once."""


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk, read anew at every `load`."""

    path: Path
    name: str

    def load(self) -> Image.Image:
        try:
            with _open(self.path) as image:
                return as_rgb(image)
        except DatasetError as error:
            raise DatasetError(f"{self.name}: {error}") from None

    def content(self) -> str:
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DatasetError(f"{self.name}: cannot be read ({error.strerror})") from None

    def complaint(self) -> str:
        """Why this file is no usable picture; empty if it is one.

        Only the header is read, and the end of the file; what looks cut off there is decoded to be sure,
        for some cameras append data of their own.
        """
        try:
            with _open(self.path) as image:
                if not _ends_properly(self.path, image.format):
                    as_rgb(image)
        except DatasetError as error:
            return str(error)
        return ""


@dataclass(frozen=True, eq=False)
class PictureTensor:
    """A picture at hand: uint8 [H, W, 3]."""

    pixels: Tensor
    name: str

    def load(self) -> Image.Image:
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


def _open(path: Path) -> Image.Image:
    """The picture with only its header read. DatasetError carries the reason alone, without a name."""
    try:
        if path.stat().st_size == 0:
            raise DatasetError("the file is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=list(FORMATS))
    except UnidentifiedImageError:
        raise DatasetError(f"not a {', '.join(FORMATS)} picture, whatever its name says") from None
    except Image.DecompressionBombError as error:
        raise DatasetError(f"too large to be decoded safely: {error}") from None
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror or error})") from None
    except (ValueError, SyntaxError) as error:
        raise DatasetError(f"its header is damaged ({error})") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DatasetError(
            f"{image.width}x{image.height} pixels are over the limit of {MAX_PIXELS // 10**6} "
            "megapixels; make it smaller"
        )
    return image


def _ends_properly(path: Path, kind: str | None) -> bool:
    """Whether the file's last bytes are those of a whole picture; False means it has to be decoded."""
    if kind == "WEBP":
        with path.open("rb") as file:
            declared = int.from_bytes(file.read(8)[4:], "little") + 8
        return path.stat().st_size >= declared
    if kind not in END_MARKS:
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return END_MARKS[kind] in file.read()


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode to 8-bit RGB: rotated as EXIF asks, alpha over white, 16 bit scaled down."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            return _from_16_bit(image)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(
                "RGB"
            )
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise DatasetError(f"cannot be decoded, the file is cut off or damaged ({error})") from None


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Pillow clips 16-bit grey at 255; scale it instead."""
    values = np.asarray(image, dtype=np.float64) / 257
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
