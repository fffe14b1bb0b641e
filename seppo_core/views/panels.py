"""What the curves of a run show: a panel for everything it measured, and the numbers of each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INK = "#222222"
BLUE, RED, GREY, ORANGE = "#2166ac", "#b2182b", "#6b6b6b", "#e08214"

Series = tuple[str, str, str]
"""field of metrics.jsonl, label, colour"""

Panel = tuple[str, str, tuple[Series, ...], float | None]
"""title, what it means, series, a line to compare with"""

PANELS: tuple[Panel, ...] = (
    ("Loss", "ln 2 where policy = reference", (("loss", "loss", INK),), math.log(2)),
    (
        "Winner margin",
        "below 0: winners explained better",
        (
            ("winner_margin", "winners of the step, over its reference", BLUE),
            ("held_out_margin", "held-out winners, over the first weights", ORANGE),
        ),
        0.0,
    ),
    (
        "Sample margin",
        "above 0: the policy explains the sample worse",
        (
            ("sample_margin_losing", "samples that lose", RED),
            ("sample_margin_winning", "samples learned from", BLUE),
        ),
        0.0,
    ),
    ("Flip rate", "share of samples not pushed away", (("flip_rate", "flip rate", GREY),), None),
    (
        "Implicit accuracy",
        "share of examples with z > 0; a high value alone proves nothing",
        (("implicit_accuracy", "implicit accuracy", BLUE),),
        0.5,
    ),
    (
        "Denoising error on the winners",
        "mean squared, lower is better",
        (("policy_error", "policy", BLUE), ("reference_error", "reference", GREY)),
        None,
    ),
)
LOSS_ALONE: Panel = ("Loss", "denoising error of the winners", (("loss", "loss", INK),), None)
"""of a run without references"""
SHARES = ("flip_rate", "implicit_accuracy")
FLOORS = {"winner_margin": "winner_margin_floor"}
"""Field of a panel's first curve -> how far from zero rounding alone moves it."""


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over `window` (odd) neighbours of each value; fewer where the row ends."""
    half, array = window // 2, np.asarray(values, dtype=np.float64)
    return [float(array[max(0, i - half) : i + half + 1].mean()) for i in range(len(array))]


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one field; what is no number, or none that can be drawn, is left out."""
    known = [
        (line["step"], float(line[name]))
        for line in metrics
        if is_drawable(line.get(name)) and is_drawable(line["step"])
    ]
    return [step for step, _ in known], [value for _, value in known]


def is_drawable(value: Any) -> bool:
    """False for NaN, too, and beyond what axes can be drawn to; no measurement is so large."""
    return isinstance(value, int | float) and abs(value) < 1e30


def panels_of(metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Those that have something to show."""
    plain = not series(metrics, "winner_margin")[0]
    return [
        panel
        for panel in ((LOSS_ALONE, *PANELS[1:]) if plain else PANELS)
        if any(series(metrics, name)[0] for name, _, _ in panel[2])
    ]
