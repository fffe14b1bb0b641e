"""Style at equal content: what the search chooses by, and what modes are ranked by."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .records import Job, Record

CONTENT_KEPT = 0.8
"""Share of the base's content at which styles are compared."""
BASE = "base"
WEAKER, STRONGER = (0.5, 0.25, 0.125, 0.0625), (2.0, 4.0, 8.0, 16.0)
"""Of the LoRA, besides 1: tried in turn until content crosses what must be kept, then one between the last two."""


@dataclass(frozen=True)
class AtContent:
    """The most style that leaves a share of the base's content."""

    style: float
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


def style_at_content(run: Record, base: Record, kept: float = CONTENT_KEPT) -> AtContent:
    """The most style at any strength of the LoRA up to where `kept` of the base's content is left.

    That strength lies between two that were looked at, by linear interpolation. Style may be highest before:
    fine-tuning made too strong loses style and keeps content.
    """
    nothing = {**base.front[0], "strength": 0.0}
    points = sorted([nothing, *run.front], key=lambda p: p["strength"])
    wanted, most = kept * nothing["content"], nothing["style"]
    for before, after in pairwise(points):
        if after["content"] < wanted:
            share = (before["content"] - wanted) / (before["content"] - after["content"])
            style = before["style"] + share * (after["style"] - before["style"])
            return AtContent(max(most, style), is_most=True)
        most = max(most, after["style"])
    return AtContent(most, is_most=most > points[-1]["style"])
