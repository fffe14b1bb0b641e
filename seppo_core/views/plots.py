"""Pictures of a run: curves over its steps, and the anchor's heat map. The one module with matplotlib.

Nothing here computes what it shows; nothing global of matplotlib is left changed.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from PIL import Image

from .anchor import AnchorMap, Verdict
from .panels import BLUE, FLOORS, GREY, INK, RED, SHARES, Panel, panels_of, series, smoothed

FAINT, UNDECIDED = "#8a8a8a", "#c4c4c4"
DPI = 100
WIDTH = 1200
"""pixels"""
CJK_FONTS = (
    "Noto Sans CJK SC,Noto Sans CJK JP,Microsoft YaHei,Yu Gothic,PingFang SC,WenQuanYi Zen Hei"
)
FONTS = ("DejaVu Sans", *CJK_FONTS.split(","), "Noto Emoji", "Segoe UI Emoji")
"""Tried in this order for each character; those that are not installed are passed over."""


@contextmanager
def _page(width: int, height: int) -> Iterator[tuple[Figure, Axes]]:
    """White, in pixels from the upper left corner; drawn in matplotlib's own style, whatever is set."""
    with style.context("default"):
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        page = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
        page.set(xlim=(0, width), ylim=(height, 0))
        yield figure, page


def _picture(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


# Text that a user wrote.


@cache
def _fonts() -> dict[str, FT2Font]:
    """Those of FONTS that are here, in the face that text is drawn in: condensed ones have the same name."""
    installed = {entry.name for entry in fontManager.ttflist}
    faces = {name: FontProperties(family=[name]) for name in FONTS if name in installed}
    return {name: get_font(fontManager.findfont(face)) for name, face in faces.items()}


@cache
def _advance(character: str) -> float:
    """Width of a character as a share of the font size; 0 if no font here has it."""
    for font in _fonts().values():
        if font.get_char_index(ord(character)):
            font.set_size(64, 72)
            return font.load_char(ord(character)).linearHoriAdvance / 65536 / 64
    return 0.0


def _length(text: str) -> float:
    return sum(map(_advance, text))


def printable(text: str) -> str:
    """`text` on one line, with a box for every character that no font here can draw."""
    kept = []
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn", "Mn", "Me"):
            kept.append(character if _advance(character) else "\N{WHITE SQUARE}")
    return "".join(kept)


def wrapped(text: str, pixels: float, size: float, lines: int = 1) -> str:
    """`text` broken at spaces, or where it must be, to fit `pixels` in points `size`; dots if cut."""
    width = pixels * 72 / DPI / size
    rows, row = [], ""
    for word in re.findall(r" ?[^ ]+", printable(text)):
        if row and _length(row + word) > width:
            rows, row, word = [*rows, row], "", word.lstrip()
        for character in word:
            if row and _length(row + character) > width:
                rows, row = [*rows, row], ""
            row += character
    rows.append(row)
    if len(rows) > lines:
        last = rows[lines - 1]
        while last and _length(last + "\N{HORIZONTAL ELLIPSIS}") > width:
            last = last[:-1]
        rows = [*rows[: lines - 1], last.rstrip() + "\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(rows)


def _write(axes: Axes, x: float, y: float, text: str, size: float, **look: Any) -> None:
    """Text in axes coordinates, taken literally (a `$` starts no formula)."""
    weight = "bold" if look.pop("bold", False) else "normal"
    font = FontProperties(family=list(_fonts()), size=size, weight=weight)
    look = {"color": INK, "ha": "left", "va": "top", "transform": axes.transAxes, **look}
    axes.text(x, y, text, fontproperties=font, parse_math=False, **look)


def text_picture(text: str, width: int, size: float, lines: int = 1, **look: Any) -> Image.Image:
    """`text` in points `size` on white, `width` pixels wide, as high as the lines it takes."""
    text = wrapped(text, width, size, lines)
    height = round((text.count("\n") + 1.2) * size * 1.25 * DPI / 72)
    with _page(width, height) as (figure, page):
        _write(page, 0, 0.5, text, size, va="center", **look)
        return _picture(figure)


# Curves.

PANEL = 310
"""height of a panel with its words, pixels"""


def curves(metrics: Sequence[Mapping[str, Any]], title: str = "") -> Image.Image:
    """The run's progress as one picture, 1200 wide: raw values faint, a running mean over them.

    A panel for everything the run measured, two side by side, 310 pixels high each.
    """
    panels = panels_of(metrics)
    height = 60 + PANEL * max(1, -(-len(panels) // 2))
    with _page(WIDTH, height) as (figure, page):
        _say(page, 84, 16, wrapped(title, WIDTH * 0.8, 15), 15, bold=True)
        if not panels:
            _say(page, 84, 80, "no optimizer step yet", 12, color=FAINT)
        for index, panel in enumerate(panels):
            x, y = 84 + 586 * (index % 2), 100 + PANEL * (index // 2)
            box = (x / WIDTH, 1 - (y + 220) / height, 506 / WIDTH, 220 / height)
            _curve_panel(figure.add_axes(box), metrics, panel)
        return _picture(figure)


def _curve_panel(axes: Axes, metrics: Sequence[Mapping[str, Any]], panel: Panel) -> None:
    title, meaning, fields, line = panel
    steps, floors = series(metrics, FLOORS.get(fields[0][0], ""))
    if any(floors):
        below = [-floor for floor in floors]
        label = "closer to zero than rounding can tell"
        axes.fill_between(steps, below, floors, color=GREY, alpha=0.25, linewidth=0, label=label)
    _write(axes, 0, 1.16, title, 13, bold=True)
    _write(axes, 0, 1.065, meaning, 10, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.tick_params(labelsize=10, colors=INK)
    axes.set_xlabel("optimizer step", fontsize=10, color=FAINT, labelpad=2)
    for name, label, colour in fields:
        steps, values = series(metrics, name)
        if not steps:
            continue
        # Few values stand on their own; a mean over distant steps would blur what they show.
        seldom = name == "held_out_margin" or len(values) < 12
        mean = smoothed(values, 1 if seldom else max(1, len(values) // 15) | 1)
        dots = "o" if seldom else None
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, mean, color=colour, linewidth=2, label=label, marker=dots, ms=4)
    if line is not None:
        axes.axhline(line, color=FAINT, linewidth=1, linestyle="--")
    if fields[0][0] in SHARES:
        axes.set_ylim(-0.03, 1.03)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(fields) > 1:
        axes.legend(fontsize=10, frameon=False, loc="best")


# The anchor's heat map. Places are pixels from the upper left corner.

ROW, THUMBNAIL = 150, 128
TOP, BOTTOM = 130, 150
CELLS = (330, 855)
"""first and last pixel of the heat map's columns beside samples"""


def heat_map(
    anchors: AnchorMap,
    winners: Sequence[Image.Image],
    samples: Sequence[Image.Image] = (),
    verdicts: Sequence[Verdict] = (),
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Winners (rows) by noise levels (columns, low to high), 1200 pixels wide.

    With a reference: margins on a scale centred at zero, the flip share in every cell, and beside each row
    the reference sample with its verdict if there is one. Without: the winners' errors. `winners` and
    `samples` are one picture per row of `anchors`.
    """
    rows = len(anchors.positions)
    height = TOP + rows * ROW + BOTTOM
    left, right = CELLS if samples else (CELLS[0], WIDTH - 30)
    with _page(WIDTH, height) as (figure, page):
        _say(page, 20, 18, wrapped(title, WIDTH * 0.85, 16), 16, bold=True)
        _say(page, 20, 52, wrapped(subtitle, WIDTH - 40, 11), 11, color=FAINT)
        _say(page, 20, 100, "Winner", 12, bold=True)
        if samples:
            _say(page, right + 25, 100, "Reference sample", 12, bold=True)
        for row in range(rows):
            y = TOP + row * ROW
            _paste(figure, winners[row], 20, y + 8)
            _say(page, 160, y + 8, wrapped(anchors.captions[row], left - 175, 10, 7), 10)
            if samples:
                _paste(figure, samples[row], right + 25, y + 8)
            if verdicts:
                _say_verdict(page, verdicts[row], right + 163, y + 8)
        cells = figure.add_axes(
            (left / WIDTH, BOTTOM / height, (right - left) / WIDTH, rows * ROW / height)
        )
        _draw_cells(figure, page, cells, anchors, left, height)
        return _picture(figure)


def _say(page: Axes, x: float, y: float, text: str, size: float, **look: Any) -> None:
    _write(page, x / page.get_xlim()[1], 1 - y / page.get_ylim()[0], text, size, **look)


def _paste(figure: Figure, picture: Image.Image, x: int, y: int) -> None:
    """The picture in a square of THUMBNAIL pixels, whole, not distorted."""
    factor = THUMBNAIL / max(picture.size)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    array = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    bottom = round(figure.get_figheight() * DPI) - y - size[1]
    figure.figimage(array, x + (THUMBNAIL - size[0]) // 2, bottom, origin="upper")


VERDICT_COLOURS = {"loses": RED, "is learned from": BLUE, "left out": GREY}


def _say_verdict(page: Axes, verdict: Verdict, x: float, y: float) -> None:
    _say(page, x, y, verdict.word, 12, bold=True, color=VERDICT_COLOURS[verdict.word])
    shares = (
        ("pushed away", verdict.losing),
        ("learned from", verdict.learned),
        ("left out", verdict.left_out),
    )
    lines = [f"{name} {share:.0%}" for name, share in shares if share > 0]
    _say(page, x, y + 28, "\n".join(lines), 10, linespacing=1.5)


@dataclass(frozen=True)
class Scale:
    """How the values of a map become numbers and colours."""

    what: str
    low: str
    high: str
    """words at the ends of the colour bar"""
    power: int
    """values are told in units of ten to this power"""
    decimals: int
    colours: str
    norm: Normalize


def _scale(means: np.ndarray, reference: bool) -> Scale:
    """Centred at zero for margins, from lowest to highest for errors."""
    finite = means[np.isfinite(means)] if np.isfinite(means).any() else np.zeros(1)
    limit = float(np.abs(finite).max())
    power = math.floor(math.log10(limit)) if limit > 0 else 0
    power, decimals = (0, min(3, 2 - power)) if -2 < power < 3 else (power, 2)
    unit = 10.0**power
    name = f", in 1e{power}" if power else ""
    if not reference:
        norm = Normalize(finite.min() / unit, finite.max() / unit)
        what = f"Denoising error of the winner{name}"
        return Scale(what, "explained best", "explained worst", power, decimals, "cividis", norm)
    limit = limit / unit or 1.0
    what = f"Winner margin, policy minus reference{name}"
    words = ("policy ahead of reference", "policy behind reference")
    return Scale(what, *words, power, decimals, "RdBu_r", TwoSlopeNorm(0.0, -limit, limit))


def _draw_cells(
    figure: Figure, page: Axes, cells: Axes, anchors: AnchorMap, left: int, height: int
) -> None:
    order = anchors.levels.argsort()
    means = anchors.means[:, order].numpy()
    scale = _scale(means, anchors.roles is not None)
    unit = 10.0**scale.power
    means, spread = means / unit, anchors.standard_error[:, order].numpy() / unit
    flips = None if anchors.flip_share is None else anchors.flip_share[:, order].numpy()
    _say(page, left, 88, scale.what, 12, bold=True)
    _say(page, left, 109, _legend(anchors), 9.5, color=FAINT)
    undecided = anchors.undecided[:, order].numpy()
    image = cells.imshow(means, cmap=scale.colours, norm=scale.norm, aspect="auto")
    for row, column in np.argwhere(undecided):
        place = (column - 0.5, row - 0.5)
        cells.add_patch(Rectangle(place, 1, 1, facecolor=UNDECIDED, edgecolor="white"))
    _say_cells(cells, image, means, spread, flips, undecided, scale.decimals)
    cells.set_yticks(np.arange(len(means) + 1) - 0.5, labels=[""] * (len(means) + 1))
    cells.set_xticks(np.arange(len(order)), [f"{v:.3g}" for v in anchors.levels[order].tolist()])
    cells.tick_params(length=0, labelsize=10, colors=INK)
    cells.grid(axis="y", color="white", linewidth=8)
    cells.spines[:].set_visible(False)
    words = "noise level in the model's own unit: little noise left, much noise right"
    cells.set_xlabel(words, fontsize=10, color=FAINT)
    width = cells.get_position().width
    bar = figure.add_axes((left / WIDTH, 44 / height, width, 16 / height))
    figure.colorbar(image, cax=bar, orientation="horizontal")
    bar.xaxis.set_ticks_position("top")
    bar.tick_params(top=False, pad=1, labelsize=10, colors=INK)
    bar.spines[:].set_visible(False)
    for x, ha, text in ((0, "left", scale.low), (1, "right", scale.high)):
        _write(bar, x, -0.4, text, 10.5, ha=ha, bold=True)


def _legend(anchors: AnchorMap) -> str:
    draws = anchors.values.shape[-1]
    text = f"mean of {draws} noise draws \N{PLUS-MINUS SIGN} its standard error"
    text = text if draws > 1 else "one noise draw"
    text = text if anchors.roles is None else f"{text}; share of draws whose sample flips"
    return f"{text}; grey: undecided, rounding alone may do it" if anchors.undecided.any() else text


def _say_cells(
    cells: Axes,
    image: Any,
    means: np.ndarray,
    spread: np.ndarray,
    flips: np.ndarray | None,
    undecided: np.ndarray,
    decimals: int,
) -> None:
    """The numbers in the cells, dark on light and light on dark; no flips where they are undecided."""
    size = 10.5 if means.shape[1] <= 8 else 8.5
    signed = "" if flips is None else "+"
    for row, column in np.ndindex(means.shape):
        value, error = means[row, column], spread[row, column]
        lines = [f"{value:{signed}.{decimals}f}" if math.isfinite(value) else "not\nfinite"]
        if math.isfinite(error):
            lines.append(f"\N{PLUS-MINUS SIGN}{error:.{decimals}f}")
        if undecided[row, column]:
            lines += ["", "un-", "decided"]
        elif flips is not None:
            lines += ["", "flips", f"{flips[row, column]:.0%}"]
        red, green, blue, _ = image.cmap(image.norm(value))
        light = undecided[row, column] or 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
        look = {"color": INK if light else "white", "linespacing": 1.2}
        cells.text(column, row, "\n".join(lines), ha="center", va="center", fontsize=size, **look)
