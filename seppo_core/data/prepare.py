"""From a picture of any size to the tensor a VAE encodes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ConfigError

Size = tuple[int, int]
"""width, height in pixels"""

MAX_ASPECT = 4
"""Longer or taller pictures are cropped to this ratio of their sides."""


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
    side = max(1, round(resolution / multiple)) * multiple
    return side, side


@dataclass(frozen=True)
class ClipSelection:
    """Which frames of a clip are taken."""

    count: int = 33
    """at most so many; video VAEs take 4n + 1"""
    stride: int = 1
    """every n-th frame"""
    fps: float = 0.0
    """frames a second to which a clip is brought first; 0 takes them as recorded"""

    def __post_init__(self) -> None:
        for name in ("count", "stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"clip.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.fps < math.inf:
            raise ConfigError(f"clip.fps must be 0 or more, got {self.fps}")


MODES: dict[str, Callable[[Size, int, int], Size]] = {"keep aspect": keep_aspect, "square": square}


@dataclass(frozen=True)
class Preparation:
    """Which size winners are brought to; what sticks out of it is cropped evenly on both sides."""

    resolution: int = 512
    """side of the square whose area every picture gets, in pixels"""
    multiple: int = 64
    """both sides are rounded to this: the VAE's factor times the network's own step"""
    mode: str = "keep aspect"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"unknown mode {self.mode!r}; choose from {sorted(MODES)}")
        for name in ("resolution", "multiple"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.resolution < self.multiple:
            raise ConfigError(
                f"resolution {self.resolution} is smaller than multiple {self.multiple}; "
                "raise the resolution"
            )

    def size(self, source: Size) -> Size:
        """Width and height that a picture of `source` gets."""
        return MODES[self.mode](source, self.resolution, self.multiple)


def prepare_image(image: Image.Image, size: Size) -> Tensor:
    """Resize and crop around the middle to `size`: float32 [H, W, 3] in 0..1."""
    width, height = size
    scale = min(image.width / width, image.height / height)
    cut_width, cut_height = width * scale, height * scale
    left, top = (image.width - cut_width) / 2, (image.height - cut_height) / 2
    box = (left, top, left + cut_width, top + cut_height)
    resized = image.resize(size, Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255)
