"""Winning images from a named set of pictures, wherever in the host's folders each of them lies."""

import os
from dataclasses import replace
from pathlib import Path

from ..data import captions
from ..data.captions import Reading
from ..data.folder import Folder, table_captions, walk, winner_in
from ..data.pictures import PictureFile
from ..data.winners import LeftOut, Winner, Winners, require_none
from ..errors import DatasetError
from .places import GONE, Roots, located
from .sets import PictureSet


class Neighbours:
    """What lies beside the pictures; each folder is looked at once."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self.seen: dict[Path, tuple[Folder, dict[str, str]]] = {}

    def around(self, path: Path, address: str) -> tuple[Folder, dict[str, str]]:
        """The picture's folder, and the captions that its tables hold."""
        if path.parent not in self.seen:
            folder = next(walk(path.parent, []))
            folder.name = address.partition("/")[2].rpartition("/")[0]
            found = table_captions(folder, self.root(address), [])
            self.seen[path.parent] = folder, found
        return self.seen[path.parent]

    def root(self, address: str) -> str:
        return os.path.realpath(self.roots[address.partition("/")[0]])


def read_picked(name: str, chosen: PictureSet, roots: Roots, reading: Reading) -> Winners:
    """The set's winners in the order they were marked, with captions as for a folder.

    Where every winner was found better than another picture, that one is its losing image. DatasetError if
    no picture is left, and under `strict` if one is missing.
    """
    winners: list[Winner] = []
    left_out: list[LeftOut] = []
    beside = Neighbours(roots)
    for address in chosen.marked:
        try:
            winners.append(_winner(address, beside, reading))
        except DatasetError as error:
            left_out.append(LeftOut(address, str(error)))
        reading.on_item(len(winners) + len(left_out))
    source = f"set {name!r}"
    if reading.strict:
        require_none(source, left_out)
    paired, note = _paired(winners, chosen, roots)
    return Winners(paired, source, left_out, note)


def _winner(address: str, beside: Neighbours, reading: Reading) -> Winner:
    path = located(beside.roots, address)
    folder, tables = beside.around(path, address)
    if path.name not in folder.files:
        raise DatasetError(GONE)
    listed = tables.get(folder.named(path.name), "")
    picture = PictureFile(str(path), address)
    return winner_in(folder, path.name, picture, listed, beside.root(address), reading)


def _paired(
    winners: list[Winner], chosen: PictureSet, roots: Roots
) -> tuple[list[Winner], list[str]]:
    """The winners with their losing images if all have one, and what the report says of that."""
    losing = {}
    for winner in winners:
        try:
            other = chosen.beaten[winner.name]
            losing[winner.name] = PictureFile(str(located(roots, other)), other)
        except (KeyError, DatasetError):
            continue
    if not losing:
        return winners, []
    if len(losing) < len(winners):
        note = f"{len(losing)} of {len(winners)} were found better than another; for pairs, all have to be"
        return winners, [note]
    pairs = [replace(winner, losing=losing[winner.name]) for winner in winners]
    return pairs, ["each was found better than another picture, which is its losing image"]


def state_of(chosen: PictureSet, roots: Roots) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that `read_picked` depends on."""
    rows = []
    for address in (*chosen.marked, *chosen.beaten.values()):
        try:
            path = located(roots, address)
        except DatasetError:
            continue
        beside = [path.stem + s for suffix in captions.SUFFIXES for s in (suffix, suffix.upper())]
        for name in (path.name, *beside, *captions.TABLES):
            try:
                status = os.stat(path.with_name(name))  # noqa: PTH116
            except OSError:
                continue
            rows.append((f"{address} {name}", status.st_size, status.st_mtime_ns))
    return rows
