"""The pool of earlier weights of the policy, and which of them is the reference.

Entry 0, the initial weights, always stays. When the pool is full, the snapshot goes whose neighbours in
time lie closest together (never entry 0, never the newest): what remains covers the whole run evenly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..settings import Section, setting


@dataclass(frozen=True)
class Snapshot:
    """Weights of the policy as they were after optimizer step `step` (0: initial), on the CPU."""

    step: int
    weights: dict[str, Tensor]


def initial(count: int, generator: torch.Generator) -> int:
    """The initial weights, as in DPO."""
    return 0


def latest(count: int, generator: torch.Generator) -> int:
    """The newest snapshot, as in SPIN-Diffusion."""
    return count - 1


def random_past(count: int, generator: torch.Generator) -> int:
    """Uniform over all entries, the paper's choice."""
    return int(torch.randint(count, (1,), generator=generator))


SELECTIONS: dict[str, Callable[[int, torch.Generator], int]] = {
    "random": random_past,
    "latest": latest,
    "initial": initial,
}


@dataclass(frozen=True)
class ReferenceConfig(Section, section="references"):
    selection: str = setting(
        "random",
        "Which earlier checkpoint is the reference: a random one (the paper's choice), the latest or the "
        "initial one. Only preset 'custom' reads this; the other presets bring their own.",
        choices=SELECTIONS,
    )
    snapshot_every: int = setting(
        30,
        "Optimizer steps between checkpoints that join the reference pool.",
        least=1,
        most_shown=100_000,
    )
    """One joins at the end of the reference batch it falls in."""
    capacity: int = setting(
        8,
        "How many checkpoints the pool keeps (each is only a LoRA). The initial one "
        "always stays; when full, the most closely spaced one goes.",
        least=1,
        most_shown=256,
    )
    reuse: int = setting(
        1,
        "How many optimizer steps learn from the same drawn samples, each with new "
        "noise. Drawing is most of the work: 4 is much faster than 1, on less fresh samples.",
        least=1,
        most_shown=64,
    )
    sampler: str = setting("dpmpp_2m", "The sampler that draws reference samples.")
    scheduler: str = setting("normal", "Spacing of the sampler's noise levels.")
    sampling_steps: int = setting(
        12,
        "Sampler steps per reference sample. Fewer are faster; 12 is a fair start.",
        least=1,
        most_shown=200,
    )
    guidance_scale: float = setting(
        1.0,
        "CFG of the reference samples. 1 takes half the time; above 1 needs the "
        "negative conditioning connected to SePPO Train.",
        least=0,
        most_shown=30.0,
        step=0.1,
    )
    batch_size: int = setting(
        4,
        "How many reference samples are drawn at once. Lower it if memory is short.",
        least=1,
        most_shown=64,
        widget="sample_batch",
    )


class ReferencePool:
    """A bounded list of snapshots in the order of their steps; the first one is entry 0.

    Raises ConfigError for a capacity below 1; a pool of capacity 1 holds the initial weights alone.
    """

    def __init__(self, initial_weights: Snapshot, capacity: int) -> None:
        if capacity < 1:
            raise ConfigError(f"references.capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.entries = [initial_weights]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def steps(self) -> list[int]:
        return [entry.step for entry in self.entries]

    def add(self, snapshot: Snapshot) -> None:
        """Append a newer snapshot and drop one if the pool is over its capacity."""
        newest = self.entries[-1].step
        assert snapshot.step > newest, f"snapshot {snapshot.step} is not newer than {newest}"
        if self.capacity == 1:
            return
        self.entries.append(snapshot)
        if len(self.entries) > self.capacity:
            del self.entries[self._most_redundant()]

    def _most_redundant(self) -> int:
        steps = self.steps
        inner = range(1, len(steps) - 1)
        return min(inner, key=lambda index: steps[index + 1] - steps[index - 1])

    def select(self, strategy: str, generator: torch.Generator) -> Snapshot:
        """The reference of one batch. ConfigError lists the strategies."""
        try:
            choose = SELECTIONS[strategy]
        except KeyError:
            raise ConfigError(
                f"unknown reference selection {strategy!r}; choose from {sorted(SELECTIONS)}"
            ) from None
        return self.entries[choose(len(self.entries), generator)]

    def entry(self, step: int) -> Snapshot:
        """The snapshot taken after `step`. ConfigError lists the steps that are kept."""
        for snapshot in self.entries:
            if snapshot.step == step:
                return snapshot
        raise ConfigError(f"the pool holds no snapshot of step {step}; it holds {self.steps}")
