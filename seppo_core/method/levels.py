"""Distributions of noise levels: where in the schedule training looks."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..settings import Section, setting


def uniform(numbers: Tensor) -> Tensor:
    """Every part of the schedule as often as any other."""
    return numbers


DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {"uniform": uniform}
"""From uniform numbers in [0, 1), [B], to shares of the schedule in [0, 1); 1 is the noisiest."""


@dataclass(frozen=True)
class LevelConfig(Section, section="levels"):
    distribution: str = setting("uniform", choices=DISTRIBUTIONS)
