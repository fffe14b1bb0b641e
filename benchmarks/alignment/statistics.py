"""Means over seeds with their intervals, and differences of two modes with the same seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    value: float
    half_width: float
    """of the 95 % interval by Student's t; NaN for a single value"""

    def __str__(self) -> str:
        return self.text(3)

    @property
    def signed(self) -> str:
        return self.text(3, "+")

    def text(self, digits: int, sign: str = "") -> str:
        value = f"{self.value:{sign}.{digits}f}"
        return value if math.isnan(self.half_width) else f"{value} ±{self.half_width:.{digits}f}"

    def scaled(self, factor: float) -> "Mean":
        return Mean(self.value * factor, self.half_width * factor)


def mean(values: Sequence[float]) -> Mean:
    middle = fmean(values)
    if len(values) < 2:
        return Mean(middle, math.nan)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return Mean(middle, float(quantile * stats.sem(values)))


@dataclass(frozen=True)
class Difference:
    mean: Mean
    p: float
    """two-sided, by the paired t-test; NaN for fewer than two pairs"""
    seeds: int


def paired(a: dict[int, float], b: dict[int, float]) -> Difference | None:
    """a - b over the seeds that both have; None without any."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    differences = [a[seed] - b[seed] for seed in seeds]
    if len(seeds) < 2:
        p = math.nan
    elif max(differences) == min(differences):
        p = 1.0 if differences[0] == 0 else 0.0
    else:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Difference(mean(differences), p, len(seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
