"""docs/benchmarks.md and its pictures, from the results alone: no sentence with a number is written by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import plots, records
from .front import BASE, CONTENT_KEPT, AtContent, find_base, style_at_content
from .modes import BASELINES, DEARER, IDEAS, MODES, STEPS
from .records import Record
from .search import chosen, is_tuned, tuning_runs
from .statistics import Difference, Mean, holm, mean, paired

PAGE = records.ROOT / "docs" / "benchmarks.md"
IMAGES = records.ROOT / "docs" / "images"
SIGNIFICANT = 0.05
LEAST_SEEDS = 5
"""for a comparison"""
FINE_TUNING = "sft, equal evaluations"
SAME_COST = [name for name in MODES if name not in BASELINES and name not in DEARER]


def final_runs(done: Sequence[Record], mode: str) -> dict[int, Record]:
    """seed -> record."""
    runs = (r for r in done if r.job.split == "final" and r.job.mode == mode)
    return {r.job.seed: r for r in runs}


@dataclass(frozen=True)
class Row:
    """What a mode came to, over its seeds."""

    name: str
    runs: dict[int, Record]
    at: dict[int, AtContent]

    def mean(self, score: str) -> Mean:
        return mean([run.scores[score] for run in self.runs.values()])

    @property
    def style_at(self) -> Mean:
        return mean([found.style for found in self.at.values()])

    @property
    def is_most(self) -> bool:
        return all(found.is_most for found in self.at.values())


def rows_of(done: Sequence[Record], modes: Sequence[str]) -> list[Row]:
    """Those that were run, most style at 80 % of content first."""
    base = final_runs(done, BASE)[0]
    rows = []
    for name in modes:
        if runs := final_runs(done, name):
            at = {seed: style_at_content(run, base) for seed, run in runs.items()}
            rows.append(Row(name, runs, at))
    return sorted(rows, key=lambda row: -row.style_at.value)


def table(done: Sequence[Record], modes: Sequence[str]) -> str:
    """One row a mode, in the order to rank by."""
    if not final_runs(done, BASE):
        return "nothing was measured yet"
    base = final_runs(done, BASE)[0]
    names = ("style at 80 % content", "style", "content kept", "Fréchet", "diversity", "damage")
    start = base.scores
    lines = [
        f"| mode | seeds | {' | '.join(names)} | evaluations |",
        "|---" * 9 + "|",
        f"| base | 1 | | {start['style']:.3f} | 100 % | {start['frechet']:.1f} | {start['diversity']:.2f} | "
        f"{start['damage']:.2f} | 0 |",
    ]
    for row in rows_of(done, modes):
        kept = row.mean("content").value / start["content"]
        note = "" if kept >= CONTENT_KEPT else " (too little to rank its style)"
        evaluations = next(iter(row.runs.values())).evaluations
        lines.append(
            f"| {row.name} | {len(row.runs)} | {'' if row.is_most else 'at least '}{row.style_at} | "
            f"{row.mean('style')} | {kept:.0%}{note} | {row.mean('frechet').value:.1f} | "
            f"{row.mean('diversity').value:.2f} | {row.mean('damage').value:.2f} | {evaluations} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Compared:
    """A mode's style at 80 % content minus another's, paired by seed."""

    mode: str
    difference: Difference
    p: float
    """corrected for the number of modes compared"""

    @property
    def told(self) -> str:
        return f"{self.difference.mean.signed}{' *' if self.p < SIGNIFICANT else ''}"

    @property
    def is_better(self) -> bool:
        return self.p < SIGNIFICANT and self.difference.mean.value > 0


def compared(rows: Sequence[Row], other: Row) -> list[Compared]:
    """Each of the rows whose style is known minus `other`."""
    known = [row for row in rows if row.is_most and row is not other]
    found = [
        paired(*({seed: at.style for seed, at in one.at.items()} for one in (row, other)))
        for row in known
    ]
    corrected = holm([difference.p for difference in found])
    return [Compared(row.name, *rest) for row, *rest in zip(known, found, corrected, strict=True)]


def whole_rows(done: Sequence[Record], modes: Sequence[str]) -> dict[str, Row]:
    """Of the modes that were run with seeds enough to compare."""
    return {row.name: row for row in rows_of(done, modes) if len(row.runs) >= LEAST_SEEDS}


def comparisons(done: Sequence[Record], against: str, modes: Sequence[str]) -> str:
    """Each mode minus `against` in style at 80 % content, paired by seed, corrected for the number of rows."""
    rows = whole_rows(done, modes)
    if against not in rows:
        return f"{against} was not run with {LEAST_SEEDS} seeds, so nothing is compared with it."
    other = rows[against]
    unknown = [row.name for row in rows.values() if not row.is_most]
    if not other.is_most:
        return f"{against} had more style and content enough at every strength: no comparison."
    lines = [
        f"| mode | style minus {against} | seeds | p | p, corrected |",
        "|---|---|---|---|---|",
    ]
    for one in compared([*rows.values()], other):
        lines.append(
            f"| {one.mode} | {one.difference.mean.signed} | {one.difference.seeds} | {one.difference.p:.3f} | "
            f"{one.p:.3f}{' *' if one.p < SIGNIFICANT else ''} |"
        )
    if unknown:
        lines.append(
            f"\nNot compared, for their style rose and content was enough at every strength: {', '.join(unknown)}."
        )
    return "\n".join(lines)


def savings(done: Sequence[Record]) -> str:
    """What evaluations a mode saves beside the dearer one that has its settings, and what that does to its style."""
    rows = whole_rows(done, list(MODES))
    lines = []
    for name in DEARER:
        pair = [rows.get(MODES[name].settings_of), rows.get(name)]
        if not all(row and row.is_most for row in pair):
            continue
        (cheap, dear), costs = pair, [next(iter(row.runs.values())).evaluations for row in pair]
        found = paired(*({seed: at.style for seed, at in row.at.items()} for row in pair))
        lines.append(
            f"*{dear.name}* takes {costs[1]} evaluations, *{cheap.name}* {costs[0]}: {costs[1] / costs[0]:.1f} times fewer. Both "
            f"have the settings found for the latter, whose style at 80 % content differs by {found.mean.signed} "
            f"({found.seeds} seeds, p = {found.p:.3f})."
        )
    return "\n\n".join(lines) or "Not run yet with seeds enough."


def ideas(done: Sequence[Record]) -> str:
    """Each idea minus the mode that it changes, with that one's settings."""
    rows = whole_rows(done, SAME_COST)
    pairs = [
        (rows[name], rows[MODES[name].settings_of])
        for name in IDEAS
        if name in rows and MODES[name].settings_of in rows
    ]
    found = [
        paired(*({seed: at.style for seed, at in row.at.items()} for row in pair)) for pair in pairs
    ]
    corrected = holm([difference.p for difference in found])
    lines = [
        "| idea | changes | style minus its | seeds | p | p, corrected |",
        "|---|---|---|---|---|---|",
    ]
    for (idea, changed), difference, p in zip(pairs, found, corrected, strict=True):
        lines.append(
            f"| {idea.name} | {changed.name} | {difference.mean.signed} | {difference.seeds} | "
            f"{difference.p:.3f} | {p:.3f}{' *' if p < SIGNIFICANT else ''} |"
        )
    return "\n".join(lines) if pairs else "Not run yet with seeds enough."


