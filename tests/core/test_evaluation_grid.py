"""The grid of pairs: where pictures stand, and what becomes of many, large and oddly named ones."""

import numpy as np
import pytest
from PIL import Image

from seppo_core.views.grid import CELL, MAX_PROMPTS, MAX_SEEDS, Pair, pairs_grid

BASE, ALIGNED = (200, 30, 40), (30, 60, 200)


def pairs(prompts: list[str], seeds: int, size=(64, 80)) -> list[Pair]:
    return [
        Pair(prompt, seed, Image.new("RGB", size, BASE), Image.new("RGB", size, ALIGNED))
        for prompt in prompts
        for seed in range(seeds)
    ]


def boxes(grid: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Upper left corners (top, left) of the areas of one colour."""
    there = (np.asarray(grid) == colour).all(-1)
    corner = there.copy()
    corner[1:] &= ~there[:-1]
    corner[:, 1:] &= ~there[:, :-1]
    return [tuple(place) for place in np.argwhere(corner).tolist()]


def test_aligned_pictures_stand_below_those_of_the_base_for_each_prompt_and_seed():
    grid = pairs_grid(pairs(["a fox", "two birds"], 3))
    upper, lower = boxes(grid, BASE), boxes(grid, ALIGNED)
    assert len(upper) == len(lower) == 6
    assert [left for _, left in upper] == [left for _, left in lower]
    tops = sorted({top for top, _ in upper}), sorted({top for top, _ in lower})
    assert tops[0][0] < tops[1][0] < tops[0][1] < tops[1][1]
    assert min(b - a for a, b in zip(*tops, strict=True)) >= 80 + 10, "room for the label"


def test_long_and_odd_prompts_do_not_change_the_width():
    plain = pairs_grid(pairs(["a fox"], 2)).width
    for prompt in ("long words " * 100, "$x_{1$ \\frac", "\u5c71 \U0001f98a", "", "\x00\u202e"):
        grid = pairs_grid(pairs([prompt], 2))
        assert grid.width == plain and len(boxes(grid, BASE)) == 2


def test_large_pictures_are_made_smaller_and_keep_their_proportions():
    grid = pairs_grid(pairs(["a fox"], 1, size=(2048, 1024)))
    rows = (np.asarray(grid) == BASE).all(-1)
    assert rows.any(0).sum() == CELL and rows.any(1).sum() == CELL // 2


@pytest.mark.parametrize(("prompts", "seeds"), [(MAX_PROMPTS + 5, 1), (2, MAX_SEEDS + 3)])
def test_of_many_pairs_the_first_are_shown(prompts, seeds):
    grid = pairs_grid(pairs([f"prompt {i}" for i in range(prompts)], seeds))
    shown = min(prompts, MAX_PROMPTS) * min(seeds, MAX_SEEDS)
    assert len(boxes(grid, BASE)) == shown
    below = np.asarray(grid)[max(top for top, _ in boxes(grid, ALIGNED)) + 80 :]
    assert below.min() < 200, "a line says how many there are"
