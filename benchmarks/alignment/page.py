"""docs/benchmarks.md and its pictures, from the results alone: no sentence with a number is written by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

from . import plots, records
from .modes import BASELINES, MODES
from .records import Record
from .search import BASE, CONTENT_KEPT, chosen, is_tuned
from .statistics import Difference, Mean, holm, mean, paired

PAGE = records.ROOT / "docs" / "benchmarks.md"
IMAGES = records.ROOT / "docs" / "images"
SIGNIFICANT = 0.05


def final_runs(done: Sequence[Record], mode: str) -> dict[int, Record]:
    """seed -> record."""
    runs = (r for r in done if r.job.split == "final" and r.job.mode == mode)
    return {r.job.seed: r for r in runs}


def style_at_content(run: Record, base: Record, kept: float = CONTENT_KEPT) -> float:
    """Style at the LoRA strength where the share `kept` of the base's content is left, by linear interpolation.

    Where no strength that was tried costs so much content, style at the highest one: more was not looked at.
    """
    nothing = {"strength": 0.0} | base.front[0]
    points = sorted([{**nothing, "strength": 0.0}, *run.front], key=lambda p: p["strength"])
    wanted = kept * nothing["content"]
    for before, after in zip(points, points[1:], strict=False):
        if after["content"] < wanted:
            share = (before["content"] - wanted) / (before["content"] - after["content"])
            return before["style"] + share * (after["style"] - before["style"])
    return points[-1]["style"]


def values(runs: dict[int, Record], of: Callable[[Record], float]) -> dict[int, float]:
    return {seed: of(run) for seed, run in runs.items()}


def table(done: Sequence[Record], modes: Sequence[str]) -> str:
    """One row a mode, best style first among those that keep content; the others below."""
    base = final_runs(done, BASE).get(0)
    if base is None:
        return "nothing was measured yet"
    rows = [(name, final_runs(done, name)) for name in modes]
    rows = [(name, runs) for name, runs in rows if runs]
    content = {name: mean([r.scores["content"] for r in runs.values()]) for name, runs in rows}
    least = CONTENT_KEPT * base.scores["content"]

    def rank(row: tuple[str, dict[int, Record]]) -> tuple[bool, float]:
        name, runs = row
        styles = [r.scores["style"] for r in runs.values()]
        return content[name].value < least, -sum(styles) / len(styles)

    columns = ("style", "content", "frechet", "diversity", "damage")
    lines = [
        "| mode | seeds | style | content kept | style at 80 % content | Fréchet | diversity | damage | evaluations |",
        "|---|---|---|---|---|---|---|---|---|",
        "| base | 1 | {style:.3f} | 100 % | | {frechet:.1f} | {diversity:.2f} | {damage:.2f} | 0 |".format(
            **base.scores
        ),
    ]
    for name, runs in sorted(rows, key=rank):
        found = {c: mean([r.scores[c] for r in runs.values()]) for c in columns}
        at = mean(list(values(runs, lambda r: style_at_content(r, base)).values()))
        kept = found["content"].value / base.scores["content"]
        note = "" if content[name].value >= least else " (too little: not ranked)"
        evaluations = next(iter(runs.values())).evaluations
        lines.append(
            f"| {name} | {len(runs)} | {found['style']} | {kept:.0%}{note} | {at} | "
            f"{_plain(found['frechet'], 1)} | {_plain(found['diversity'], 2)} | "
            f"{_plain(found['damage'], 2)} | {evaluations} |"
        )
    return "\n".join(lines)


def _plain(found: Mean, digits: int) -> str:
    return f"{found.value:.{digits}f}"


def comparisons(done: Sequence[Record], against: str) -> str:
    """Each mode minus `against` in style at 80 % content, paired by seed, corrected for the number of modes."""
    base = final_runs(done, BASE)[0]

    def measured(name: str) -> dict[int, float]:
        return values(final_runs(done, name), lambda r: style_at_content(r, base))

    found: list[tuple[str, Difference]] = []
    for name in MODES:
        difference = paired(measured(name), measured(against)) if name != against else None
        if difference is not None and difference.seeds > 1:
            found.append((name, difference))
    if not found:
        return f"Not enough seeds to compare with {against}."
    corrected = holm([difference.p for _, difference in found])
    lines = [
        f"| mode | style minus {against} | seeds | p | p, corrected |",
        "|---|---|---|---|---|",
    ]
    for (name, difference), p in sorted(
        zip(found, corrected, strict=True), key=lambda row: -row[0][1].mean.value
    ):
        lines.append(
            f"| {name} | {difference.mean.value:+.3f} ±{difference.mean.half_width:.3f} | "
            f"{difference.seeds} | {difference.p:.3f} | {p:.3f}{' *' if p < SIGNIFICANT else ''} |"
        )
    return "\n".join(lines)


def chosen_settings(done: Sequence[Record]) -> str:
    lines = ["| mode | learning rate | beta | weight of losers |", "|---|---|---|---|"]
    for name, mode in MODES.items():
        if is_tuned(name, done):
            best = chosen(name, done)
            beta = f"{best.beta:g}" if mode.reads_beta else ""
            reads_weight = mode.loss.get("criterion") in ("constant", "random")
            weight = f"{best.loser_weight:g}" if reads_weight else ""
            lines.append(f"| {name} | {best.learning_rate:.2g} | {beta} | {weight} |")
    return "\n".join(lines)


def section(path: Path) -> str:
    """A world's part of the page, and its pictures."""
    done = records.read(path)
    world, base = path.stem, final_runs(done, BASE).get(0)
    if base is None:
        return ""
    finals = {name: final_runs(done, name) for name in MODES}
    shown = {name: runs for name, runs in finals.items() if runs}
    pictures = plots.draw(world, base, shown, IMAGES)
    same_steps = [name for name in MODES if "evaluations" not in name]
    same_cost = [name for name in MODES if name not in BASELINES]
    runs = [r for r in done if r.job.split == "final"]
    commits = sorted({r.commit for r in done if r.commit})
    seeds = sorted({r.job.seed for r in runs if r.job.mode != BASE})
    missing = [name for name in MODES if name not in shown]
    parts = [
        f"## {world}",
        f"{len(done)} runs, of them {len(runs)} final ones with seeds {seeds}; machine: {runs[0].machine}; "
        f"code: {', '.join(commits)}.",
        *([f"Not run yet: {', '.join(missing)}."] if missing else []),
        "### Equal optimizer steps",
        table(done, same_steps),
        "### Equal evaluations of the network",
        table(done, same_cost),
        "### Against plain fine-tuning of equal cost",
        comparisons(done, "sft, equal evaluations"),
        "### Against the paper's criterion",
        comparisons(done, "random + sign"),
        "### Is it the comparison with the anchor, or any gate?",
        comparisons(done, "random + coin"),
        *(f"![{title}](images/{name})" for title, name in pictures),
        "### Settings that the search chose",
        chosen_settings(done),
    ]
    return "\n\n".join(parts)


