"""How often and by how much paired scores differ, each with its 95 % interval.

Pairs count as independent of each other. Nothing here needs more than the standard library.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

from ..errors import ConfigError

CONFIDENCE = 0.95
TAIL = (1 + CONFIDENCE) / 2
"""The probability below the upper end of an interval."""


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float
    """ends of the 95 % interval; infinite where the data say nothing"""


@dataclass(frozen=True)
class Comparison:
    """Paired scores of two sides; positive differences speak for the second."""

    pairs: int
    wins: int
    """pairs where the second side scores higher"""
    ties: int
    win_rate: Estimate
    """of the second side; ties count half"""
    difference: Estimate
    """mean of second minus first"""
    first: float
    second: float
    """mean scores"""


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Scores of the same prompts and seeds, in the same order; ConfigError if their counts differ."""
    if len(first) != len(second) or not first:
        raise ConfigError(
            f"{len(first)} scores cannot be compared with {len(second)}: give one partner for each picture"
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    wins = sum(difference > 0 for difference in differences)
    ties = differences.count(0)
    return Comparison(
        pairs=len(differences),
        wins=wins,
        ties=ties,
        win_rate=wilson(wins + ties / 2, len(differences)),
        difference=mean_with_interval(differences),
        first=fmean(first),
        second=fmean(second),
    )


def wilson(wins: float, count: int) -> Estimate:
    """A share with Wilson's score interval (1927), which stays within 0..1 however few there are."""
    z = NormalDist().inv_cdf(TAIL)
    share = wins / count
    widened = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / widened
    half = z / widened * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """A mean with Student's t interval; of a single value the interval is the whole line."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    half = t_quantile(TAIL, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def t_cdf(t: float, freedom: int) -> float:
    """Student's distribution for whole degrees of freedom, by its finite series.

    Abramowitz and Stegun, 26.7.3 and 26.7.4, with theta = atan(t / sqrt(freedom)).
    """
    theta = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = freedom % 2
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for k in range(1 + is_odd, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    within = 2 / math.pi * (theta + sine * total) if is_odd else sine * total
    return (1 + within) / 2


@lru_cache
def t_quantile(probability: float, freedom: int) -> float:
    """The t below which lies `probability`, which has to be at least one half; by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def comparison_line(
    name: str, found: Comparison, first: str = "base", second: str = "aligned"
) -> str:
    """One scorer's comparison in two lines."""
    rate, mean = found.win_rate, found.difference
    if math.isinf(mean.low):
        interval = "one pair gives no interval"
    else:
        interval = f"95 %: {mean.low:+.4g} to {mean.high:+.4g}"
    ties = f", {found.ties} ties counted half" if found.ties else ""
    return (
        f"{name}: {second} wins {rate.value:.1%} of {found.pairs} pairs "
        f"(95 %: {rate.low:.1%} to {rate.high:.1%}){ties}\n"
        f"    mean difference {mean.value:+.4g} ({interval}); "
        f"{first} {found.first:.4g}, {second} {found.second:.4g}"
    )


def summary(name: str, scores: Sequence[float], pictures: Sequence[str]) -> str:
    """One scorer's scores in a line; `pictures` are their names."""
    lowest, highest = (scores.index(end(scores)) for end in (min, max))
    spread = f", standard deviation {stdev(scores):.4g}" if len(scores) > 1 else ""
    return (
        f"{name}: mean {fmean(scores):.4g} of {len(scores)} pictures{spread}; lowest {scores[lowest]:.4g} "
        f"({pictures[lowest]}), highest {scores[highest]:.4g} ({pictures[highest]})"
    )