def verdict(worlds: Mapping[str, Sequence[Record]]) -> str:
    """Every mode against plain fine-tuning of equal cost, a column a world; empty for fewer than two worlds."""
    columns: dict[str, dict[str, Compared]] = {}
    for world, done in worlds.items():
        rows = whole_rows(done, SAME_COST) if final_runs(done, BASE) else {}
        if (other := rows.get(FINE_TUNING)) and other.is_most:
            columns[world] = {one.mode: one for one in compared([*rows.values()], other)}
    if len(columns) < 2:
        return ""
    names = [name for name in SAME_COST if any(name in column for column in columns.values())]
    better = [
        name for name in names if all(name in c and c[name].is_better for c in columns.values())
    ]
    lines = [
        "## Is anything better than plain fine-tuning of equal cost?",
        "Style at 80 % content minus its; * marks p < 0.05, corrected for the modes compared in that world.",
        f"| mode | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in names:
        cells = [c[name].told if name in c else "not run" for c in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    found = f"Significantly better in each: {', '.join(better) or 'nothing so far'}."
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:]) + "\n\n" + found


def rates(done: Sequence[Record]) -> str:
    """How often samples were pushed away by the coin and by what it stands for."""
    found = []
    for name in ("random + indicator", "random + coin"):
        runs = final_runs(done, name).values()
        flips = [value for run in runs for value in run.metrics["flip_rate"]]
        if flips:
            found.append(f"{name} {1 - sum(flips) / len(flips):.1%}")
    return f"Share of samples pushed away, ties included: {', '.join(found)}." if found else ""


