"""Style at equal content, which the search chooses by and modes are ranked by; and content at equal style."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .records import Job, Record

CONTENT_KEPT = 0.8
"""Share of the base's content at which styles are compared."""
BASE = "base"
WEAKER, STRONGER = (0.5, 0.25, 0.125, 0.0625), (2.0, 4.0, 8.0, 16.0, 32.0)
"""Of the LoRA, besides 1: tried in turn until content crosses what must be kept, then one between the last two."""


@dataclass(frozen=True)
class AtContent:
    """The most style that leaves a share of the base's content."""

    style: float
    strength: float
    """of the LoRA there"""
    is_most: bool
    """whether content or style fell before the last strength looked at; if not, more style may be had"""


def find_base(records: Sequence[Record], split: str) -> Record | None:
    return next((r for r in records if is_base(r.job) and r.job.split == split), None)


def is_base(job: Job) -> bool:
    return job.mode == BASE


def least_content(records: Sequence[Record], split: str) -> float:
    """What is left of the base's content where styles are compared; 0 before the base was measured."""
    base = find_base(records, split)
    return CONTENT_KEPT * base.front[0]["content"] if base else 0.0


def points_of(run: Record, base: Record, away: bool = False) -> list[dict[str, float]]:
    """What was seen at each strength of the LoRA, from none on; `away` from the base, or drawn as usual."""
    nothing = {**base.front[0], "strength": 0.0}
    seen = run.away_from_base if away else run.front
    return sorted([nothing, *seen], key=lambda point: point["strength"])


def between(before: dict, after: dict, key: str, wanted: float) -> dict[str, float]:
    """Where `key` is `wanted` between two points, by linear interpolation."""
    share = (before[key] - wanted) / (before[key] - after[key])
    return {
        name: before[name] + share * (after[name] - before[name])
        for name in ("style", "content", "strength")
    }


def best_style(run: Record, base: Record) -> float:
    """At equal content, in the way of drawing that makes most of it."""
    return max(style_at_content(run, base, away).style for away in (False, True))


def style_as_trained(run: Record, base: Record) -> float:
    """Drawn away from the base at strength 1; below 0, by what is missing, where less than enough content is kept."""
    point = next(point for point in run.away_from_base if point["strength"] == 1.0)
    missing = CONTENT_KEPT * base.front[0]["content"] - point["content"]
    return -missing if missing > 0 else point["style"]


def style_at_content(run: Record, base: Record, away: bool = False) -> AtContent:
    """The most style at any strength of the LoRA up to where enough of the base's content is left.

    That strength lies between two that were looked at. Style may be highest before:
    fine-tuning made too strong loses style and keeps content.
    """
    points = points_of(run, base, away)
    wanted, most = CONTENT_KEPT * points[0]["content"], points[0]
    for before, after in pairwise(points):
        crosses = after["content"] < wanted
        last = between(before, after, "content", wanted) if crosses else after
        most = max(most, last, key=lambda point: point["style"])
        if crosses:
            return AtContent(most["style"], most["strength"], is_most=True)
    return AtContent(most["style"], most["strength"], is_most=most["style"] > points[-1]["style"])


def content_at_style(run: Record, base: Record, wanted: float) -> float | None:
    """The most content at any strength of the LoRA that makes at least so much style; None if none does."""
    points = points_of(run, base)
    found = [point["content"] for point in points if point["style"] >= wanted]
    for before, after in pairwise(points):
        if min(before["style"], after["style"]) < wanted <= max(before["style"], after["style"]):
            found.append(between(before, after, "style", wanted)["content"])
    return max(found, default=None)
