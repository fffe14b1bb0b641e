"""The SePPO loss and the anchor criteria: pure functions of per-example denoising errors.

Winner and reference sample of an example share noise and level, so the winner's margin (the anchor)
tells whether the policy is ahead of the reference there. Source: arXiv 2410.05255; the pairwise form is
Diffusion-DPO's (arXiv 2311.12908, eq. 14) with T * omega(lambda) absorbed in beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..settings import Section, setting

KNUTH = 2654435761
"""A multiplier that spreads the bits of a number over 32 (The Art of Computer Programming, 6.4)."""


def mean_square(residuals: Tensor) -> Tensor:
    """Denoising errors [B] of residuals [B, ...] (prediction - target): the mean runs over all but the first."""
    return residuals.square().flatten(1).mean(1)


@dataclass(frozen=True)
class DenoisingErrors:
    """Mean squared prediction error of each example, float32."""

    winner: Tensor
    """[B]"""
    sample: Tensor | None = None
    """[B], the reference sample (or the losing image of a pair); None for an objective without"""
    residual: Tensor | None = None
    """[B, ...], prediction - target of the winner; None for an objective that contrasts"""


@dataclass(frozen=True)
class LossTerms:
    """What the loss is made of, per example; the caller reduces. Every field is a Tensor[B]."""

    loss: Tensor
    role: Tensor
    """s: +1 the sample loses, -1 it is learned from, 0 it is left out"""
    logits: Tensor
    winner_margin: Tensor
    """d_w = e_policy - e_reference of the winner; below 0 the policy explains it better"""
    sample_margin: Tensor
    """d_r, the same of the reference sample"""


def sign(anchor: Tensor, loser_weight: float) -> Tensor:
    """The paper's criterion: learn from the sample where the policy is behind on the winner."""
    return torch.sign(anchor)


def indicator(anchor: Tensor, loser_weight: float) -> Tensor:
    """The paper's ablation: leave the sample out where the policy is behind or level."""
    return (anchor > 0).to(anchor.dtype)


def always_loses(anchor: Tensor, loser_weight: float) -> Tensor:
    """No criterion: every sample is pushed away, as in DPO and SPIN-Diffusion."""
    return torch.ones_like(anchor)


def constant(anchor: Tensor, loser_weight: float) -> Tensor:
    """Every sample is pushed away with the same weight in [0, 1]; the control for the others."""
    return torch.full_like(anchor, loser_weight)


def random_gate(anchor: Tensor, loser_weight: float) -> Tensor:
    """A coin in place of the comparison: the sample loses with probability `loser_weight`, else it is left out.

    The control that tells whether the comparison matters. The coin is a hash of the anchor's bits
    without its sign, so that no state is needed; a tie is left out, as by `indicator`.
    """
    bits = anchor.float().abs().view(torch.int32).to(torch.int64)
    for _ in range(2):
        bits = bits * KNUTH % 2**32
        bits = bits ^ (bits >> 16)
    coin = bits < round(loser_weight * 2**32)
    return (coin & (anchor != 0)).to(anchor.dtype)


CRITERIA: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sign": sign,
    "indicator": indicator,
    "none": always_loses,
    "constant": constant,
    "random": random_gate,
}


def make_criterion(name: str) -> Callable[[Tensor, float], Tensor]:
    """The criterion called `name`; ConfigError lists the choices."""
    try:
        return CRITERIA[name]
    except (KeyError, TypeError):
        raise ConfigError(
            f"unknown anchor criterion {name!r}; choose from {sorted(CRITERIA)}"
        ) from None


def seppo_loss(
    policy: DenoisingErrors,
    reference: DenoisingErrors,
    *,
    beta: float,
    criterion: str = "sign",
    loser_weight: float = 0.5,
) -> LossTerms:
    """-log sigmoid(-(beta / 2) (d_w - s d_r)) per example; gradients flow through `policy` only.

    `beta` is in the units of the Diffusion-DPO trainer, with the factor 1/2. `loser_weight` is read by
    the criteria "constant" and "random". At policy == reference the loss is ln 2 for every criterion.
    """
    winner_margin = policy.winner - reference.winner.detach()
    sample_margin = policy.sample - reference.sample.detach()
    role = make_criterion(criterion)(-winner_margin.detach(), loser_weight)
    logits = -beta / 2 * (winner_margin - role * sample_margin)
    return LossTerms(-F.logsigmoid(logits), role, logits, winner_margin, sample_margin)


