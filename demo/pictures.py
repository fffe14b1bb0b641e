"""Pictures of 32x32 pixels as latents (12, 16, 16) and back; no weights, no loss."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

SIZE = 32


def encode(images: Sequence[Image.Image]) -> Tensor:
    """Latents (images, 12, 16, 16) in [-1, 1]."""
    resized = (i.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for i in images)
    layout = "picture height width colour -> picture colour height width"
    pixels = torch.from_numpy(rearrange([np.asarray(i) for i in resized], layout))
    return F.pixel_unshuffle(pixels.float() / 127.5 - 1, 2)


def decode(latents: Tensor) -> Tensor:
    """Pixels (images, 3, 32, 32) in [0, 1]."""
    return ((F.pixel_shuffle(latents.float(), 2) + 1) / 2).clamp(0, 1)


def to_images(pixels: Tensor) -> list[Image.Image]:
    whole = (pixels * 255).round().to(torch.uint8).cpu().numpy()
    layout = "picture colour height width -> picture height width colour"
    return [Image.fromarray(picture) for picture in rearrange(whole, layout)]


def sheet(rows: Sequence[Sequence[Image.Image]], cell: int = SIZE) -> Image.Image:
    """Rows of pictures on one white page, `cell` pixels each."""
    page = Image.new("RGB", (cell * max(map(len, rows)), cell * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            shown = picture.resize((cell, cell), Image.Resampling.NEAREST)
            page.paste(shown, (x * cell, y * cell))
    return page
