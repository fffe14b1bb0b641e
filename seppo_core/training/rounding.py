"""What rounding does to margins: how large one must be to mean something, and how to see smaller ones.

A network that computes in half precision rounds every activation to 8 or 11 bits. Policy and reference round
differently as soon as their weights differ, so their margin has noise that does not shrink with it. What was
measured stands in benchmarks/README.md.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..adapters.lora import LoRA, Slot
from ..randomness import normal

CERTAIN = 2.0
"""Standard deviations of rounding by which a margin must differ from zero: 1 in 20 does by chance."""

NUDGE = 1e-3
"""How far weights are moved to have the network round anew."""

FAR = 16
"""Optimizer steps between policy and reference from which on a margin is measured at the reference itself."""


def is_rough(dtype: torch.dtype) -> bool:
    """Whether rounding shows in margins: in half precision. float32 keeps 16 bits more than bf16, 13 more than fp16."""
    return dtype.itemsize < 4


def stretch(dtype: torch.dtype, step: int, reference_step: int) -> float:
    """How many times as far from the policy as the reference a margin of `step` is measured.

    Rounding does not grow with the distance, the difference of errors does. Near a reference it is measured
    as far along the line as FAR steps lie, and divided by the same number.
    """
    return max(1.0, FAR / max(1, step - 1 - reference_step)) if is_rough(dtype) else 1.0


def brought_near(far: Tensor, own: Tensor, times: float) -> Tensor:
    """The reference's errors from those measured `times` as far from the policy's `own`; equal ones stay equal."""
    return far if times == 1.0 else own + (far - own) / times


def roughness(errors: Callable[[], Tensor], lora: LoRA, slot: Slot) -> Tensor:
    """Draws of a margin's rounding against `slot`, each divided by the root of its error; one for each of `errors()`.

    Moves the weights a little forth and back: e(w + h) + e(w - h) - 2 e(w) has no slope of e left in it and next to no
    curvature, but three roundings, of variance 6 s^2 where s^2 is an error's; a margin's is 2 s^2. Errors e = mean r^2
    change by mean 2 r d where predictions are rounded by d: s is proportional to the root of e.
    """
    found = []
    for weights in (nudged(slot, NUDGE), nudged(slot, -NUDGE), slot):
        with lora.using(weights):
            found.append(errors())
    forth, back, middle = found
    return (forth + back - 2 * middle) / (3 * middle).sqrt()


def nudged(slot: Slot, by: float) -> Slot:
    """`slot` with the last part of every layer moved by `by` times a standard normal number, always the same one."""

    def moved(name: str, *parts: Tensor) -> tuple[Tensor, ...]:
        *others, last = (part.detach() for part in parts)
        return *others, last + by * normal(tuple(last.shape), "nudge", name).to(last.device)

    return Slot((name, moved(name, *parts)) for name, parts in slot.items())


def floor(roughness: float, error: Any, count: int) -> Any:
    """How far from zero rounding moves the mean of `count` margins whose denoising errors are `error` on average."""
    return CERTAIN * roughness * (error / count) ** 0.5
