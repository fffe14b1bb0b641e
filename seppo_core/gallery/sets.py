"""Named sets of pictures: what was marked by hand, and which of two was found better. A JSON file each."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ConfigError, DatasetError
from ..files import make_folder, write_json

SUFFIX = ".set.json"
MAX_PICTURES = 20_000
MAX_ADDRESS = 2_000
PATIENCE = 20.0
"""Seconds that a change waits for those before it."""

PAIRED = ("retract", "choose")
"""Parts of a change that are about two pictures."""

Pair = tuple[str, str]
"""Addresses of the better picture and of the other one."""


@dataclass(frozen=True)
class PictureSet:
    """Addresses of pictures; see `places`."""

    by_hand: tuple[str, ...] = ()
    choices: tuple[Pair, ...] = ()
    """in the order they were made"""

    @property
    def marked(self) -> tuple[str, ...]:
        """The winners: what was marked by hand, then what won the last comparison it was in."""
        stands: dict[str, bool] = {}
        for better, other in self.choices:
            stands |= {better: True, other: False}
        by_choice = (address for address, won in stands.items() if won)
        return tuple(dict.fromkeys([*self.by_hand, *by_choice]))

    @property
    def beaten(self) -> dict[str, str]:
        """A picture -> the last one that it was found better than."""
        return dict(self.choices)


@dataclass(frozen=True)
class Change:
    """What becomes of a set, in this order."""

    remove: tuple[str, ...] = ()
    """no longer winners; the comparisons that they won are forgotten"""
    add: tuple[str, ...] = ()
    retract: tuple[Pair, ...] = ()
    choose: tuple[Pair, ...] = ()
    """each replaces what was said of the same two before"""

    @property
    def brings(self) -> list[str]:
        """Addresses that the set may not have had before."""
        return [*self.add, *(address for pair in self.choose for address in pair)]

    def applied(self, to: PictureSet) -> PictureSet:
        gone = {*self.remove}
        by_hand = dict.fromkeys(address for address in to.by_hand if address not in gone)
        by_hand |= dict.fromkeys(self.add)
        decided = {frozenset(pair) for pair in (*self.retract, *self.choose)}
        choices = [
            pair for pair in to.choices if pair[0] not in gone and frozenset(pair) not in decided
        ]
        return PictureSet(tuple(by_hand), (*choices, *self.choose))


def changes_from(values: Any) -> list[Change]:
    """From JSON: one change or a list of them, each an object with lists of addresses `add` and `remove`,
    and of pairs [better, other] `choose` and `retract`.
    """
    return [_change(value) for value in (values if isinstance(values, list) else [values])]


def _change(values: Any) -> Change:
    known = [field.name for field in fields(Change)]
    if not isinstance(values, dict) or not values.keys() <= {*known}:
        raise ConfigError(f"expected a JSON object with some of {known} and nothing else")
    read = {name: (_pairs if name in PAIRED else _addresses)(values[name]) for name in values}
    return Change(**read)


def _addresses(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(
        isinstance(value, str) and len(value) <= MAX_ADDRESS for value in values
    ):
        raise ConfigError(f"expected a list of addresses of up to {MAX_ADDRESS} characters each")
    return tuple(values)


def _pairs(values: Any) -> tuple[Pair, ...]:
    pairs = [_addresses(pair) for pair in values] if isinstance(values, list) else [()]
    if any(len({*pair}) != 2 for pair in pairs):
        raise ConfigError("expected a list of pairs [better, other] of different addresses")
    return tuple((better, other) for better, other in pairs)


def read_set(path: Path) -> PictureSet:
    """The set in a file; an empty one where there is no file. DatasetError if it is damaged."""
    try:
        values = json.loads(path.read_text("utf-8"))
        return PictureSet(_addresses(values["by_hand"]), _pairs(values["choices"]))
    except FileNotFoundError:
        return PictureSet()
    except OSError as error:
        raise DatasetError(f"{path}: the set cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, RecursionError, ConfigError) as error:
        raise DatasetError(
            f"{path}: is no set of pictures ({error}); repair the file, or remove it to begin anew"
        ) from None


def change_set(path: Path, *changes: Change) -> PictureSet:
    """Apply changes to the set in a file, whoever else changes it; what it became.

    It is on the disk when this returns. A set that is left empty has no file.
    """
    with _alone(path.parent):
        became = read_set(path)
        for change in changes:
            became = change.applied(became)
        if len(became.by_hand) + len(became.choices) > MAX_PICTURES:
            raise DatasetError(
                f"a set holds up to {MAX_PICTURES:,} marks and comparisons; take another set for more"
            )
        if became == PictureSet():
            path.unlink(missing_ok=True)
        else:
            write_json(path, asdict(became))
        return became


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes a set of this folder during the block, in this process or another."""
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise DatasetError(
            f"{folder}: the sets are being changed elsewhere for over {PATIENCE:.0f} s; try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def set_names(folder: Path) -> list[str]:
    """The sets of a folder, the one changed last first."""
    found = [path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path.name.removesuffix(SUFFIX) for path in found]
