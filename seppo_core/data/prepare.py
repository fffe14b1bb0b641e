"""From a picture or clip of any size to the tensor a VAE encodes."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from ..errors import ConfigError, DatasetError
from ..settings import Section, setting
from .pictures import Picture

Size = tuple[int, int]
"""width, height in pixels"""

MAX_ASPECT = 4
"""Under "keep aspect", longer or taller pictures are cropped to this ratio of their sides."""

ASPECTS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1), (3, 1))
"""Proportions of "buckets", each lying and standing."""

COMMON_STEP = 64
"""Pixels whose multiples suit every model known: the VAE's factor times the network's own step."""

NAMED = 8
"""sizes that a report names"""

FILTER = Image.Resampling.LANCZOS


def keep_aspect(source: Size, resolution: int, multiple: int) -> Size:
    """About resolution^2 pixels in the picture's own proportions; a smaller picture is not enlarged."""
    width = min(source[0], source[1] * MAX_ASPECT)
    height = min(source[1], source[0] * MAX_ASPECT)
    stretch = math.sqrt(width / height)
    columns = min(round(resolution * stretch / multiple), width // multiple)
    rows = min(round(resolution / stretch / multiple), height // multiple)
    return max(1, columns) * multiple, max(1, rows) * multiple


def square(source: Size, resolution: int, multiple: int) -> Size:
    """A square of `resolution`, to the nearest multiple; a smaller picture is enlarged."""
    return of_aspect(1, 1, resolution, multiple)


def bucket(source: Size, resolution: int, multiple: int) -> Size:
    """The nearest, by the ratio of its sides, of a few sizes; a smaller picture is enlarged."""
    lying = [of_aspect(*aspect, resolution, multiple) for aspect in ASPECTS]
    wanted = math.log(source[0] / source[1])
    sizes = [*lying, *((height, width) for width, height in lying)]
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))


def of_aspect(across: int, down: int, resolution: int, multiple: int) -> Size:
    """About resolution^2 pixels in these proportions, to the nearest multiples."""
    stretch = math.sqrt(across / down)
    columns, rows = resolution * stretch / multiple, resolution / stretch / multiple
    return max(1, round(columns)) * multiple, max(1, round(rows)) * multiple


MODES: dict[str, Callable[[Size, int, int], Size]] = {
    "keep aspect": keep_aspect,
    "buckets": bucket,
    "square": square,
}


def crop(image: Image.Image, size: Size, background: str) -> Image.Image:
    """What sticks out is cut evenly from both sides."""
    return _cropped(image, size, 0.5)


def crop_top(image: Image.Image, size: Size, background: str) -> Image.Image:
    """What sticks out is cut from the bottom, or evenly from left and right."""
    return _cropped(image, size, 0.0)


