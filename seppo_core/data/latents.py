"""Winners that come encoded already: latents and conditioning from elsewhere, checked and paired."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DatasetError
from . import Conditioning, EncodedDataset, Example, in_memory
from .cache import at_hand


def usable_latents(latents: Any, name: str) -> Tensor:
    """One winner's latents as an `Example` holds them. DatasetError if they are none, or not finite."""
    if not isinstance(latents, Tensor) or latents.ndim not in (3, 4):
        shape = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise DatasetError(
            f"{name}: expected latents [channels, height, width] or [channels, frames, height, width], "
            f"got {shape}; use the VAE that belongs to the image or video model"
        )
    if not torch.isfinite(latents).all():
        raise DatasetError(
            f"{name}: the latents hold NaN or infinite values; let the VAE compute in float32 or bfloat16"
        )
    return at_hand(latents.to(torch.float32))


def pair_latents(
    latents: Sequence[Tensor], conds: Sequence[Conditioning], losing: Sequence[Tensor] = ()
) -> EncodedDataset:
    """A dataset from latents [C, H, W] or [C, F, H, W]; one conditioning may serve all of them.

    DatasetError names both counts where they do not match, and the first latents that cannot be used.
    """
    if not latents:
        raise DatasetError("no latents; connect at least one winning image's")
    if len(conds) not in (1, len(latents)):
        raise DatasetError(
            f"{len(latents)} latents but {len(conds)} conditionings (every item of a batch counts); "
            "give one conditioning for each, or a single one for all"
        )
    if losing and len(losing) != len(latents):
        raise DatasetError(
            f"{len(latents)} winning but {len(losing)} losing latents (every item of a batch counts); "
            "give one losing image for each winner, or none"
        )
    texts = [at_hand(cond) for cond in conds]
    rows = zip(latents, texts * len(latents) if len(texts) == 1 else texts, strict=False)
    losers = [usable_latents(item, f"losing latents {i + 1}") for i, item in enumerate(losing)]
    examples = [
        Example(usable_latents(item, f"latents {i + 1}"), cond, "", losers[i] if losers else None)
        for i, (item, cond) in enumerate(rows)
    ]
    for index, example in enumerate(examples):
        if example.losing is not None and example.losing.shape != example.latents.shape:
            raise DatasetError(
                f"latents {index + 1}: the losing image's are {list(example.losing.shape)}, the winner's "
                f"{list(example.latents.shape)}; bring both images to one size"
            )
    return in_memory(examples)
