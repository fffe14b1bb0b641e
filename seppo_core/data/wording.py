"""What becomes of captions before they are encoded: a trigger word, words around them, orders of their tags."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from ..randomness import generator
from ..settings import Section, setting
from .winners import Winner, Winners

MOST_ORDERS = 100
TRIES_PER_ORDER = 20
"""Draws until an order is new; few tags have few orders, and then all of them are found."""

CLOSING = (",", ".", ";", ":", "!", "?")
"""A suffix that begins so stands right behind the caption."""

OPENING = {")": "(", "]": "[", "}": "{"}
"""By what closes it."""

FACE = re.compile(
    r"""(?<! [^\s(\[{] )
    ( [<>3\]}]? [:;=] ['^o~-]? \\? ( [)\]}] | [(\[{]+ )
    | \\? [()\[\]{}] ['^o~-]? [:;=] [<>]? )
    (?= $ | \s | :[\d.] | [)\]}] )""",
    re.VERBOSE,
)
"""`:)`, `>:(`, `:'(`, `(;` where a word may stand: their brackets open and close nothing."""


@dataclass(frozen=True)
class Wording(Section):
    """How a caption is worded for training. Each of its variants is encoded once, before training."""

    trigger: str = setting(
        "",
        "A word put in front of every caption that does not have it, to call up the style by later.",
    )
    prefix: str = setting("", "Text before every caption.")
    suffix: str = setting("", "Text after every caption.")
    shuffle: int = setting(
        0,
        "For captions of comma-separated tags: how many other orders of the tags are "
        "used besides the given one. Each is encoded once.",
        least=0,
        most=MOST_ORDERS,
        most_shown=64,
    )
    keep: int = setting(
        0,
        "So many first tags stay in their place when the others are shuffled.",
        least=0,
        most_shown=100,
    )
    dropout: float = setting(
        0.0,
        "Share of the times that a winner is trained on without its caption. 0.1 "
        "makes the result hold with weak prompts and guidance too.",
        least=0,
        most=1,
        step=0.05,
    )

    def apply(self, text: str) -> str:
        """`text` between prefix and suffix, behind the trigger word if that is not in it already."""
        around = " ".join(part for part in (self.prefix.strip(), text) if part)
        suffix = self.suffix.strip()
        around += suffix if suffix.startswith(CLOSING) else f" {suffix}" if suffix else ""
        trigger = self.trigger.strip()
        if not trigger or _holds(around, trigger):
            return around
        return f"{trigger}, {around}"

    def variants(self, caption: str) -> tuple[str, ...]:
        """The caption in its given order, then in others; all different, determined by the caption.

        Fewer than `shuffle` others come where its tags have no more.
        """
        return tuple(self.apply(text) for text in (caption, *self._others(caption)))

    def _others(self, caption: str) -> list[str]:
        tags = tags_of(caption) if self.shuffle else []
        fixed, free = self._parted(tags)
        if len(free) < 2:
            return []
        found = {", ".join(tags): None}
        draw = generator("tags", caption)
        for _ in range(self.shuffle * TRIES_PER_ORDER):
            order = torch.randperm(len(free), generator=draw).tolist()
            found[", ".join([*fixed, *(free[i] for i in order)])] = None
            if len(found) > self.shuffle:
                break
        return list(found)[1:]

    def _parted(self, tags: list[str]) -> tuple[list[str], list[str]]:
        """Tags that stay in front, the trigger's own first, and those that change places."""
        trigger = self.trigger.strip()
        own = {tag: None for tag in tags if trigger and _holds(tag, trigger)}
        first = [tag for tag in tags[: self.keep] if tag not in own]
        return [*own, *first], [tag for tag in tags[self.keep :] if tag not in own]


def tags_of(caption: str) -> list[str]:
    """What stands between a caption's commas; one inside brackets parts nothing: `(red, blue:1.2)` is one tag.

    Brackets that are never closed, or never opened, and those of faces are none.
    """
    pieces = caption.split(",")
    open_at: dict[str, list[int]] = {kind: [] for kind in OPENING.values()}
    depths = [0] * (len(pieces) + 1)
    """of the comma before each piece, as differences"""
    for place, piece in enumerate(pieces):
        for mark in FACE.sub("", piece.strip()):
            if mark in open_at:
                open_at[mark].append(place)
            elif mark in OPENING and open_at[OPENING[mark]]:
                depths[open_at[OPENING[mark]].pop() + 1] += 1
                depths[place + 1] -= 1
    tags: list[list[str]] = []
    for piece, depth in zip(pieces, accumulate(depths), strict=False):
        if depth:
            tags[-1].append(piece)
        else:
            tags.append([piece])
    return [tag for parts in tags if (tag := ",".join(parts).strip())]


def _holds(text: str, words: str) -> bool:
    """Whether `words` stand in `text` as whole words, in small or capital letters."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class _Reworded(Sequence[Winner]):
    winners: Winners
    wording: Wording

    def __len__(self) -> int:
        return len(self.winners)

    def __getitem__(self, index: int) -> Winner:
        return replace(self.winners[index], wording=self.wording)


def reworded(winners: Winners, wording: Wording) -> Winners:
    """The same winners with this wording, in place of any they had; nothing is read for it."""
    return Winners(_Reworded(winners, wording), winners.source, winners.left_out, winners.notes)
