"""The margin on winners that are not trained on: whether the policy learns their taste or only the others.

The reference is the initial weights, so one number per measurement tells how far the run has come.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .anchor import level_positions
from .data import EncodedDataset
from .denoisers import Denoiser
from .lora import LoRA
from .randomness import derived_seed, isolated_global_rng, normal

MOST_WINNERS = 16
LEVELS = 4

Draw = tuple[int, int]
"""a winner's place in the held-out dataset, and the place of its level"""


class HeldOut:
    """Measures a policy inside its session; noise and levels are the same at every step and in every run.

    `initial` are the weights that the policy is compared with, as `LoRA.state` gives them. Of more than
    MOST_WINNERS winners some are taken, evenly; repeats count once.
    """

    def __init__(
        self,
        policy: Denoiser,
        lora: LoRA,
        dataset: EncodedDataset,
        initial: Mapping[str, Tensor],
        batch_size: int,
    ) -> None:
        self.policy, self.lora, self.initial = policy, lora, initial
        self.examples = dataset.examples
        self.batches = _batches(dataset.item_shapes, batch_size)
        self._initial_errors: Tensor | None = None

    @torch.no_grad()
    def margin(self) -> float | None:
        """Mean of (policy error - error of the initial weights), below 0 where winners are explained
        better; None if an error is not finite."""
        if self._initial_errors is None:
            with self.lora.using(self.lora.slot(self.initial)):
                self._initial_errors = self._errors()
        mean = (self._errors() - self._initial_errors).mean().item()
        return mean if math.isfinite(mean) else None

    def _errors(self) -> Tensor:
        """Errors of the active weights for every draw, float64, on the CPU."""
        return torch.cat([self._batch_errors(batch) for batch in self.batches]).double().cpu()

    def _batch_errors(self, batch: list[Draw]) -> Tensor:
        examples = [self.examples[place] for place, _ in batch]
        latents = self.policy.scale_latents(torch.stack([e.latents for e in examples]))
        shape = tuple(latents.shape[1:])
        noise = torch.stack([normal(shape, "held out", *draw) for draw in batch])
        levels = self.policy.levels(level_positions(LEVELS)[[level for _, level in batch]])
        prepared = self.policy.prepare([example.cond for example in examples], shape)
        with isolated_global_rng(derived_seed("held out", *batch[0])):
            return self.policy.errors(latents, noise, levels, prepared)


def _batches(shapes: list[tuple[int, ...]], size: int) -> list[list[Draw]]:
    """Every draw once, in batches of one latent shape."""
    count = min(len(shapes), MOST_WINNERS)
    groups: dict[tuple[int, ...], list[Draw]] = {}
    for place in (number * len(shapes) // count for number in range(count)):
        draws = [(place, level) for level in range(LEVELS)]
        groups.setdefault(shapes[place], []).extend(draws)
    return [
        group[first : first + size]
        for group in groups.values()
        for first in range(0, len(group), size)
    ]
