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
    """What lies beside the pictures of one root; each folder is looked at once."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.seen: dict[str, tuple[Folder, dict[str, str]]] = {}

    def around(self, name: str) -> tuple[Folder, dict[str, str]]:
        """A folder by its name below the root, and the captions by tables in it and above it."""
        if name not in self.seen:
            above = self.around(name.rpartition("/")[0])[1] if name else {}
            folder = next(walk(os.path.join(self.root, name), []))  # noqa: PTH118
            folder.name = name
            self.seen[name] = folder, above | table_captions(folder, self.root, [])
        return self.seen[name]


def read_picked(name: str, chosen: PictureSet, roots: Roots, reading: Reading) -> Winners:
    """The set's winners in the order they were marked, with captions as for a folder.

    Where every winner was found better than another picture, that one is its losing image. DatasetError if
    no picture is left, and under `strict` if one is missing.
    """
    winners: list[Winner] = []
    left_out: list[LeftOut] = []
    beside = {place: Neighbours(root) for place, root in roots.items()}
    for address in chosen.marked:
        try:
            winners.append(_winner(address, roots, beside, reading))
        except DatasetError as error:
            left_out.append(LeftOut(address, str(error)))
        reading.on_item(len(winners) + len(left_out))
    source = f"set {name!r}"
    if reading.strict:
        require_none(source, left_out)
    paired, note = _paired(winners, chosen, roots)
    return Winners(paired, source, left_out, [*note, *reading.notes()])


def _winner(address: str, roots: Roots, beside: dict[str, Neighbours], reading: Reading) -> Winner:
    path = located(roots, address)
    place, _, name = address.partition("/")
    folder, tables = beside[place].around(name.rpartition("/")[0])
    if path.name not in folder.files:
        raise DatasetError(GONE)
    picture = PictureFile(str(path), address)
    listed = tables.get(name)
    return winner_in(folder, path.name, picture, listed, beside[place].root, reading)


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
    folders: dict[Path, Folder] = {}
    for address in (*chosen.marked, *chosen.beaten.values()):
        try:
            path = located(roots, address)
        except DatasetError:
            continue
        if path.parent not in folders:
            folders[path.parent] = next(walk(path.parent, []))
        beside = [name for _, name in folders[path.parent].beside(path.name)]
        above = [*path.parents][: address.count("/")]
        tables = (folder / name for folder in above for name in captions.TABLES)
        for file in (path, *map(path.with_name, beside), *tables):
            try:
                status = file.stat()
            except OSError:
                continue
            rows.append((f"{address} {file}", status.st_size, status.st_mtime_ns))
    return rows
