"""The floor of a run's winner margin: how far from zero rounding alone moves it."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from ..adapters.lora import LoRA
from ..data import EncodedDataset
from ..denoisers import Denoiser
from .draws import FixedDraws
from .rounding import floor, is_rough, roughness

WINNERS = 2
"""How many the roughness is measured on."""


def measured_roughness(
    policy: Denoiser, lora: LoRA, dataset: EncodedDataset, weights: Mapping[str, Tensor]
) -> float | None:
    """Of margins against these `weights`, inside a session; None in float32, and where an error is not finite.

    One winner goes through the network at a time, which needs less memory than any step.
    """
    if not is_rough(policy.compute_dtype):
        return None
    draws = roughness(FixedDraws(policy, dataset, 1, WINNERS).errors, lora, lora.slot(weights))
    found = draws.square().mean().sqrt().item()
    return found if math.isfinite(found) else None


class Floor:
    """Measures the roughness once, when a step's floor is first asked for, at the `initial` weights and on fixed
    draws: a continued run has the same."""

    def __init__(
        self, policy: Denoiser, lora: LoRA, dataset: EncodedDataset, initial: Mapping[str, Tensor]
    ) -> None:
        self.policy, self.lora, self.dataset, self.initial = policy, lora, dataset, initial

    def of(self, measured: Mapping[str, Any] | None, count: int, times: float) -> float | None:
        """Of the mean winner margin of `count` winners, of which rounding is divided by `times`.

        None where there is none, and in float32.
        """
        error = measured and measured["reference_error"]
        if error is None or self._roughness is None:
            return None
        return floor(self._roughness, error, count) / times

    @cached_property
    def _roughness(self) -> float | None:
        return measured_roughness(self.policy, self.lora, self.dataset, self.initial)