def preference(
    policy: DenoisingErrors, reference: DenoisingErrors | None, config: LossConfig
) -> LossTerms:
    """The paper's: the policy gains on the reference at the winner, and on the sample loses or gains."""
    return seppo_loss(
        policy,
        reference,
        beta=config.beta,
        criterion=config.criterion,
        loser_weight=config.loser_weight,
    )


def winner_error(
    policy: DenoisingErrors, reference: DenoisingErrors | None, config: LossConfig
) -> LossTerms:
    """Fine-tuning (SFT): the policy's own error on the winner. Nothing is compared."""
    unknown = torch.full_like(policy.winner.detach(), math.nan)
    return LossTerms(policy.winner, *[unknown] * 4)


def guided(
    policy: DenoisingErrors, reference: DenoisingErrors | None, config: LossConfig
) -> LossTerms:
    """Fine-tuning towards a target beyond the winner: with reference r and winner t, towards r + g (t - r).

    || r + b (p - r) - t ||^2 / b with b = 1 / g and prediction p has its minimum there, and its gradient has
    the size of fine-tuning's whatever g is. g = 1 is fine-tuning. The same idea as guidance distillation and
    DogFit (arXiv 2508.05685). The winner's margin is that of r + b (p - r): of the policy as far as fine-tuning
    would have taken it, because the policy itself is meant to overshoot.
    """
    errors = mean_square(drawn_back(policy.residual, reference.residual, config.guidance))
    unknown = torch.full_like(policy.winner.detach(), math.nan)
    margin = errors.detach() - reference.winner
    return LossTerms(errors * config.guidance, unknown, unknown, margin, unknown)


def drawn_back(policy: Tensor, reference: Tensor, guidance: float) -> Tensor:
    """The residual of r + (p - r) / guidance, from those of the policy's p and the reference's r; equal ones stay equal."""
    return reference.lerp(policy, 1 / guidance)


@dataclass(frozen=True)
class Objective:
    """A loss, and what has to be there for it."""

    loss: Callable[[DenoisingErrors, DenoisingErrors | None, LossConfig], LossTerms]
    compares: bool
    """with a reference: an entry of the pool"""
    contrasts: bool
    """the winner with a sample: one that the reference drew, or the losing image of a pair"""
    overshoots: bool = False
    """by the factor `loss.guidance`, so that margins are those of the policy drawn back by it"""


OBJECTIVES = {
    "preference": Objective(preference, compares=True, contrasts=True),
    "winner_error": Objective(winner_error, compares=False, contrasts=False),
    "guided": Objective(guided, compares=True, contrasts=False, overshoots=True),
}


CHANGES = {"little": 2.0, "medium": 3.0, "much": 5.0}
"""Words for `guidance`, as SePPO Train has them."""


@dataclass(frozen=True)
class LossConfig(Section, section="loss"):
    objective: str = setting("preference", choices=OBJECTIVES)
    """`preference`: the SePPO loss; `winner_error`: the winner's denoising error alone (SFT); `guided`: SFT towards
    a target beyond the winner."""
    beta: float = setting(
        2000.0,
        "How strongly the model is held near its references; larger keeps it closer. "
        "About 2000 for SD models, nearer 500 for flow models (SD3, Flux, Wan).",
        above=0,
        least_shown=0.001,
        most_shown=1_000_000.0,
        step=1.0,
    )
    criterion: str = setting(
        "indicator",
        "What happens to a reference sample where the model is behind its reference: sign learns from it, "
        "indicator leaves it out; none always pushes it away, constant does so at a fixed weight, random by a "
        "coin, to compare with. Only preset 'custom' reads this.",
        choices=CRITERIA,
    )
    loser_weight: float = setting(
        0.5,
        "How strongly samples are pushed away under criterion 'constant', "
        "or how often under 'random'; the others do not read it.",
        least=0,
        most=1,
        step=0.05,
    )
    guidance: float = setting(3.0, least=1)
    """g of the objective `guided`: how many times as far as fine-tuning goes, away from the reference."""
    paired: bool = False
    """The dataset's losing images stand where the reference samples stand (DPO)."""

    @property
    def aims(self) -> Objective:
        return OBJECTIVES[self.objective]

    @property
    def overshoot(self) -> float:
        """How many times as far as its margins tell the policy is meant to go."""
        return self.guidance if self.aims.overshoots else 1.0

    @property
    def draws_samples(self) -> bool:
        """Whether the reference draws the samples (not for SFT, not on pairs)."""
        return self.aims.contrasts and not self.paired
