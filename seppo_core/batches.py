"""Which winners an optimizer step sees: exact epochs, derived from the seed and the step alone."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import torch

from .randomness import generator

Shape = tuple[int, ...]


class BatchPlan:
    """Every position exactly once per epoch, in batches of at most `size`, in an order drawn per epoch.

    Batches differ by one winner at most, so that none is much noisier than the others. One shape follows
    another, so that most batches have one shape and the few between two have both: whoever runs a batch does
    so shape by shape (`alike`). Nothing is remembered: batch `index` is the same whether or not the ones
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

    def report(self, steps: int, window: int) -> str:
        """How often each winner is seen in `steps` optimizer steps, of which `window` share a batch."""
        passes, begun = divmod(-(-steps // window), self.per_epoch)
        low, high = passes * window, (passes + bool(begun)) * window
        sizes = "one size" if len(self.groups) == 1 else f"{len(self.groups)} sizes"
        return (
            f"{self.count} winners of {sizes}: a pass over all takes {self.per_epoch * window} steps of up to "
            f"{self.fullest} winners, so {steps} steps see each winner "
            f"{f'{low} to {high}' if low < high else low} times"
        )


def _shuffled(items: list[Any], order: torch.Generator) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items), generator=order).tolist()]


def alike(shapes: Sequence[Shape], most: int) -> list[range]:
    """Neighbours of one shape, `most` at a time: what can go through a network at once."""
    parts, first = [], 0
    for _, run in groupby(shapes):
        end = first + len(list(run))
        parts += [range(start, min(start + most, end)) for start in range(first, end, most)]
        first = end
    return parts
