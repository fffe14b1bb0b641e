"""Errors on some winners of a dataset under noise and levels that are the same at every step and in every run."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import EncodedDataset
from ..denoisers import Denoiser
from ..method.objectives import mean_square
from ..randomness import derived_seed, isolated_global_rng, normal

LEVELS = 4

Draw = tuple[int, int]
"""a winner's place in its dataset, and the place of its level"""


def level_positions(count: int) -> Tensor:
    """[count] midpoints of equal parts of [0, 1)."""
    return (torch.arange(count, dtype=torch.float32) + 0.5) / count


class FixedDraws:
    """At most `most` winners, evenly spaced, each once, at LEVELS levels each."""

    def __init__(
        self, policy: Denoiser, dataset: EncodedDataset, batch_size: int, most: int
    ) -> None:
        self.policy, self.examples = policy, dataset.examples
        self.batches = _batches(dataset.item_shapes, batch_size, most)

    @torch.no_grad()
    def errors(
        self, changed: Callable[[int, Tensor], Tensor] = lambda place, found: found
    ) -> Tensor:
        """Errors of the active weights for every draw, float64, on the CPU; inside the policy's session.

        They are made of what `changed` gives back for a batch's place and its residuals [B, ...].
        """
        errors = [
            mean_square(changed(place, self._residuals(batch)))
            for place, batch in enumerate(self.batches)
        ]
        return torch.cat(errors).double().cpu()

    def _residuals(self, batch: list[Draw]) -> Tensor:
        examples = [self.examples[place] for place, _ in batch]
        latents = self.policy.scale_latents(torch.stack([e.latents for e in examples]))
        shape = tuple(latents.shape[1:])
        noise = torch.stack([normal(shape, "held out", *draw) for draw in batch])
        levels = self.policy.levels(level_positions(LEVELS)[[level for _, level in batch]])
        prepared = self.policy.prepare([example.cond for example in examples], shape)
        with isolated_global_rng(derived_seed("held out", *batch[0])):
            return self.policy.residuals(latents, noise, levels, prepared)


def _batches(shapes: list[tuple[int, ...]], size: int, most: int) -> list[list[Draw]]:
    """Every draw once, in batches of one latent shape."""
    count = min(len(shapes), most)
    groups: dict[tuple[int, ...], list[Draw]] = {}
    for place in (number * len(shapes) // count for number in range(count)):
        draws = [(place, level) for level in range(LEVELS)]
        groups.setdefault(shapes[place], []).extend(draws)
    return [
        group[first : first + size]
        for group in groups.values()
        for first in range(0, len(group), size)
    ]
