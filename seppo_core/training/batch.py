"""What optimizer steps work on: exact epochs of winners, and reference batches, which R steps share.

A reference batch is winners, the reference and the samples that it drew for them. All is determined by index, seed
and pool: opening it again, in a continued run, gives the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from ..adapters.lora import LoRA, Slot
from ..data import Conditioning, EncodedDataset
from ..denoisers import Denoiser
from ..method.references import ReferencePool, Snapshot
from ..randomness import derived_seed, generator, normal
from .config import SePPOConfig

Shape = tuple[int, ...]

KEY = 0
"""of every seed of a step's own numbers, so that runs begun before go on with the same ones"""


class BatchPlan:
    """Every position exactly once per epoch, in batches of at most `size`, in an order drawn per epoch.

    Batches differ by one winner at most, so that none is much noisier than the others. One shape follows
    another, so that most batches have one shape and the few between two have both: whoever runs a batch does
    so shape by shape (`of_one_shape`). Nothing is remembered: batch `index` is the same whether or not the ones
    before were asked for.
    """

    def __init__(self, shapes: Sequence[Shape], size: int, seed: int) -> None:
        self.seed = seed
        groups: dict[Shape, list[int]] = {}
        for position, shape in enumerate(shapes):
            groups.setdefault(shape, []).append(position)
        self.groups = list(groups.values())
        self.count = len(shapes)
        self.per_epoch = -(-self.count // size)
        self.fullest = -(-self.count // self.per_epoch)
        """winners of the largest batch"""
        self._epoch: tuple[int, list[list[int]]] | None = None

    def batch(self, index: int) -> list[int]:
        """The positions of batch `index`, counted from 0 over all epochs; those of one shape side by side."""
        epoch, place = divmod(index, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][place]

    def _draw(self, epoch: int) -> list[list[int]]:
        order, parts = generator(self.seed, "epoch", epoch), self.per_epoch
        groups = _shuffled(self.groups, generator(self.seed, "sizes", epoch))
        winners = [winner for group in groups for winner in _shuffled(group, order)]
        cuts = [part * self.count // parts for part in range(parts + 1)]
        return _shuffled([winners[a:b] for a, b in pairwise(cuts)], order)

    def report(self, steps: int, shared: int) -> str:
        """How often each winner is seen in `steps` optimizer steps, of which `shared` share a batch."""
        passes, begun = divmod(-(-steps // shared), self.per_epoch)
        low, high = passes * shared, (passes + bool(begun)) * shared
        sizes = "one size" if len(self.groups) == 1 else f"{len(self.groups)} sizes"
        return (
            f"{self.count} winners of {sizes}: a pass over all takes {self.per_epoch * shared} steps of up to "
            f"{self.fullest} winners, so {steps} steps see each winner "
            f"{f'{low} to {high}' if low < high else low} times"
        )


def _shuffled(items: list[Any], order: torch.Generator) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items), generator=order).tolist()]


def of_one_shape(shapes: Sequence[Shape], most: int) -> list[range]:
    """Neighbours of one shape, `most` at a time: what can go through a network at once."""
    parts, first = [], 0
    for _, run in groupby(shapes):
        end = first + len(list(run))
        parts += [range(start, min(start + most, end)) for start in range(first, end, most)]
        first = end
    return parts


@dataclass
class ReferenceBatch:
    """What R steps share."""

    index: int
    positions: list[int]
    """of its winners in the dataset"""
    conds: list[Conditioning]
    caption: str
    """of the first winner"""
    winners: list[Tensor]
    """one shape after another, in the network's scale, on the device"""
    samples: list[Tensor] | None
    """shaped like the winners: drawn by the reference, or the losing images; None where nothing is contrasted"""
    fullest: int
    """winners of the run's largest steps: each winner weighs one over it, whatever step it is in"""
    reference: Snapshot | None
    slot: Slot | None

    def parts(self, most: int) -> list[range]:
        """Winners of one shape, `most` at a time."""
        return of_one_shape([winner.shape for winner in self.winners], most)


class ReferenceBatches:
    """Those of a run."""

    def __init__(
        self,
        policy: Denoiser,
        lora: LoRA,
        dataset: EncodedDataset,
        config: SePPOConfig,
    ) -> None:
        self.policy, self.lora, self.dataset = policy, lora, dataset
        self.config = config
        self.plan = BatchPlan(dataset.shapes, config.winners_per_step, config.seed)
        self.draw_batch = config.references.batch_size
        """samples drawn at once; smaller after a split"""
        self._last: tuple[Snapshot, Slot] | None = None

    def open(self, index: int, pool: ReferencePool) -> ReferenceBatch:
        """Read the winners of batch `index`, select its reference and draw its samples."""
        config, positions = self.config, self.plan.batch(index)
        examples = [
            self.dataset.drawn(position, config.seed, index, KEY, "caption", i)
            for i, position in enumerate(positions)
        ]
        conds = [example.cond for example in examples]
        winners = self._scaled([example.latents for example in examples])
        reference, slot, samples = None, None, None
        if config.loss.aims.compares:
            choice = generator(config.seed, "reference", index)
            reference = pool.select(config.references.selection, choice)
            slot = self._slot(reference)
        if config.loss.draws_samples:
            with self.lora.using(slot):
                samples = self.draw(conds, [winner.shape for winner in winners], index)
        elif config.loss.aims.contrasts:
            samples = self._scaled([example.losing for example in examples])
        caption, fullest = examples[0].caption, self.plan.fullest
        return ReferenceBatch(
            index, positions, conds, caption, winners, samples, fullest, reference, slot
        )

    def _slot(self, reference: Snapshot) -> Slot:
        """Its weights; while it stays the reference they stay on the device, cast."""
        if self._last is None or self._last[0] is not reference:
            self._last = (reference, self.lora.slot(reference.weights))
        return self._last[1]

    def _scaled(self, latents: list[Tensor]) -> list[Tensor]:
        """Latents in the network's scale, on the device."""
        parts = of_one_shape([one.shape for one in latents], len(latents))
        stacks = (torch.stack(latents[part.start : part.stop]) for part in parts)
        return [one for stack in stacks for one in self.policy.scale_latents(stack)]

    @torch.no_grad()
    def draw(self, conds: list[Any], shapes: list[torch.Size], index: int) -> list[Tensor]:
        """One sample per conditioning from the active slot, of the shape at its place; stays latent."""
        references, seed = self.config.references, self.config.seed
        drawn: list[Tensor] = []
        for part in of_one_shape(shapes, self.draw_batch):
            keys = [(seed, index, KEY, "sample", i) for i in part]
            noise = torch.stack([normal(tuple(shapes[part.start]), *key) for key in keys])
            texts = conds[part.start : part.stop]
            drawn += self.policy.sample(texts, noise, references, derived_seed(*keys[0]))
        return drawn