def pad(image: Image.Image, size: Size, background: str) -> Image.Image:
    """The whole picture in the middle of the background."""
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    paper = Image.new("RGB", size, background)
    paper.paste(image.resize(inner, FILTER), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return paper


def stretch(image: Image.Image, size: Size, background: str) -> Image.Image:
    """The whole picture, out of its proportions."""
    return image.resize(size, FILTER)


def _cropped(image: Image.Image, size: Size, above: float) -> Image.Image:
    """The largest part of these proportions; `above` is the share of the cut that falls on the top."""
    scale = min(image.width / size[0], image.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = (image.width - width) / 2, (image.height - height) * above
    return image.resize(size, FILTER, box=(left, top, left + width, top + height))


FITS: dict[str, Callable[[Image.Image, Size, str], Image.Image]] = {
    "crop": crop,
    "crop top": crop_top,
    "pad": pad,
    "stretch": stretch,
}


@dataclass(frozen=True)
class ClipSelection(Section, section="clip"):
    """Which frames of a clip are taken."""

    count: int = setting(
        33,
        "Only for clips: how many frames of each, from its middle. Video models take 4n + 1.",
        least=1,
        most_shown=1024,
        widget="frames",
        optional=True,
        advanced=True,
    )
    stride: int = setting(
        1,
        "Only for clips: take every n-th frame.",
        least=1,
        most_shown=64,
        optional=True,
        advanced=True,
    )
    fps: float = setting(
        0.0,
        "Only for clips: frames a second to which they are brought first; 0 takes them "
        "as recorded. Wan was made with 16.",
        least=0,
        below=math.inf,
        most_shown=240.0,
        optional=True,
        advanced=True,
    )


class Clip(Protocol):
    """Anything that shows a scene over time."""

    name: str

    def frames(self, selection: ClipSelection, background: str) -> list[Image.Image]:
        """RGB images of one size. DatasetError says what is wrong."""

    def content(self) -> str:
        """A hash over the stored bytes: equal content is encoded once."""


@dataclass(frozen=True)
class Preparation(Section):
    """Which size winners are brought to, and how."""

    resolution: int = setting(
        512,
        "The size the model was made for: 512 for SD 1.5, 1024 for SDXL, SD3 and Flux. "
        "Larger images are made smaller until they have as many pixels as a square of this side.",
        least=1,
        least_shown=64,
        most_shown=4096,
        step=64,
    )
    multiple: int = setting(
        0,
        "Width and height are rounded to a multiple of this many pixels; up to half of it is cropped from each "
        "side. 0 takes what the connected model needs, and 64, which suits every model, where none is connected.",
        least=0,
        most_shown=256,
        step=8,
        advanced=True,
    )
    mode: str = setting(
        "keep aspect",
        "keep aspect: wide images stay wide, and small ones stay small. square: all are cropped to a "
        "square of the resolution, and small ones are enlarged; it is faster for batches larger than 1 when your "
        "images have many shapes.",
        choices=MODES,
        widget="shape",
    )
    fit: str = setting(
        "crop",
        "How an image is brought to its size. crop: cut evenly on both sides. crop top: cut below, heads stay. "
        "pad: the whole image with a border. stretch: out of proportion.",
        choices=FITS,
        optional=True,
    )
    background: str = setting(
        "white",
        "The colour under transparent images and of borders: a name or #rrggbb.",
        optional=True,
    )
    clip: ClipSelection = field(default_factory=ClipSelection)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < self.multiple:
            raise ConfigError(
                f"resolution {self.resolution} is smaller than multiple {self.multiple}; "
                "raise the resolution"
            )
        if not _is_opaque_colour(self.background):
            raise ConfigError(
                f"unknown background {self.background!r}; take a colour's name, such as white or black, or "
                "#rrggbb"
            )

    def with_step(self, step: int | None) -> "Preparation":
        """The same with `multiple` filled in: `step` is the model's own, None is not known."""
        return self if self.multiple else replace(self, multiple=step or COMMON_STEP)

    def size(self, source: Size) -> Size:
        """Width and height that a picture of `source` gets."""
        return MODES[self.mode](source, self.resolution, self.multiple or COMMON_STEP)


def _is_opaque_colour(name: str) -> bool:
    try:
        return len(ImageColor.getrgb(name)) == 3
    except ValueError:
        return False


class Tally:
    """What became of the pictures of a set, counted for its report."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.first_small = self.first_short = ""
        """the first picture whose size, the first clip whose length is less than was asked for"""
        self.small = self.short = 0

    def add(self, name: str, shape: Sequence[int]) -> None:
        """A picture was prepared as [H, W], a clip as [F, H, W]."""
        *frames, height, width = shape
        self.shapes[tuple(shape)] += 1
        if 2 * height * width < self.preparation.resolution**2:
            self.small += 1
            self.first_small = self.first_small or name
        if frames and frames[0] < self.preparation.clip.count:
            self.short += 1
            self.first_short = self.first_short or name

    def notes(self) -> list[str]:
        side, total = self.preparation.resolution, self.shapes.total()
        most = [f"{_words(shape)} ({count})" for shape, count in self.shapes.most_common(NAMED)]
        more = f" and {len(self.shapes) - NAMED} more" if len(self.shapes) > NAMED else ""
        notes = [f"sizes: {', '.join(most)}{more}"]
        if self.small:
            notes.append(
                f"{self.small} of {total} have less than half of {side}x{side} pixels and stay small "
                f"(first: {self.first_small})"
            )
        if self.short:
            notes.append(
                f"{self.short} of {total} have less than {self.preparation.clip.count} frames "
                f"(first: {self.first_short})"
            )
        return notes


def _words(shape: tuple[int, ...]) -> str:
    *frames, height, width = shape
    return f"{width}x{height}" + "".join(f", {count} frames" for count in frames)


def is_clip(picture: Picture | Clip) -> bool:
    return hasattr(picture, "frames")


def prepare(
    picture: Picture | Clip, preparation: Preparation, shaped_like: Tensor | None = None
) -> Tensor:
    """Float32 in 0..1: [H, W, 3] of a picture, [F, H, W, 3] of a clip; shaped as another one if asked.

    DatasetError if the picture cannot be decoded, or has another number of frames than `shaped_like`.
    """
    if is_clip(picture):
        images = picture.frames(preparation.clip, preparation.background)
    else:
        images = [picture.load(preparation.background)]
    size = preparation.size(images[0].size)
    if shaped_like is not None:
        size = (shaped_like.shape[-2], shaped_like.shape[-3])
    prepared = torch.empty(len(images), size[1], size[0], 3)
    for index, image in enumerate(images):
        fitted = FITS[preparation.fit](image, size, preparation.background)
        prepared[index] = torch.from_numpy(np.array(fitted))
    prepared /= 255
    prepared = prepared if is_clip(picture) else prepared[0]
    if shaped_like is not None and prepared.shape != shaped_like.shape:
        raise DatasetError(
            f"{picture.name}: has {_frames(prepared)}, its winner {_frames(shaped_like)}; "
            "give pairs of one length"
        )
    return prepared


def _frames(prepared: Tensor) -> str:
    return "a single image" if prepared.ndim == 3 else f"{len(prepared)} frames"
