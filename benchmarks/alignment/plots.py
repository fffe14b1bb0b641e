"""A world's pictures: style against content, learning curves, flip rate over time."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from .front import CONTENT_KEPT, points_of, style_at_content  # noqa: E402
from .modes import IDEAS, MODES  # noqa: E402
from .records import Record  # noqa: E402

Runs = Mapping[str, Mapping[int, Record]]
WINDOW = 6
"""Steps over which a curve is averaged: its batches differ more than its steps."""
MARGIN = 1e-3
"""The winner margin below which its axis is linear."""


def draw(world: str, base: Record, modes: Runs, folder: Path) -> list[tuple[str, str]]:
    """Title and file name of each picture. Ideas are in the tables alone, for more lines could not be told apart."""
    made, modes = [], {name: runs for name, runs in modes.items() if name not in IDEAS}
    for title, name, paint in (
        ("Style against content as the LoRA gets stronger, means over the seeds", "front", _front),
        ("Style and content over the steps, first seed", "curves", _curves),
        ("Share of samples that are not pushed away, and winner margin", "flips", _flips),
    ):
        figure = paint(base, modes)
        file = f"alignment_{world}_{name}.png"
        figure.savefig(folder / file, dpi=110, metadata={"Software": None})
        pyplot.close(figure)
        made.append((title, file))
    return made


def _colours() -> dict[str, tuple]:
    """The same for a mode in every picture of every world."""
    palette = pyplot.get_cmap("tab20")
    return {name: palette(i % 20) for i, name in enumerate(n for n in MODES if n not in IDEAS)}


def _front(base: Record, modes: Runs):
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    start, colours = base.front[0], _colours()
    least = CONTENT_KEPT * start["content"]
    for name, runs in modes.items():
        seen = [{p["strength"]: p for p in points_of(run, base)} for run in runs.values()]
        shared = sorted(set.intersection(*map(set, seen)))
        across, up = (
            [sum(points[strength][key] for points in seen) / len(seen) for strength in shared]
            for key in ("content", "style")
        )
        axes.plot(across, up, marker=".", linewidth=1.2, label=name, color=colours[name])
        ranked = [style_at_content(run, base).style for run in runs.values()]
        axes.plot(least, sum(ranked) / len(ranked), marker="D", color=colours[name])
    axes.axvline(least, color="grey", linestyle=":", label="80 % of content")
    axes.plot([], [], "D", color="grey", label="what modes are ranked by")
    axes.plot([start["content"]], [start["style"]], "k*", markersize=12, label="base")
    axes.invert_xaxis()
    axes.set(xlabel="content (R@10; less to the right)", ylabel="style")
    axes.legend(fontsize=8, loc="best")
    return figure


def _curves(base: Record, modes: Runs):
    figure, both = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    colours = _colours()
    for axes, key in zip(both, ("style", "content"), strict=True):
        for name, runs in modes.items():
            run = runs.get(0)
            if run is None or not run.curve:
                continue
            end = next(p for p in run.front if p["strength"] == 1.0)
            places = [0.0, *(p["step"] / run.job.steps for p in run.curve), 1.0]
            heights = [base.front[0][key], *(p[key] for p in run.curve), end[key]]
            axes.plot(places, heights, marker="o", markersize=3, label=name, color=colours[name])
        axes.set(xlabel="part of the run", ylabel=key)
    _legend(both[0])
    return figure


def _flips(base: Record, modes: Runs):
    figure, both = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    colours = _colours()
    for axes, key in zip(both, ("flip_rate", "winner_margin"), strict=True):
        for name, runs in modes.items():
            series = [run.metrics[key] for run in runs.values()]
            if any(value is None for values in series for value in values):
                continue  # fine-tuning has no reference
            steps = zip(*series, strict=False)  # as far as the shortest, should one have diverged
            means = [sum(column) / len(column) for column in steps]
            smooth = [
                sum(means[i : i + WINDOW]) / WINDOW
                for i in range(0, len(means) - WINDOW + 1, WINDOW)
            ]
            places = [(i + 0.5) * WINDOW for i in range(len(smooth))]
            axes.plot(places, smooth, label=name, color=colours[name])
        axes.set(xlabel="optimizer step", ylabel=key.replace("_", " "))
    both[1].set_yscale("symlog", linthresh=MARGIN)  # DPO's is far below all others'
    _legend(both[0])
    return figure


def _legend(axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
