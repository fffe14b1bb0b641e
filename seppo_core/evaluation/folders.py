"""What `seppo evaluate` does: scores of the pictures in a folder, and of their partners in a second one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch

from ..data.readers import read_winners
from ..data.winners import Winner, Winners
from ..errors import DatasetError
from ..files import write_json
from . import make_scorer
from .scoring import Choice, choices, fetch, find, score
from .statistics import compare, comparison_line, summary
from .weights import HUB

ANY = "a picture"
"""Caption of pictures without one, where no scorer reads it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    pictures: Path
    """a folder that any reader of `data.READERS` takes"""
    against: Path | None
    """pictures of the same names, compared with them"""
    scorers: Sequence[str]
    """`name=weights` each; weights are a folder, a file or hub:owner/name"""
    caption: str
    """for pictures that have none of their own"""
    words: Path | None
    """folder with CLIP's tokenizer, for weights without one"""
    cache: Path
    device: str
    batch_size: int


def evaluate(settings: Evaluation, say: Say) -> dict[str, dict[str, list[float]]]:
    """Scorer -> name of the picture -> its score, and its partner's if there is one; told as it comes."""
    chosen = [located(name, weights, settings.words) for name, weights in choices(settings.scorers)]
    reads_captions = any(make_scorer(choice.name).reads_captions for choice in chosen)
    caption = settings.caption or ("" if reads_captions else ANY)
    sides = [read_winners(settings.pictures, caption=caption)]
    if settings.against:
        sides.append(read_winners(settings.against, caption=caption or ANY))
    say("\n".join(side.report() for side in sides))
    rows = partners(sides)
    captions = [row[0].caption for row in rows]
    results: dict[str, dict[str, list[float]]] = {}
    for choice in chosen:
        columns = [
            score(
                choice,
                (row[side].load() for row in rows),
                captions,
                cache=settings.cache,
                device=torch.device(settings.device),
                batch_size=settings.batch_size,
            )
            for side in range(len(sides))
        ]
        names = [row[0].name for row in rows]
        values = [list(scores) for scores in zip(*columns, strict=True)]
        results[choice.name] = dict(zip(names, values, strict=True))
        say(summary(choice.name, columns[0], names))
        if len(columns) == 2:
            names = (settings.against.name, settings.pictures.name)
            say(comparison_line(choice.name, compare(columns[1], columns[0]), *names))
    return results


def located(name: str, weights: str, words: Path | None) -> Choice:
    """The scorer with its files; those of a repository are fetched."""
    return find(
        name, fetch(name, weights) if weights.startswith(HUB) else Path(weights or "."), words
    )


def partners(sides: Sequence[Winners]) -> list[list[Winner]]:
    """A row for each picture of the first side with the one of the same name in each other side."""
    tables = [{_stem(winner): winner for winner in side} for side in sides]
    lacking = [name for name in tables[0] if not all(name in table for table in tables)]
    if lacking:
        raise DatasetError(
            f"{sides[1].source}: {len(lacking)} of {len(tables[0])} pictures have no partner there (first: "
            f"{lacking[0]}); pictures are compared under the same name"
        )
    return [[table[name] for table in tables] for name in tables[0]]


def _stem(winner: Winner) -> str:
    return str(PurePath(winner.name).with_suffix(""))


def save(path: Path, results: dict[str, dict[str, list[float]]]) -> None:
    write_json(path, results)