HEAD = """# Does it align?

This page is written by `python -m benchmarks.alignment --page` from benchmarks/results/alignment.

**What is compared.** A small text-to-image model (3.7 million weights, 32x32 pixels) that has seen two styles of emoji, which no
caption names. Winners are 120 pictures in one of them. Every mode trains a LoRA of rank 16 for the same number of optimizer steps
of 12 winners; learning rate and beta are searched for, for every mode with the same five trials, on a third of the winners by
judges of their own. Then it is judged with those settings on 150 captions that are not among the winners, two pictures each, from
noise that is the same for all.

**Who judges.** *Style*: probability of the winners' style by a logistic regression on EfficientNet-lite0, fitted on real pictures of
other things; a blank picture counts 0. *Content kept*: R@10 against real pictures of all 150 things in two further styles, as a
share of the base's. *Fréchet*: distance of features to the real winners'-style pictures of the same captions. *Diversity*: distance of two
pictures of one caption. *Damage*: distance to the nearest real picture. The search sees EfficientNet-lite1 and other captions.

**Style at 80 % content** is what to rank by: style at the LoRA strength (0, 0.6, 1, 1.4, between them by interpolation) at which 80 % of
the base's content is left. So no mode wins by giving content away.

**Evaluations** are forwards of one sample through the network while training; a forward with its backward counts three.

± is the 95 % interval over seeds. Comparisons are paired by seed (t-test); "corrected" is Holm's, for the number of rows; * marks
p < 0.05 after that.

**What it cannot show.** It is a toy: one small base, drawings, styles that the base knows already. An effect here need not be one on
photographs and large models, and an effect absent here may be there.
"""


def write(results: Path, page: Path = PAGE) -> None:
    """The page, of every world that has results."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    sections = [section(path) for path in sorted(results.glob("*.jsonl"))]
    page.write_text("\n".join([HEAD, *filter(None, sections)]).rstrip() + "\n", "utf-8")
