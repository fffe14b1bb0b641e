"""Windows: R optimizer steps share one reference, one batch of winners and the samples drawn for them.

A window is determined by its index, the seed and the pool: opening it again, in a continued run, gives the
same one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import BatchPlan, alike
from .config import SePPOConfig
from .data import Conditioning, EncodedDataset
from .denoisers import Denoiser
from .lora import LoRA, Slot
from .randomness import derived_seed, generator, normal
from .references import ReferencePool, Snapshot


@dataclass
class Window:
    """What the steps of one window share."""

    index: int
    positions: list[int]
    """of its winners in the dataset"""
    conds: list[Conditioning]
    caption: str
    """of the first winner"""
    winners: list[Tensor]
    """one shape after another, in the network's scale, on the device"""
    samples: list[Tensor] | None
    """shaped like the winners: drawn by the reference, or the losing images; None for SFT"""
    fullest: int
    """winners of the run's largest steps: each winner weighs one over it, whatever step it is in"""
    reference: Snapshot | None
    slot: Slot | None

    def parts(self, most: int) -> list[range]:
        """Winners of one shape, `most` at a time."""
        return alike([winner.shape for winner in self.winners], most)


class Windows:
    """The windows of a run on one rank."""

    def __init__(
        self,
        policy: Denoiser,
        lora: LoRA,
        dataset: EncodedDataset,
        config: SePPOConfig,
        rank: int,
    ) -> None:
        self.policy, self.lora, self.dataset = policy, lora, dataset
        self.config, self.rank = config, rank
        self.plan = BatchPlan(dataset.shapes, config.winners_per_step, config.seed)
        self.draw_batch = config.references.batch_size
        """samples drawn at once; smaller after a split"""
        self._last: tuple[Snapshot, Slot] | None = None

    def open(self, index: int, pool: ReferencePool) -> Window:
        """Read the winners of window `index`, select its reference and draw its samples."""
        config, positions = self.config, self.plan.batch(index)
        examples = [
            self.dataset.drawn(position, config.seed, index, self.rank, "caption", i)
            for i, position in enumerate(positions)
        ]
        conds = [example.cond for example in examples]
        winners = self._scaled([example.latents for example in examples])
        reference, slot, samples = None, None, None
        if config.loss.objective == "preference":
            choice = generator(config.seed, "reference", index)  # the same on every rank
            reference = pool.select(config.references.selection, choice)
            slot = self._slot(reference)
            if config.loss.paired:
                samples = self._scaled([example.losing for example in examples])
            else:
                with self.lora.using(slot):
                    samples = self.draw(conds, [winner.shape for winner in winners], index)
        caption, fullest = examples[0].caption, self.plan.fullest
        return Window(index, positions, conds, caption, winners, samples, fullest, reference, slot)

    def _slot(self, reference: Snapshot) -> Slot:
        """Its weights; while it stays the reference they stay on the device, cast."""
        if self._last is None or self._last[0] is not reference:
            self._last = (reference, self.lora.slot(reference.weights))
        return self._last[1]

    def _scaled(self, latents: list[Tensor]) -> list[Tensor]:
        """Latents in the network's scale, on the device."""
        parts = alike([one.shape for one in latents], len(latents))
        stacks = (torch.stack(latents[part.start : part.stop]) for part in parts)
        return [one for stack in stacks for one in self.policy.scale_latents(stack)]

    @torch.no_grad()
    def draw(self, conds: list[Any], shapes: list[torch.Size], window: int) -> list[Tensor]:
        """One sample per conditioning from the active slot, of the shape at its place; stays latent."""
        references, seed = self.config.references, self.config.seed
        drawn: list[Tensor] = []
        for part in alike(shapes, self.draw_batch):
            keys = [(seed, window, self.rank, "sample", i) for i in part]
            noise = torch.stack([normal(tuple(shapes[part.start]), *key) for key in keys])
            texts = conds[part.start : part.stop]
            drawn += self.policy.sample(texts, noise, references, derived_seed(*keys[0]))
        return drawn
