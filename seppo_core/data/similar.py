"""Winners that look nearly the same: found by a hash of what they show, and reported or dropped.

The hash says of 8x8 cells whether the next one to the right, and the next one below, is brighter: 128 bits.
Two pictures are nearly the same if few bits differ and their 4x4 mean colours are close.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..errors import ConfigError, DatasetError
from .winners import LeftOut, Winners, printable, require_none

DUPLICATES = ("report", "drop", "off")
"""What becomes of the later ones: named in a note, left out, or not even looked for."""

MAX_BITS = 17
MAX_COLOURS = 10.5
"""How much nearly equal pictures may differ: of 128 bits, and on average of 48 colour values in 0..255.

Measured on 120 drawings of 64x64 and 216 photos and renderings: recompressed (JPEG, quality 60), halved, 5 %
brighter or cut by 2 %, all are found; of all other pairs only those that show one picture before and after.
"""

BRIGHTER = 2
"""Cells that differ by less are equal, so that noise in flat parts does not count."""

PLAIN = 16
"""Pictures whose brightness spans less show too little to be compared; only copies of their bytes are equal."""

BANDS = 9
"""Of MAX_BITS differences one band of nine has at most one, so neighbours are found by their bands."""

CELLS = 128
NAMED = 10
_BAND_OF = np.arange(CELLS) % BANDS
_WEIGHTS = np.where(
    _BAND_OF[:, None] == np.arange(BANDS), (1 << np.arange(CELLS) // BANDS)[:, None], 0
)
_WIDTHS = np.bincount(_BAND_OF).tolist()
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)

OnItem = Callable[[int, int], None]


def examine(
    winners: Winners,
    duplicates: str = DUPLICATES[0],
    on_item: OnItem = lambda done, total: None,
    strict: bool = False,
) -> Winners:
    """The winners without those that cannot be decoded, and with near-duplicates told or dropped.

    Of pictures that look nearly the same the first stays. `on_item(done, total)` runs after each picture and
    may raise to stop. "off" gives the winners as they are, without a look at them. Under `strict` what
    cannot be decoded is a DatasetError.
    """
    if duplicates not in list(DUPLICATES):
        raise ConfigError(f"unknown near_duplicates {duplicates!r}; choose from {list(DUPLICATES)}")
    if duplicates == "off":
        return winners
    pairs, gone = _compare(winners, on_item)
    if strict:
        require_none(winners.source, gone.values())
    notes = list(winners.notes)
    if duplicates == "drop":
        reasons = {later: f"nearly the same as {winners[first].name}" for later, first in pairs}
        gone |= {later: LeftOut(winners[later].name, why) for later, why in reasons.items()}
    elif pairs:
        notes.append(_note(winners, pairs))
    kept = [winner for index, winner in enumerate(winners) if index not in gone]
    left_out = [*winners.left_out, *(gone[index] for index in sorted(gone))]
    return Winners(kept, winners.source, left_out, notes)


def near_duplicates(
    winners: Winners, on_item: OnItem = lambda done, total: None
) -> list[tuple[int, int]]:
    """(index of the later, index of the earlier that it resembles), by the later; one row for each later.

    Pairs with losing images resemble each other only if they have the same one.
    """
    return _compare(winners, on_item)[0]


def _compare(winners: Winners, on_item: OnItem) -> tuple[list[tuple[int, int]], dict[int, LeftOut]]:
    """The near-duplicates, and what cannot be decoded by its index."""
    seen = Seen(len(winners))
    copies: dict[str, list[int]] = {}
    pairs: list[tuple[int, int]] = []
    damaged: dict[int, LeftOut] = {}
    for index, winner in enumerate(winners):
        try:
            shown = fingerprint(winner.load())
            if shown is None:
                others = copies.setdefault(winner.content(), [])
            else:
                others = seen.matches(*shown)
            same = (i for i in others if _losing(winners, i) == _losing(winners, index))
            first = next(same, None)
        except DatasetError as error:
            reason = str(error).removeprefix(f"{winner.name}: ")
            damaged[index] = LeftOut(winner.name, reason)
        else:
            if first is not None:
                pairs.append((index, first))
            elif shown is None:
                others.append(index)
            else:
                seen.add(index, *shown)
        on_item(index + 1, len(winners))
    return pairs, damaged


def _losing(winners: Winners, index: int) -> str:
    losing = winners[index].losing
    return losing.content() if losing else ""


def _note(winners: Winners, pairs: list[tuple[int, int]]) -> str:
    named = [f"{winners[later].name} and {winners[first].name}" for later, first in pairs[:NAMED]]
    more = f"; and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    return printable(
        f"{len(pairs)} look nearly the same as an earlier one: {'; '.join(named)}{more}"
    )


def fingerprint(image: Image.Image) -> tuple[np.ndarray, np.ndarray] | None:
    """128 bits as bool and 48 colour values as uint8 of an RGB picture; None if it is too plain."""
    grey = image.convert("L")
    across = _cells(grey, 9, 8)
    down = _cells(grey, 8, 9)
    if np.ptp(across) < PLAIN:
        return None
    bits = [np.diff(across, axis=1) > BRIGHTER, np.diff(down, axis=0) > BRIGHTER]
    colours = np.asarray(image.resize((4, 4), Image.Resampling.LANCZOS))
    return np.concatenate([part.ravel() for part in bits]), colours.ravel()


def _cells(grey: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(grey.resize((width, height), Image.Resampling.LANCZOS), dtype=np.int16)


@dataclass
class Seen:
    """Fingerprints by their index, and where to look for those near another one."""

    count: int
    """of indexes at most"""
    bands: dict[int, array] = field(default_factory=dict)
    """band and its bits as one number -> indexes"""

    def __post_init__(self) -> None:
        self.bits = np.zeros((self.count, CELLS // 8), dtype=np.uint8)
        self.colours = np.zeros((self.count, 48), dtype=np.uint8)

    def add(self, index: int, bits: np.ndarray, colours: np.ndarray) -> None:
        self.bits[index] = np.packbits(bits)
        self.colours[index] = colours
        for name in _band_names(bits):
            self.bands.setdefault(name, array("I")).append(index)

    def matches(self, bits: np.ndarray, colours: np.ndarray) -> list[int]:
        """Indexes of what is nearly the same, in order."""
        near = []
        for band, name in enumerate(_band_names(bits)):
            for flipped in (0, *(1 << place for place in range(_WIDTHS[band]))):
                if found := self.bands.get(name ^ flipped):
                    near.append(np.array(found, dtype=np.int64))
        indexes = np.concatenate(near) if near else np.zeros(0, dtype=np.int64)
        differing = _ONES[self.bits[indexes] ^ np.packbits(bits)].sum(1, dtype=np.int64)
        indexes = indexes[differing <= MAX_BITS]
        apart = np.abs(self.colours[indexes].astype(np.int16) - colours).mean(1)
        return sorted(set(indexes[apart <= MAX_COLOURS].tolist()))


def _band_names(bits: np.ndarray) -> list[int]:
    """A number for each band, which says also which band it is."""
    values = bits.astype(np.int64) @ _WEIGHTS
    return ((np.arange(BANDS) << 16) + values).tolist()
