"""Pictures of two models one above the other, for the same prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .plots import FAINT, text_picture

CELL = 512
"""Longest side in pixels of a picture in the grid; smaller ones are not enlarged."""
MIN_CELL = 128
"""Narrower columns would have no room for their labels."""
MARGIN = 12
PROMPT_SIZE, LABEL_SIZE = 14, 11
PROMPT_LINES = 2
MAX_PROMPTS, MAX_SEEDS = 12, 6
"""More would make a picture too large to look at; a line says how many there are."""


@dataclass(frozen=True)
class Pair:
    """What both models drew from one prompt and seed."""

    prompt: str
    seed: int
    base: Image.Image
    aligned: Image.Image


def pairs_grid(pairs: Sequence[Pair], names: tuple[str, str] = ("base", "aligned")) -> Image.Image:
    """A block for each prompt: its words, then a column for each seed with the base above the aligned picture."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    seeds = list(dict.fromkeys(pair.seed for pair in pairs))
    shown = [
        [pair for pair in pairs if pair.prompt == prompt][:MAX_SEEDS]
        for prompt in prompts[:MAX_PROMPTS]
    ]
    cell = max(MIN_CELL, max(_small(pair.base).width for row in shown for pair in row))
    width = MARGIN + max(map(len, shown)) * (cell + MARGIN)
    parts = [_block(row, names, cell, width) for row in shown]
    if len(prompts) > MAX_PROMPTS or len(seeds) > MAX_SEEDS:
        counts = f"{len(shown)} of {len(prompts)} prompts, {len(shown[0])} of {len(seeds)} seeds"
        parts.append(text_picture(counts, width - 2 * MARGIN, LABEL_SIZE, color=FAINT))
    page = Image.new("RGB", (width, MARGIN + sum(part.height + MARGIN for part in parts)), "white")
    top = MARGIN
    for part in parts:
        page.paste(part, (0 if part.width == width else MARGIN, top))
        top += part.height + MARGIN
    return page


def _block(row: Sequence[Pair], names: tuple[str, str], cell: int, width: int) -> Image.Image:
    prompt = row[0].prompt or "(empty prompt)"
    heading = text_picture(prompt, width - 2 * MARGIN, PROMPT_SIZE, PROMPT_LINES)
    columns = [_column(pair, names, cell) for pair in row]
    block = Image.new("RGB", (width, heading.height + columns[0].height), "white")
    block.paste(heading, (MARGIN, 0))
    for place, column in enumerate(columns):
        block.paste(column, (MARGIN + place * (cell + MARGIN), heading.height))
    return block


def _column(pair: Pair, names: tuple[str, str], cell: int) -> Image.Image:
    parts: list[Image.Image] = []
    for name, picture in zip(names, (pair.base, pair.aligned), strict=True):
        parts += [text_picture(f"{name}, seed {pair.seed}", cell, LABEL_SIZE), _small(picture)]
    column = Image.new("RGB", (cell, sum(part.height for part in parts) + MARGIN // 2), "white")
    top = 0
    for part in parts:
        column.paste(part, (0, top))
        top += part.height
    return column


def _small(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return small
