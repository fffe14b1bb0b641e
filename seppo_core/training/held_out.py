"""The margin on winners that are not trained on: whether the policy learns their taste or only the others.

The reference is the initial weights, so one number per measurement tells how far the run has come.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from ..adapters.lora import LoRA
from ..data import EncodedDataset
from ..denoisers import Denoiser
from .draws import FixedDraws

MOST_WINNERS = 16


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
        self.lora, self.initial = lora, initial
        self.draws = FixedDraws(policy, dataset, batch_size, MOST_WINNERS)
        self._initial_errors: Tensor | None = None

    def margin(self) -> float | None:
        """Mean of (policy error - error of the initial weights), below 0 where winners are explained
        better; None if an error is not finite."""
        if self._initial_errors is None:
            with self.lora.using(self.lora.slot(self.initial)):
                self._initial_errors = self.draws.errors()
        mean = (self.draws.errors() - self._initial_errors).mean().item()
        return mean if math.isfinite(mean) else None