def tried(world: str, done: Sequence[Record], results: Path) -> str:
    """Ideas that were taken out again, by the search's own measure, beside the best of what stayed."""
    records_of = records.read(results / "tried" / f"{world}.jsonl")
    if not records_of:
        return ""
    base = find_base(done, "tuning")
    kept = [r for name in (FINE_TUNING, "random + indicator") for r in tuning_runs(name, done)]
    lines = [
        "### Ideas that were taken out again",
        "Runs of the search's kind, one seed, on its captions and by its judges; the code lies in the history.",
        "| mode | runs | best style at 80 % content | learning rate | beta | code |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r.job.mode for r in [*records_of, *kept]):
        runs = [r for r in [*records_of, *kept] if r.job.mode == name]
        best = max(runs, key=lambda run: style_at_content(run, base).style)
        given = best.job.settings
        lines.append(
            f"| {name} | {len(runs)} | {style_at_content(best, base).style:.3f} | {given.learning_rate:.2g} | "
            f"{given.beta:g} | {best.commit} |"
        )
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def chosen_settings(done: Sequence[Record]) -> str:
    lines = ["| mode | learning rate | beta | weight of losers |", "|---|---|---|---|"]
    lowest = []
    for name, mode in MODES.items():
        if is_tuned(name, done) and not mode.settings_of:
            best = chosen(name, done)
            beta = f"{best.beta:g}" if mode.reads_beta else ""
            reads_weight = mode.loss.get("criterion") in ("constant", "random")
            weight = f"{best.loser_weight:g}" if reads_weight else ""
            lines.append(f"| {name} | {best.learning_rate:.2g} | {beta} | {weight} |")
            if best.learning_rate == min(
                r.job.settings.learning_rate for r in tuning_runs(name, done)
            ):
                lowest.append(name)
    if lowest:
        lines.append(
            f"\nThe lowest learning rate tried, so a lower one may be better: {', '.join(lowest)}."
        )
    return "\n".join(lines)


def section(path: Path) -> str:
    """A world's part of the page, and its pictures."""
    done = records.read(path)
    world, base = path.stem, final_runs(done, BASE).get(0)
    if base is None:
        return ""
    frozen = next((r.settings_of for r in done if r.settings_of), "")
    known = records.search_in(path.with_name(f"{frozen}.jsonl")) + done if frozen else done
    finals = {name: final_runs(done, name) for name in MODES}
    shown = {name: runs for name, runs in finals.items() if runs}
    pictures = plots.draw(world, base, shown, IMAGES)
    same_steps = [name for name, mode in MODES.items() if mode.steps == STEPS]
    runs = [r for r in done if r.job.split == "final"]
    commits = sorted({r.commit for r in done if r.commit})
    seeds = sorted({r.job.seed for r in runs if r.job.mode != BASE})
    missing = [name for name in MODES if name not in shown]
    parts = [
        f"## {world}",
        STRICT if "-strict" in world else SEEN,
        *(
            [f"Nothing was searched for here: the settings are those found in {frozen}."]
            if frozen
            else []
        ),
        f"{len(done)} runs, of them {len(runs)} final ones with seeds {seeds}; machine: {runs[0].machine}; "
        f"code: {', '.join(commits)}.",
        *([f"Not run yet: {', '.join(missing)}."] if missing else []),
        "### Equal optimizer steps",
        table(done, same_steps),
        "### Equal evaluations of the network",
        table(done, SAME_COST),
        "### Against plain fine-tuning of equal cost",
        comparisons(done, FINE_TUNING, SAME_COST),
        "### Against the paper's criterion",
        comparisons(done, "random + sign", SAME_COST),
        "### Is it the comparison with the anchor, or any gate?",
        comparisons(done, "random + coin", SAME_COST),
        rates(done),
        "### What do new samples each step, 50 sampler steps and guidance bring?",
        savings(done),
        "### Ideas, each beside the mode that it changes",
        ideas(done),
        *(f"![{title}](images/{name})" for title, name in pictures),
        tried(world, done, path.parent),
        "### Settings that the search chose",
        chosen_settings(known),
    ]
    return "\n\n".join(filter(None, parts))


SEEN = (
    "The base has seen the pictures of the test captions, in both styles, unnamed: alignment steers what it can draw already. "
    "*Fréchet* and *damage* compare with those very pictures."
)
STRICT = "The base has never seen the test captions in the winners' style."

HEAD = """# Does it align?

This page is written by `python -m benchmarks.alignment --page` from benchmarks/results/alignment.

**What is compared.** A small text-to-image model that has seen two styles of emoji, which no caption names. Winners are pictures in one
of them. Every mode trains a LoRA on as many winners a step. Its settings are searched for on a third of the winners, by judges of their
own: three learning rates, then two more trials around the best, which are other betas, or finer learning rates for a mode that
reads no beta. An idea that changes one thing of a mode takes that one's settings. With the settings found it is judged on captions that are not among the winners, from noise that is the same for all.

**Who judges.** *Style*: probability of the winners' style by a logistic regression on EfficientNet-lite0, fitted on real pictures of
other things; a blank picture counts 0. *Content kept*: R@10 against real pictures of all test captions in two further styles, as a
share of the base's. *Fréchet*: distance of features to real pictures of the same captions in the winners' style. *Diversity*: distance of two
pictures of one caption. *Damage*: distance to the nearest real picture in either style. The search sees EfficientNet-lite1 and other captions.

**Style at 80 % content** is what to rank by: the LoRA is made stronger or weaker until 80 % of the base's content is left (between two
strengths by interpolation), and the most style up to there is taken. So no mode wins by giving content away. "At least": content never
fell that far, and style still rose.
The search chooses by the same, on its own captions.

**Evaluations** are forwards of one sample through the network while training; a forward with its backward counts three.

± is the 95 % interval over training seeds; captions, noise of the evaluation and the search are the same for all of them and not in it.
Comparisons are paired by seed (t-test), from five seeds on; "corrected" is Holm's, for the number of rows; * marks p < 0.05 after that.

**What it cannot show.** It is a toy: one small base, drawings of 32x32 pixels. An effect here need not be one on photographs and
large models, and an effect absent here may be there.
"""


def write(results: Path, page: Path = PAGE) -> None:
    """The page, of every world that has results."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    paths = sorted(results.glob("*.jsonl"))
    sections = [verdict({path.stem: records.read(path) for path in paths}), *map(section, paths)]
    page.write_text("\n\n".join([HEAD.rstrip(), *filter(None, sections)]) + "\n", "utf-8")
