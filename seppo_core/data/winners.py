"""Winning images as they were given: pictures with captions, decoded only when asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..errors import DatasetError
from .pictures import Picture


@dataclass(frozen=True)
class Winner:
    """One winning image."""

    picture: Picture
    caption: str
    repeats: int = 1
    """how often it counts within one pass over the data"""
    losing: Picture | None = None
    """the image that lost against it, where pairs are given"""

    @property
    def name(self) -> str:
        return self.picture.name

    def load(self) -> Image.Image:
        """The picture as upright RGB. DatasetError says why it cannot be read."""
        return self.picture.load()

    def content(self) -> str:
        """A hash over the picture's stored bytes."""
        return self.picture.content()


@dataclass(frozen=True)
class LeftOut:
    """A picture that is not used, and the reason."""

    name: str
    reason: str


def nothing_usable(source: str, left_out: Sequence[LeftOut]) -> DatasetError:
    """The error for a set without a single usable picture."""
    reasons = "".join(f"\n  {item.name}: {item.reason}" for item in left_out[:5])
    return DatasetError(f"{source}: no usable image. Give at least one picture.{reasons}")


class Winners(Sequence[Winner]):
    """A set of winning images. At least one; what could not be used is listed in `left_out`."""

    def __init__(
        self, winners: Sequence[Winner], source: str, left_out: Sequence[LeftOut] = ()
    ) -> None:
        if not winners:
            raise nothing_usable(source, left_out)
        self._winners = winners
        self.source = source
        """where they come from, for messages"""
        self.left_out = list(left_out)

    def __len__(self) -> int:
        return len(self._winners)

    def __getitem__(self, index: int) -> Winner:
        return self._winners[index]

    @property
    def identity(self) -> str:
        """Changes with any picture, caption, repeat, pair or their order; reads every file."""
        digest = hashlib.sha256()
        for winner in self:
            losing = winner.losing.content() if winner.losing else ""
            parts = (winner.content(), losing, winner.caption, winner.repeats)
            digest.update(repr(parts).encode())
        return digest.hexdigest()

    def report(self, limit: int = 50) -> str:
        """What is there, in a few lines, and what was left out and why (the first `limit` of them)."""
        passes = sum(winner.repeats for winner in self)
        captions = len({winner.caption for winner in self})
        lines = [f"{self.source}: {len(self)} winning images, {captions} different captions"]
        if passes != len(self):
            lines.append(f"with repeats they count as {passes} per pass")
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)}")
            lines += [f"  {item.name}: {item.reason}" for item in self.left_out[:limit]]
        if len(self.left_out) > limit:
            lines.append(f"  and {len(self.left_out) - limit} more")
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
