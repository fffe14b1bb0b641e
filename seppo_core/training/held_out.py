"""The margin on winners that are not trained on: whether the policy learns their taste or only the others.

The reference is the initial weights, so one number per measurement tells how far the run has come.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from ..adapters.lora import LoRA
from ..data import EncodedDataset
from ..denoisers import Denoiser
from ..method.objectives import drawn_back
from .draws import FixedDraws

MOST_WINNERS = 16


class HeldOut:
    """Measures a policy inside its session; noise and levels are the same at every step and in every run.

    `initial` are the weights that the policy is compared with, as `LoRA.state` gives them. A policy that is meant
    to `overshoot` is drawn back by that factor first. Of more than MOST_WINNERS winners some are taken, evenly;
    repeats count once.
    """

    def __init__(
        self,
        policy: Denoiser,
        lora: LoRA,
        dataset: EncodedDataset,
        initial: Mapping[str, Tensor],
        batch_size: int,
        overshoot: float = 1.0,
    ) -> None:
        self.lora, self.initial, self.overshoot = lora, initial, overshoot
        self.draws = FixedDraws(policy, dataset, batch_size, MOST_WINNERS)
        self._initial_errors: Tensor | None = None
        self._initial_residuals: dict[int, Tensor] = {}
        """of each batch, on the CPU; none where nothing overshoots"""

    def margin(self) -> float | None:
        """Mean of (policy error - error of the initial weights), below 0 where winners are explained
        better; None if an error is not finite."""
        if self._initial_errors is None:
            with self.lora.using(self.lora.slot(self.initial)):
                self._initial_errors = self.draws.errors(self._kept)
        mean = (self.draws.errors(self._drawn_back) - self._initial_errors).mean().item()
        return mean if math.isfinite(mean) else None

    def _kept(self, place: int, residuals: Tensor) -> Tensor:
        if self.overshoot > 1:
            self._initial_residuals[place] = residuals.cpu()
        return residuals

    def _drawn_back(self, place: int, residuals: Tensor) -> Tensor:
        if self.overshoot == 1:
            return residuals
        initial = self._initial_residuals[place].to(residuals.device)
        return drawn_back(residuals, initial, self.overshoot)
