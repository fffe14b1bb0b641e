"""Windows: R optimizer steps share one reference, one batch of winners and the samples drawn for them.

A window is determined by its index, the seed and the pool: opening it again, in a continued run, gives the
same one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import BatchPlan
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
    winners: Tensor
    """[N, ...], in the network's scale, on the device"""
    samples: Tensor | None
    """[N, ...]: drawn by the reference, or the losing images; None for SFT"""
    reference: Snapshot | None
    slot: Slot | None


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

    def open(self, index: int, pool: ReferencePool) -> Window:
        """Read the winners of window `index`, select its reference and draw its samples."""
        config, policy = self.config, self.policy
        positions = self.plan.batch(index)
        examples = [
            self.dataset.drawn(position, config.seed, index, self.rank, "caption", i)
            for i, position in enumerate(positions)
        ]
        conds = [example.cond for example in examples]
        winners = policy.scale_latents(torch.stack([example.latents for example in examples]))
        reference, slot, samples = None, None, None
        if config.loss.objective == "preference":
            choice = generator(config.seed, "reference", index)  # the same on every rank
            reference = pool.select(config.references.selection, choice)
            slot = self.lora.slot(reference.weights)
            if config.loss.paired:
                losing = torch.stack([example.losing for example in examples])
                samples = policy.scale_latents(losing)
            else:
                with self.lora.using(slot):
                    samples = self.draw(conds, winners.shape[1:], index)
        caption = examples[0].caption
        return Window(index, positions, conds, caption, winners, samples, reference, slot)

    @torch.no_grad()
    def draw(self, conds: list[Any], shape: torch.Size, window: int) -> Tensor:
        """One sample per conditioning from the active slot, [N, ...]; stays latent."""
        references, seed = self.config.references, self.config.seed
        drawn = []
        for first in range(0, len(conds), self.draw_batch):
            part = conds[first : first + self.draw_batch]
            keys = [(seed, window, self.rank, "sample", first + i) for i in range(len(part))]
            noise = torch.stack([normal(tuple(shape), *key) for key in keys])
            drawn.append(self.policy.sample(part, noise, references, derived_seed(*keys[0])))
        return torch.cat(drawn)
