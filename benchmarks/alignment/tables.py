"""Rows, comparisons and their tables in Markdown: every number of docs/benchmarks.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .front import BASE, CONTENT_KEPT, AtContent, content_at_style, style_at_content
from .modes import BASELINES, DEARER, IDEAS, MODES, STEPS, TAKEN_OUT
from .records import Record, final_runs
from .search import tuning_runs
from .statistics import Difference, Mean, holm, mean, paired

SIGNIFICANT = 0.05
LEAST_SEEDS = 5
"""for a comparison"""
FINE_TUNING, PAPER, NO_CRITERION, ONE_WEIGHT, COIN = (
    "sft, equal evaluations",
    "random + sign",
    "random + none",
    "random + constant",
    "random + coin",
)
SAME_STEPS = [name for name, mode in MODES.items() if mode.steps == STEPS and name not in DEARER]
SAME_COST = [name for name in MODES if name not in BASELINES and name not in DEARER]


def common_style(done: Sequence[Record]) -> float:
    """Where contents are compared: halfway from the base's style to what fine-tuning has at 80 % content."""
    base, runs = final_runs(done, BASE)[0], final_runs(done, FINE_TUNING)
    start = base.front[0]["style"]
    if not runs:
        return start
    return (start + mean([style_at_content(r, base).style for r in runs.values()]).value) / 2


@dataclass(frozen=True)
class Row:
    """What a mode came to, over its seeds."""

    name: str
    runs: dict[int, Record]
    at: dict[int, AtContent]
    contents: dict[int, float | None]
    """at the common style"""

    def mean(self, score: str) -> Mean:
        return mean([run.scores[score] for run in self.runs.values()])

    @property
    def style_at(self) -> Mean:
        return mean([found.style for found in self.at.values()])

    @property
    def told_style(self) -> str:
        return f"{'' if self.is_most else 'at least '}{self.style_at}"

    @property
    def strengths(self) -> str:
        found = sorted(at.strength for at in self.at.values())
        ends = dict.fromkeys(f"{strength:.2g}" for strength in (found[0], found[-1]))
        return " to ".join(ends)

    @property
    def is_whole(self) -> bool:
        return len(self.runs) >= LEAST_SEEDS

    @property
    def is_most(self) -> bool:
        return all(found.is_most for found in self.at.values())

    @property
    def styles(self) -> dict[int, float] | None:
        """At 80 % of the base's content; None where more may be had."""
        return {seed: at.style for seed, at in self.at.items()} if self.is_most else None

    @property
    def known_contents(self) -> dict[int, float] | None:
        """None where a run never makes the common style."""
        return None if None in self.contents.values() else dict(self.contents)


def rows_of(done: Sequence[Record], modes: Sequence[str]) -> list[Row]:
    """Those that were run, most style at 80 % of content first."""
    base, style = final_runs(done, BASE)[0], common_style(done)
    rows = []
    for name in modes:
        if runs := final_runs(done, name):
            at = {seed: style_at_content(run, base) for seed, run in runs.items()}
            contents = {seed: content_at_style(run, base, style) for seed, run in runs.items()}
            rows.append(Row(name, runs, at, contents))
    return sorted(rows, key=lambda row: -row.style_at.value)


def evaluations(row: Row) -> int:
    """Of the network, in a run of the mode's."""
    return next(iter(row.runs.values())).evaluations


