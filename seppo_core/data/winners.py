"""Winning images as they were given: pictures with captions, decoded only when asked for."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import DatasetError
from .captions import encodable
from .generation import Generation
from .pictures import Picture

if TYPE_CHECKING:
    from .wording import Wording

MAX_REASONS = 50


@dataclass(frozen=True, slots=True)
class Winner:
    """One winning image."""

    picture: Picture
    caption: str
    repeats: int = 1
    """how often it counts within one pass over the data"""
    losing: Picture | None = None
    """the image that lost against it, where pairs are given"""
    about: Generation | None = None
    """how it was generated, where its file was asked and told"""
    wording: "Wording | None" = None
    """what becomes of the caption before it is encoded; None leaves it as it is"""
    more: tuple[str, ...] = ()
    """other captions of the picture; training draws one of all each time"""

    @property
    def name(self) -> str:
        return self.picture.name

    def captions(self) -> tuple[str, ...]:
        """All that training reads for the caption."""
        return tuple(text for variants in self.wordings() for text in variants)

    def wordings(self) -> list[tuple[str, ...]]:
        """What training reads for each of its captions: first the given order of its tags.

        A prefix or a typed caption may hold halves of characters, too.
        """
        texts = (self.caption, *self.more)
        worded = [self.wording.variants(text) if self.wording else (text,) for text in texts]
        return [tuple(map(encodable, variants)) for variants in worded]

    def load(self, background: str = "white") -> Image.Image:
        """The picture as upright RGB. DatasetError says why it cannot be read."""
        return self.picture.load(background)

    def content(self) -> str:
        """A hash over the picture's stored bytes."""
        return self.picture.content()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that is not used, and the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.reason}")


def printable(text: str) -> str:
    """One line that any log can take: line breaks and bytes that are no text are spelled out."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text.encode("utf-8", "backslashreplace").decode()


class NothingUsableError(DatasetError):
    """A set holds not a single usable picture."""


def nothing_usable(source: str, left_out: Sequence[LeftOut]) -> NothingUsableError:
    return NothingUsableError(
        f"{source}: no usable image. Give at least one picture." + listed(left_out, 5)
    )


def require_none(source: str, left_out: Iterable[LeftOut]) -> None:
    """What `strict` asks for: DatasetError that names all of `left_out` with their reasons."""
    if items := list(left_out):
        raise DatasetError(
            f"{source}: {len(items)} cannot be used:{listed(items, 20)}\n"
            "Repair or remove these, or do without strict"
        )


def grouped(left_out: Sequence[LeftOut], limit: int) -> list[LeftOut]:
    """Those of one reason as one, with up to `limit` names."""
    names: dict[str, list[str]] = {}
    for item in left_out:
        names.setdefault(item.reason, []).append(item.name)
    groups = []
    for reason, every in names.items():
        more = f" and {len(every) - limit} more" if len(every) > limit else ""
        groups.append(LeftOut(", ".join(every[:limit]) + more, reason))
    return groups


def listed(left_out: Sequence[LeftOut], limit: int) -> str:
    """A line for each, those of one reason together; `limit` names are given for each reason."""
    groups = grouped(left_out, limit)
    lines = [f"\n  {group}" for group in groups[:MAX_REASONS]]
    rest = len(groups) - MAX_REASONS
    return "".join(lines) + (f"\n  and {rest} more reasons" if rest > 0 else "")


class Winners(Sequence[Winner]):
    """A set of winning images. At least one; what could not be used is listed in `left_out`."""

    def __init__(
        self,
        winners: Sequence[Winner],
        source: str,
        left_out: Sequence[LeftOut] = (),
        notes: Sequence[str] = (),
    ) -> None:
        if not winners:
            raise nothing_usable(source, left_out)
        self._winners = winners
        self.source = source
        """where they come from, for messages"""
        self.left_out = list(left_out)
        self.notes = list(notes)
        """lines for the report"""

    def __len__(self) -> int:
        return len(self._winners)

    def __getitem__(self, index: int) -> Winner:
        return self._winners[index]

    @property
    def identity(self) -> str:
        """Changes with any picture, caption, wording, repeat, pair or their order; reads every file."""
        digest = hashlib.sha256()
        for winner in self:
            losing = winner.losing.content() if winner.losing else ""
            parts = (winner.content(), losing, winner.caption, winner.wording, winner.repeats)
            digest.update(repr(parts + winner.more).encode())
        return digest.hexdigest()

    def report(self) -> str:
        """What is there, in a few lines, and what was left out and why."""
        passes = sum(winner.repeats for winner in self)
        captions = len({text for winner in self for text in (winner.caption, *winner.more)})
        lines = [f"{self.source}: {len(self)} winning images, {captions} different captions"]
        if passes != len(self):
            lines.append(f"with repeats they count as {passes} per pass")
        models = Counter(w.about.model for w in self if w.about and w.about.model)
        if models:
            made = ", ".join(f"{model} ({count})" for model, count in models.most_common(5))
            lines.append(printable(f"their files name the models they were made with: {made}"))
        lines += self.notes
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)}{listed(self.left_out, 20)}")
        return "\n".join(lines)


def pair_up(
    pictures: Sequence[Picture],
    captions: Sequence[str],
    losing: Sequence[Picture] = (),
    source: str = "images",
) -> Winners:
    """Winners from lists at hand; one caption may serve all pictures. DatasetError names both counts."""
    if not pictures:
        raise DatasetError(f"{source}: no images; connect at least one")
    if len(captions) not in (1, len(pictures)):
        raise DatasetError(
            f"{source}: {len(pictures)} images but {len(captions)} captions; "
            "give one caption for each image, or a single one for all"
        )
    if losing and len(losing) != len(pictures):
        raise DatasetError(
            f"{source}: {len(pictures)} winning but {len(losing)} losing images; "
            "give one losing image for each winner, or none"
        )
    every = [*captions] * len(pictures) if len(captions) == 1 else [*captions]
    empty = [index for index, caption in enumerate(every) if not caption.strip()]
    if empty:
        raise DatasetError(
            f"{source}: {len(empty)} of {len(pictures)} images have an empty caption "
            f"(first: image {empty[0] + 1}); write what is to be seen there"
        )
    losers = [*losing] or [None] * len(pictures)
    rows = zip(pictures, every, losers, strict=True)
    winners = [Winner(picture, text.strip(), losing=loser) for picture, text, loser in rows]
    return Winners(winners, source)
