"""The gradient of one optimizer step: micro-batch by micro-batch, clipped, and what the step was like."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..adapters.lora import LoRA, Slot
from ..denoisers import Denoiser
from ..devices import free_memory, is_out_of_memory
from ..method.levels import DISTRIBUTIONS
from ..method.objectives import DenoisingErrors, mean_square
from ..randomness import derived_seed, generator, isolated_global_rng, normal
from ..runs.report import ExampleReport
from .batch import KEY, ReferenceBatch
from .config import SePPOConfig
from .optim import AVERAGED
from .reach import explained, require_reach
from .rounding import brought_near, stretch

FIRST_LOSS_SCALE = 2.0**12
STEPS_TO_DOUBLE_SCALE = 200

ROUNDING = 1e-4
"""Of the error: no kernel rounds so differently from one call to the next."""

log = logging.getLogger(__name__)


@dataclass
class Scaling:
    """The factor that keeps float16 gradients from vanishing; 1 for other dtypes."""

    factor: float
    good_steps: int = 0
    """optimizer steps since it last changed"""

    def grow(self) -> None:
        self.good_steps += 1
        if self.good_steps == STEPS_TO_DOUBLE_SCALE:
            self.factor, self.good_steps = self.factor * 2, 0

    def shrink(self) -> None:
        self.factor, self.good_steps = self.factor / 2, 0


@dataclass(frozen=True)
class Statistics:
    """What a step's winners were like, each field a Tensor[N]; NaN where nothing is compared or contrasted."""

    loss: Tensor
    role: Tensor
    logits: Tensor
    winner_margin: Tensor
    sample_margin: Tensor
    policy_error: Tensor
    """on the winners, as is the reference's"""
    reference_error: Tensor
    level: Tensor
    """of the noise, as a share of the schedule"""

    def table(self) -> Tensor:
        return torch.stack([getattr(self, field.name).detach() for field in fields(self)])

    @property
    def finite(self) -> bool:
        return not (self.loss.isnan().any() or self.table().isinf().any())

    def examples(self, positions: Sequence[int]) -> tuple[ExampleReport, ...]:
        """One for each winner, at `positions` of the dataset; none where no sample has a role."""
        if self.role.isnan().any():
            return ()
        columns = (self.level, self.role, self.winner_margin, self.sample_margin)
        rows = zip(positions, *(column.tolist() for column in columns), strict=True)
        return tuple(ExampleReport(*row) for row in rows)

    def means(self) -> dict[str, float | None]:
        """For the step's report; a mean over nothing or over NaN is None."""
        margin, role = self.sample_margin, self.role
        unknown = role.isnan().any()
        accuracy = (self.logits > 0).float() + (self.logits == 0).float() / 2
        return {
            "loss": _mean(self.loss),
            "winner_margin": _mean(self.winner_margin),
            "sample_margin_losing": _mean(margin[role > 0]),
            "sample_margin_winning": _mean(margin[role < 0]),
            "flip_rate": None if unknown else _mean((role <= 0).float()),
            "implicit_accuracy": None if unknown else _mean(accuracy),
            "policy_error": _mean(self.policy_error),
            "reference_error": _mean(self.reference_error),
        }


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() and not values.isnan().any() else None


