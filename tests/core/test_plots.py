"""Pictures: what is drawn where, and that no caption and no odd value breaks them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seppo_core.views.anchor import AnchorMap, Verdict, level_positions
from seppo_core.views.plots import curves, heat_map, printable, series, smoothed, wrapped

AWKWARD = (
    "",
    "costs $5 and $\\frac{1}{ $ _^",
    "\u65e5\u672c\u8a9e \U0001f431\u200d\U0001f464 new\nline\ttab \x00\x1b[31m"
    + "\u5f88\u957f" * 200,
    "averylongword" * 60,
)


def anchors(margins: torch.Tensor, reference: bool = True, captions=()) -> AnchorMap:
    """A map with these margins [W, L, D] (or errors, without a reference)."""
    zeros = torch.zeros_like(margins)
    count, levels, _ = margins.shape
    return AnchorMap(
        positions=tuple(range(count)),
        captions=tuple(captions) or ("",) * count,
        levels=level_positions(levels),
        policy_errors=margins,
        reference_errors=zeros if reference else None,
        roles=torch.sign(-margins) if reference else None,
    )


def plain(colour: str = "white") -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def colour_at(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return picture.getpixel((x, y))


def test_blue_is_ahead_red_is_behind_and_zero_is_pale():
    margins = torch.tensor([[[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]])
    picture = heat_map(anchors(margins), [plain()])
    assert picture.size == (1200, 130 + 150 + 150)
    y = 130 + 20  # in the only row, above the numbers
    width = (1200 - 30 - 330) / 3
    ahead, level, behind = (colour_at(picture, round(330 + width * (i + 0.1)), y) for i in range(3))
    assert ahead[2] > ahead[0] + 40
    assert behind[0] > behind[2] + 40
    assert min(level) > 240
    assert max(level) - min(level) < 6


def test_scale_is_centred_whatever_the_margins():
    """A map whose margins are all positive still paints the small ones pale red, never blue."""
    margins = torch.tensor([[[0.1, 0.1], [1.0, 1.0]]])
    picture = heat_map(anchors(margins), [plain()])
    red, _, blue = colour_at(picture, 350, 150)
    assert red >= blue > 200


def test_columns_are_sorted_by_noise():
    margins = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    rising = anchors(margins)
    falling = AnchorMap(**{**rising.__dict__, "levels": torch.tensor([900.0, 10.0])})
    left = colour_at(heat_map(falling, [plain()]), 350, 150)
    assert left[2] > left[0]  # the second column, the one with less noise, is ahead: blue


def test_pictures_stand_beside_their_row():
    margins = torch.ones(2, 2, 2)
    verdicts = [Verdict(torch.zeros(1), 0.25, 0.75, 0.0), Verdict(torch.zeros(1), 1.0, 0.0, 0.0)]
    picture = heat_map(
        anchors(margins), [plain("red"), plain("lime")], [plain("blue"), plain("black")], verdicts
    )
    assert colour_at(picture, 20 + 64, 130 + 8 + 64) == (255, 0, 0)
    assert colour_at(picture, 20 + 64, 280 + 8 + 64) == (0, 255, 0)
    assert colour_at(picture, 880 + 64, 130 + 8 + 64) == (0, 0, 255)
    assert colour_at(picture, 880 + 64, 280 + 8 + 64) == (0, 0, 0)
    words = np.asarray(picture.crop((1018, 138, 1199, 280)))
    assert (words.min(axis=2) < 120).any()


def test_wide_and_tall_pictures_keep_their_shape():
    picture = heat_map(anchors(torch.ones(1, 2, 2)), [Image.new("RGB", (40, 20), "red")])
    column = [colour_at(picture, 84, y) == (255, 0, 0) for y in range(130, 280)]
    row = [colour_at(picture, x, 170) == (255, 0, 0) for x in range(0, 300)]
    assert (sum(row), sum(column)) == (128, 64)


def test_awkward_captions_are_drawn_without_a_warning(recwarn):
    margins = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    shown = anchors(margins, captions=AWKWARD)
    picture = heat_map(shown, [plain()] * 4, title=AWKWARD[1] * 9, subtitle=AWKWARD[2])
    assert picture.width == 1200
    assert [str(w.message) for w in recwarn if "lyph" in str(w.message)] == []
    beside = np.asarray(picture.crop((322, 130, 329, 730)))
    assert beside.min() > 250  # captions stay clear of the cells


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-9, 3e7, math.nan, math.inf])
def test_any_value_draws(reference, value):
    grid = torch.full((1, 2, 1), value)
    assert heat_map(anchors(grid, reference), [plain()]).size == (1200, 430)


def test_errors_without_a_run_have_no_zero_centre():
    errors = torch.tensor([[[0.1, 0.1], [0.4, 0.4]]])
    picture = heat_map(anchors(errors, reference=False), [plain()])
    low, high = colour_at(picture, 350, 150), colour_at(picture, 1100, 150)
    assert sum(high) > sum(low) + 100


def test_text_is_wrapped_to_its_width_and_cut_with_dots():
    assert wrapped("one two three", 1000, 10) == "one two three"
    lines = wrapped("one two three four five six", 60, 10, 2).split("\n")
    assert len(lines) == 2 and lines[0].startswith("one") and lines[1].endswith("\u2026")
    assert wrapped("", 100, 10) == ""
    assert len(wrapped("x" * 500, 100, 10, 3).split("\n")) == 3


def test_characters_without_a_glyph_become_boxes():
    assert printable("a\n b\x00\u200bc") == "a bc"
    assert printable("\U0010fffd") == "\u25a1"
    assert printable("$x$") == "$x$"


def line(step: int, **values) -> dict:
    return {"step": step, "loss": 0.7, "policy_error": 0.2, **values}


def test_nulls_and_infinite_values_are_skipped():
    metrics = [
        line(1, flip_rate=None),
        line(2, flip_rate=0.5),
        line(3, flip_rate=math.inf),
        line(4, flip_rate=0.25),
        line(5),
    ]
    assert series(metrics, "flip_rate") == ([2, 4], [0.5, 0.25])


@pytest.mark.parametrize("value", [[], {}, "0.5", math.nan, -math.inf, 10**400, 1e300])
def test_values_that_no_axis_can_show_are_left_out_of_curves(value):
    metrics = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": value}, {"step": 10**40, "loss": 0.1}]
    assert series(metrics, "loss") == ([1], [0.5])
    assert curves(metrics).width == 1200


def test_running_mean_of_a_hand_worked_row():
    # windows: (1, 2), (1, 2, 6), (2, 6, 4), (6, 4)
    assert smoothed([1, 2, 6, 4], 3) == [1.5, 3.0, 4.0, 5.0]
    assert smoothed([5.0], 1) == [5.0]


def preference_line(step: int) -> dict:
    names = ("winner_margin", "sample_margin_losing", "sample_margin_winning", "flip_rate")
    names += ("implicit_accuracy", "reference_error")
    return line(step, **{name: 0.1 * step for name in names})


def test_curves_have_a_panel_for_what_was_measured():
    six = curves([preference_line(step) for step in range(1, 40)], "run $1 \U0001f431")
    two = curves([line(step) for step in range(1, 40)])
    none = curves([])
    assert six.size == (1200, 60 + 3 * 310)
    assert two.size == (1200, 60 + 310)
    assert none.size == (1200, 60 + 310)
    assert curves([preference_line(1)]).size == six.size


def test_curve_falls_where_the_values_fall():
    falling = [line(step, loss=1 - step / 50) for step in range(1, 50)]
    picture = np.asarray(curves(falling).convert("L"))[110:320, 90:580]
    rows = [np.flatnonzero(picture[:, x] < 60) for x in (60, 430)]
    assert rows[0].size and rows[1].size
    assert rows[0].mean() < rows[1].mean() - 80  # upper on the left, lower on the right


def orange(picture: Image.Image) -> np.ndarray:
    """Where the held-out curve is: rows and columns of its pixels."""
    red, green, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    return np.argwhere((red > 200) & (abs(green - 130) < 25) & (blue < 60))


def test_held_out_margin_is_a_second_line_in_the_winner_margins_panel():
    def run(**values):
        return [
            {**preference_line(step), **(values if step % 20 == 0 else {})}
            for step in range(1, 101)
        ]

    lines = run(held_out_margin=-5.0)
    picture = curves(lines)
    assert picture.size == curves(run()).size == curves(run(held_out_margin=None)).size
    assert len(orange(curves(run()))) == 0
    rows, columns = orange(picture).T
    assert 100 <= rows.min() and rows.max() < 320  # the second panel: upper right
    assert 84 + 586 <= columns.min() and columns.max() < 1176
    lowest = rows.max()  # five values of -5 on one line, with a marker at each
    on_line = columns[rows >= lowest - 6]
    assert np.ptp(on_line) > 300
    # Markers are higher than the line: at every 20th step, evenly spaced.
    heights = np.bincount(columns[rows >= lowest - 6], minlength=1200)
    peaks = np.flatnonzero(heights > heights[heights > 0].min() + 2)
    starts = peaks[np.diff(peaks, prepend=-9) > 1]
    assert len(starts) == 5
    assert np.ptp(np.diff(starts)) <= 2


def test_what_rounding_alone_does_to_the_winner_margin_is_a_grey_band_around_zero():
    lines = [{**preference_line(step), "winner_margin": 0.0} for step in range(1, 41)]
    plain = np.asarray(curves(lines).convert("L")).astype(int)
    floors = [{**line, "winner_margin_floor": 0.04} for line in lines]
    banded = np.asarray(curves(floors).convert("L")).astype(int)
    assert np.abs(banded - plain)[:, :600].max() == 0  # the winner margin's panel is on the right
    assert np.abs(banded - plain)[420:].max() == 0  # and in the first row
    rows = np.flatnonzero((banded[100:320, 700:1160] < 250).mean(axis=1) > 0.9)
    assert len(rows) > 100  # the axis reaches little farther than the band
    nothing = [{**line, "winner_margin_floor": None} for line in lines]
    assert curves(nothing).tobytes() == curves(lines).tobytes()


def test_cells_that_rounding_may_have_made_are_grey_and_say_so():
    margins = torch.tensor([[[-1.0, -1.0], [0.001, 0.001]]])
    decided = anchors(margins)
    # Twice .01 times the root of (1 / 2): .014 lies between both margins.
    shown = replace(
        decided, policy_errors=margins + 1, reference_errors=torch.ones(1, 2, 2), roughness=0.01
    )
    assert shown.undecided.tolist() == [[False, True]]
    ahead, level = (colour_at(heat_map(shown, [plain()]), x, 150) for x in (350, 1100))
    assert ahead[2] > ahead[0] + 40
    assert level == (196, 196, 196)
    assert colour_at(heat_map(decided, [plain()]), 1100, 150) != level


def test_a_run_without_references_shows_its_held_out_margin():
    lines = [line(step, held_out_margin=-0.1 * step if step % 2 else None) for step in range(1, 9)]
    picture = curves(lines)
    assert picture.size == (1200, 60 + 2 * 310)  # loss, winner margin, errors
    assert len(orange(picture)) > 100


def test_other_codes_matplotlib_settings_are_neither_used_nor_lost():
    import matplotlib

    before = curves([preference_line(step) for step in range(1, 9)])
    with matplotlib.rc_context({"axes.facecolor": "black", "text.color": "red"}):
        inside = curves([preference_line(step) for step in range(1, 9)])
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    assert inside.tobytes() == before.tobytes()
