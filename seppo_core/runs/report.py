"""What one optimizer step was like: the line of metrics.jsonl and what hosts show of it."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ExampleReport:
    """One winner of a step, with its reference sample."""

    winner: int
    """its place in the dataset"""
    level: float
    """of the noise, as a share of the schedule: 1 is the noisiest"""
    role: float
    """of the sample: above 0 it loses, below it is learned from, 0 it is left out"""
    winner_margin: float
    sample_margin: float


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. Means over its winners; a mean over nothing is None."""

    step: int
    """counted from 1"""
    loss: float | None
    """None if loss or gradient was not finite: the step was not applied"""
    winner_margin: float | None
    winner_margin_floor: float | None = field(default=None, kw_only=True)
    """how far from zero rounding alone moves it; None where that is nothing, in float32"""
    sample_margin_losing: float | None
    sample_margin_winning: float | None
    flip_rate: float | None
    """share of samples that are not pushed away (role <= 0)"""
    implicit_accuracy: float | None
    """share of logits above 0, ties counted half"""
    policy_error: float | None
    """denoising error of the policy on the winners"""
    reference_error: float | None
    grad_norm: float | None
    lr: float
    reference_step: int | None
    """the pool entry that was the reference"""
    seconds: float
    held_out_margin: float | None
    """mean over held-out winners of the error after this step minus that of the initial weights"""
    steps: int = field(metadata={"logged": False})
    """how many the run will have"""
    examples: tuple[ExampleReport, ...] = field(default=(), metadata={"logged": False})
    """one for each winner, in the order of the batch; empty where nothing is compared or the step was not applied"""
    preview: Tensor | None = field(default=None, metadata={"logged": False})
    """latents [1, ...] to look at: the sample of the first example, or one of the policy's own"""
    caption: str = field(default="", metadata={"logged": False})
    """of the preview"""
    alarm: str = field(default="", metadata={"logged": False})
    """what is wrong with the run; empty if nothing is"""
    undone: bool = field(default=False, metadata={"logged": False})
    """whether the run went back to an earlier step after this one"""

    def metrics(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        return {
            f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("logged", True)
        }


NOT_APPLIED: dict[str, None] = dict.fromkeys(
    (
        *("loss", "winner_margin", "sample_margin_losing", "sample_margin_winning", "flip_rate"),
        *("implicit_accuracy", "policy_error", "reference_error", "grad_norm"),
    )
)
"""The statistics of a step whose loss or gradient was not finite."""