class Gradients:
    """Adds up gradients in the parameters of `lora`; owns their scale and the size of a micro-batch."""

    def __init__(self, policy: Denoiser, lora: LoRA, config: SePPOConfig) -> None:
        self.policy, self.lora, self.config = policy, lora, config
        self.parameters = lora.parameters()
        self.half = policy.compute_dtype == torch.float16
        self.scaling = Scaling(FIRST_LOSS_SCALE if self.half else 1.0)
        self.micro_batch = config.batch_size
        """winners that go through the network at once; smaller after a split"""
        self.again: Callable[[], Tensor] | None = None
        """the residuals of the last micro-batch once more, until every layer is known to get a gradient"""
        self.reached = False

    def of_step(self, step: int, batch: ReferenceBatch) -> dict[str, Any] | None:
        """The step's gradient, clipped, and what StepReport says of it; None if loss or gradient is not finite.

        A gradient that overflows float16 is computed again with half the loss scale; a loss has no such way out,
        for the forwards know no scale. What does not fit into memory is tried again in halves where
        `guard.out_of_memory` allows it.
        """
        before = replace(self.scaling)
        while True:
            largest = max(map(len, batch.parts(self.micro_batch)))
            try:
                found, norm = self._accumulate(step, batch)
                finite = found.finite
                if finite and math.isfinite(norm):
                    self._require_reach()
            except Exception as error:
                if not (is_out_of_memory(error) and self._may_split(largest)):
                    raise
            else:
                if finite and math.isfinite(norm):
                    self._warn_of_noise(step, found)
                    rows = found.examples(batch.positions)
                    return {**found.means(), "grad_norm": norm, "examples": rows}
                if not finite or self.scaling.factor <= 1.0:
                    self.scaling = before  # no scale helps, so this one is not to blame
                    return None
                self.scaling.shrink()
                continue
            # Out of the except block: its traceback would keep the step's tensors alive.
            self._zero()
            free_memory(self.policy.device)
            self.micro_batch = largest // 2
            log.warning(
                "step %d does not fit into memory: on with %d winners at once",
                step,
                self.micro_batch,
            )

    def stretch(self, step: int, batch: ReferenceBatch) -> float:
        """How many times as far from the policy as the reference the step's margins are measured."""
        if batch.samples is None or self.config.optimizer.name in AVERAGED:
            return 1.0
        return stretch(self.policy.compute_dtype, step, batch.reference.step)

    def _may_split(self, largest: int) -> bool:
        return self.config.guard.out_of_memory == "split" and largest > 1

    def applied(self) -> None:
        """Tell that the optimizer took the step."""
        if self.half:
            self.scaling.grow()

    def _warn_of_noise(self, step: int, found: Statistics) -> None:
        margin, error = found.winner_margin.abs().max(), found.policy_error.mean()
        if step == 1 and margin > ROUNDING * error:  # policy and reference are still one
            log.warning(
                "the network predicts something else each time, on the same input with the same weights: winner "
                "margins, flips and the criterion are that noise. Take what draws at random out of the way to "
                "SePPO Train"
            )

    def _require_reach(self) -> None:
        """Once in a session: a gradient reaches every layer."""
        if not self.reached:
            require_reach(self.lora, lambda: mean_square(self.again()), zeros_tell=not self.half)
            self.reached, self.again = True, None

    def _zero(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _accumulate(self, step: int, batch: ReferenceBatch) -> tuple[Statistics, float]:
        self._zero()
        times = self.stretch(step, batch)
        slot = batch.slot if times == 1.0 else self.lora.beyond(batch.slot, times)
        with isolated_global_rng(0):  # also where checkpointed blocks are computed again
            parts = [
                self._part(step, batch, part, slot, times) for part in batch.parts(self.micro_batch)
            ]
        norm = self._clip()
        table = torch.cat(parts, dim=1).cpu()  # the step's one wait for the device
        return Statistics(*table), float(norm)

    def _part(
        self, step: int, batch: ReferenceBatch, indices: range, slot: Slot | None, times: float
    ) -> Tensor:
        """Add the gradient of some of the step's winners, of one shape; returns their statistics as a table.

        `slot` has weights `times` as far from the policy as the reference. One forward has policy and gradient;
        the samples lie behind the winners in the same batch, with the same noise and levels.
        """
        config, policy = self.config, self.policy
        conds = batch.conds[indices.start : indices.stop]
        latents = torch.stack(batch.winners[indices.start : indices.stop])
        shape = tuple(latents.shape[1:])
        key = (config.seed, step, KEY)
        noise = torch.stack([normal(shape, *key, "noise", i) for i in indices]).to(latents.device)
        drawn = torch.cat([torch.rand(1, generator=generator(*key, "level", i)) for i in indices])
        shares = DISTRIBUTIONS[config.levels.distribution](drawn)
        levels = policy.levels(shares)
        shares = shares.to(latents.device)  # before the forwards, for it waits for the device
        weight = self.scaling.factor / batch.fullest
        copies = 1
        if batch.samples is not None:
            copies = 2
            samples = torch.stack(batch.samples[indices.start : indices.stop])
            latents = torch.cat([latents, samples])
            noise, levels, conds = (
                torch.cat([noise, noise]),
                torch.cat([levels, levels]),
                [*conds, *conds],
            )
        inputs = (latents, noise, levels, policy.prepare(conds, shape))

        reference = far = None
        if slot is not None:
            with torch.no_grad(), self.lora.using(slot):
                far = self._residuals(inputs, *key, indices.start)
        residuals = self._residuals(inputs, *key, indices.start)
        errors = mean_square(residuals)
        current = DenoisingErrors(*errors.chunk(copies), residual=residuals)
        if far is not None:
            near = brought_near(mean_square(far), errors.detach(), times)
            reference = DenoisingErrors(*near.chunk(copies), residual=far)
        terms = config.loss.aims.loss(current, reference, config.loss)
        with explained():
            (terms.loss.sum() * weight).backward()
        return Statistics(
            terms.loss,
            terms.role,
            terms.logits,
            terms.winner_margin,
            terms.sample_margin,
            current.winner,
            torch.full_like(shares, math.nan) if reference is None else reference.winner,
            shares,
        ).table()

    def _residuals(self, inputs: Sequence[Any], *key: int) -> Tensor:
        """Residuals [B, ...] of the active weights; what draws at random on the way draws the same for the same key."""
        if not self.reached:
            self.again = partial(self._residuals, inputs, *key)
        with isolated_global_rng(derived_seed(*key, "forward")):
            return self.policy.residuals(*inputs)

    def _clip(self) -> Tensor:
        """Undo the loss scale, clip, and return the norm before clipping, on the device."""
        if self.scaling.factor != 1.0:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.scaling.factor)
        longest = self.config.optimizer.clip or math.inf
        return torch.nn.utils.clip_grad_norm_(self.parameters, longest)