def table(done: Sequence[Record], modes: Sequence[str]) -> str:
    """One row a mode, in the order to rank by; empty where none was run."""
    rows = rows_of(done, modes) if final_runs(done, BASE) else []
    if not rows:
        return ""
    start = final_runs(done, BASE)[0].scores
    names = "mode, seeds, style at 80 % content, at strength, style, content kept, Fréchet, diversity, damage, evaluations"
    lines = [
        f"| {' | '.join(names.split(', '))} |",
        "|---" * len(names.split(", ")) + "|",
        f"| base | 1 | | | {start['style']:.3f} | 100 % | {start['frechet']:.1f} | {start['diversity']:.2f} | "
        f"{start['damage']:.2f} | 0 |",
    ]
    for row in rows:
        kept = row.mean("content").scaled(100 / start["content"])
        notes = ["too little to rank its style"] if kept.value < 100 * CONTENT_KEPT else []
        if any(run.steps_done < run.job.steps for run in row.runs.values()):
            notes.append("not every run was finite to its end")
        note = f" ({'; '.join(notes)})" if notes else ""
        lines.append(
            f"| {row.name} | {len(row.runs)} | {row.told_style} | {row.strengths} | "
            f"{row.mean('style')} | {kept.text(0)} %{note} | {row.mean('frechet').text(1)} | "
            f"{row.mean('diversity').text(2)} | {row.mean('damage').text(2)} | {evaluations(row)} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Compared:
    """A mode minus another, paired by seed."""

    difference: Difference
    p: float
    """corrected for the number of modes compared"""

    @property
    def text(self) -> str:
        return f"{self.difference.mean.signed}{' *' if self.p < SIGNIFICANT else ''}"

    @property
    def cells(self) -> str:
        return f"{self.text} | {p_text(self.difference.p)} | {p_text(self.p)}"

    @property
    def is_better(self) -> bool:
        return self.p < SIGNIFICANT and self.difference.mean.value > 0


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


Seeds = dict[int, float]
ByMode = dict[str, Compared]
UNKNOWN = "not comparable | |"


def differences(pairs: Mapping[str, tuple[Seeds | None, Seeds | None]]) -> ByMode:
    """Of each name's two; those of which one is not known are left out."""
    found = {name: paired(*both) for name, both in pairs.items() if None not in both}
    corrected = holm([difference.p for difference in found.values()])
    return {name: Compared(found[name], p) for name, p in zip(found, corrected, strict=True)}


Pairs = Mapping[str, tuple[Row, Row]]


def pairs_with(rows: Mapping[str, Row], against: str) -> Pairs:
    """Each other row with that one."""
    return {name: (row, rows[against]) for name, row in rows.items() if name != against}


def compared(pairs: Pairs) -> tuple[ByMode, ByMode]:
    """Style at 80 % content, and content at the common style, of the first of each pair minus the second's."""
    return (
        differences({name: (a.styles, b.styles) for name, (a, b) in pairs.items()}),
        differences({name: (a.known_contents, b.known_contents) for name, (a, b) in pairs.items()}),
    )


def lines_of(pairs: Pairs, heads: Mapping[str, str]) -> list[str]:
    """A table's lines, of the pairs that can be compared; `heads`: what stands before the differences of each."""
    columns = compared(pairs)
    return [
        f"| {heads[name]} | {' | '.join(c[name].cells if name in c else UNKNOWN for c in columns)} |"
        for name in pairs
        if any(name in column for column in columns)
    ]


def whole_rows(done: Sequence[Record], modes: Sequence[str]) -> dict[str, Row]:
    """Of the modes that were run with seeds enough to compare."""
    return {row.name: row for row in rows_of(done, modes) if row.is_whole}


def comparisons(done: Sequence[Record], against: str, modes: Sequence[str]) -> str:
    """Each mode minus `against`, paired by seed, corrected for the number of rows; empty if that was not run with seeds enough."""
    rows = whole_rows(done, modes)
    if against not in rows:
        return ""
    lines = [
        f"| mode | style minus {against} | p | p, corrected | content minus its | p | p, corrected |",
        "|---" * 7 + "|",
    ]
    told = lines_of(pairs_with(rows, against), {name: name for name in rows})
    return "\n".join(lines + told) if told else f"Nothing is comparable with {against}."


def savings(done: Sequence[Record]) -> str:
    """What evaluations modes of cheap samples save beside the dearer ones, and what that does to their style; empty where one is not known."""
    rows = whole_rows(done, list(MODES))
    parts = []
    for name in DEARER:
        cheap = dict.fromkeys((MODES[name].settings_of, "random + indicator", *IDEAS))
        dear = rows.get(name)
        known = [row for n in cheap if (row := rows.get(n)) and row.is_most]
        if not (known and dear and dear.is_most):
            continue
        cost = evaluations(dear)
        lines = [
            f"*{name}* takes {cost} evaluations, has the settings of *{MODES[name].settings_of}*, and makes style "
            f"{dear.style_at} at 80 % content. p is not corrected.",
            "",
            f"| mode | evaluations | times fewer | style minus that of {name} | p |",
            "|---" * 5 + "|",
        ]
        for row in known:
            found, less = paired(row.styles, dear.styles), evaluations(row)
            lines.append(
                f"| {row.name} | {less} | {cost / less:.1f} | {found.mean.signed} | {p_text(found.p)} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def ideas(done: Sequence[Record]) -> str:
    """Each idea minus the mode that it changes, with that one's settings; empty if not run."""
    rows = whole_rows(done, SAME_COST)
    pairs = {
        name: (rows[name], rows[changed])
        for name in IDEAS
        if name in rows and (changed := MODES[name].settings_of) in rows
    }
    if not pairs:
        return ""
    lines = [
        "| idea | changes | style minus its | p | p, corrected | content minus its | p | p, corrected |",
        "|---" * 8 + "|",
    ]
    heads = {name: f"{name} | {changed.name}" for name, (_, changed) in pairs.items()}
    return "\n".join(lines + lines_of(pairs, heads))


def taken_out(done: Sequence[Record], gone: Sequence[Record]) -> str:
    """Each idea of `gone` beside the mode that it changed, fine-tuning and the paper's, over the seeds that both have."""
    rows = {row.name: row for row in rows_of([*done, *gone], [*MODES, *TAKEN_OUT])}
    lines = []
    for name in [name for name in TAKEN_OUT if name in rows]:
        row, changed = rows[name], TAKEN_OUT[name]
        minus = [_minus(row, rows.get(other)) for other in (changed, FINE_TUNING, PAPER)]
        commit = next(iter(row.runs.values())).commit
        lines.append(
            f"| {name} | {changed} | {len(row.runs)} | {row.told_style} | {' | '.join(minus)} | {commit} |"
        )
    if not lines:
        return ""
    heads = f"| idea | changed | seeds | style at 80 % content | minus what it changed | minus {FINE_TUNING} | minus {PAPER} | code |"
    return "\n".join([heads, "|---" * 8 + "|", *lines])


def _minus(row: Row, other: Row | None) -> str:
    """Difference in style at 80 % content, with p (not corrected) from seeds enough on; empty if one is not known."""
    if other is None or not (row.is_most and other.is_most):
        return ""
    found = paired(row.styles, other.styles)
    if found is None:
        return ""
    return f"{found.mean.signed}{f', p {p_text(found.p)}' if found.seeds >= LEAST_SEEDS else ''}"


def settings_used(done: Sequence[Record]) -> str:
    """By the final runs, and what of it lies at an edge of what the search tried; empty where all take another mode's."""
    lines = []
    edges: dict[str, list[str]] = {}
    for name, mode in MODES.items():
        runs = [*final_runs(done, name).values()]
        if not runs or mode.settings_of:
            continue
        used = [run.job.settings for run in runs]
        beta = f"{used[0].beta:g}" if mode.reads_beta else ""
        weights = sorted({one.loser_weight for one in used})
        reads_weight = mode.loss.get("criterion") in ("constant", "random")
        weight = (
            " to ".join(f"{w:g}" for w in {weights[0]: 0, weights[-1]: 0}) if reads_weight else ""
        )
        lines.append(f"| {name} | {used[0].learning_rate:.2g} | {beta} | {weight} |")
        tried_ones = [run.job.settings for run in tuning_runs(name, done)]
        for key in ("learning_rate", "beta"):
            values = {getattr(one, key) for one in tried_ones}
            for end, is_end in {"lowest": min, "highest": max}.items():
                if len(values) > 1 and getattr(used[0], key) == is_end(values):
                    edges.setdefault(f"{end} {key.replace('_', ' ')}", []).append(name)
    if not lines:
        return ""
    lines = ["| mode | learning rate | beta | weight of losers |", "|---|---|---|---|", *lines]
    if edges:
        told = [f"{edge}: {'; '.join(names)}" for edge, names in sorted(edges.items())]
        lines.append(
            f"\nAt an edge of what was tried, so something better may lie beyond it: {'. '.join(told)}."
        )
    return "\n".join(lines)
