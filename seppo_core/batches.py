"""Which winners an optimizer step sees: exact epochs, derived from the seed and the step alone."""

import torch

from .randomness import generator


class BatchPlan:
    """Every position once per epoch, in batches of one latent shape, in an order drawn per epoch.

    A group of equal shapes that does not fill its last batch is topped up from its own beginning.
    Nothing is remembered: batch `index` is the same whether or not the ones before were asked for.
    """

    def __init__(self, shapes: list[tuple[int, ...]], size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, shape in enumerate(shapes):
            groups.setdefault(shape, []).append(position)
        self.groups = list(groups.values())
        self.per_epoch = sum(-(-len(group) // size) for group in self.groups)
        self._epoch: tuple[int, list[list[int]]] | None = None

    def batch(self, index: int) -> list[int]:
        """The positions of batch `index`, counted from 0 over all epochs."""
        epoch, place = divmod(index, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][place]

    def _draw(self, epoch: int) -> list[list[int]]:
        order = generator(self.seed, "epoch", epoch)
        batches = []
        for group in self.groups:
            shuffled = [group[i] for i in torch.randperm(len(group), generator=order)]
            while len(shuffled) % self.size:
                shuffled.append(shuffled[len(shuffled) % len(group)])
            batches += [shuffled[i : i + self.size] for i in range(0, len(shuffled), self.size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=order)]
