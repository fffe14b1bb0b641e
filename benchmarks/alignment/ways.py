"""Two ways of drawing, side by side: as usual, and with the base as the negative of guidance."""

from collections.abc import Sequence

from .front import AtContent, best_style, find_base, style_at_content
from .records import Record, final_runs
from .statistics import holm, mean, paired
from .tables import FINE_TUNING

WAYS = {"usual": False, "base as negative": True}
HEAD = (
    "| mode | drawn with | seeds | style at 80 % content | at strength | style as trained | content as trained |\n"
    "|---|---|---|---|---|---|---|\n"
)


def table(done: Sequence[Record], modes: Sequence[str]) -> str:
    """In Markdown: each mode in each way, then what its better way is beside that of fine-tuning."""
    base = find_base(done, "final")
    runs = {mode: final_runs(done, mode) for mode in modes}
    runs = {mode: found for mode, found in runs.items() if found}
    if base is None or not runs:
        return ""
    rows = [_row(name, way, runs[name], base) for name in runs for way in WAYS]
    return HEAD + "\n".join(rows) + "\n\n" + _beside_fine_tuning(runs, base)


def _row(name: str, way: str, runs: dict[int, Record], base: Record) -> str:
    away = WAYS[way]
    found = [style_at_content(run, base, away) for run in runs.values()]
    trained = [
        next(p for p in (run.away_from_base if away else run.front) if p["strength"] == 1.0)
        for run in runs.values()
    ]
    style, content = (mean([point[name] for point in trained]) for name in ("style", "content"))
    kept = content.scaled(100 / base.front[0]["content"]).text(0)
    least = "" if all(at.is_most for at in found) else "at least "
    return (
        f"| {name} | {way} | {len(runs)} | {least}{mean([at.style for at in found])} | {_strengths(found)} "
        f"| {style} | {kept} % |"
    )


def _strengths(found: Sequence[AtContent]) -> str:
    strengths = sorted(at.strength for at in found)
    return f"{strengths[0]:.2g} to {strengths[-1]:.2g}"


def _beside_fine_tuning(runs: dict[str, dict[int, Record]], base: Record) -> str:
    """Each mode in its better way minus fine-tuning in its own, paired by seed; p corrected by Holm."""
    best = {
        mode: {seed: best_style(run, base) for seed, run in found.items()}
        for mode, found in runs.items()
    }
    others = [mode for mode in best if mode != FINE_TUNING]
    found = {mode: paired(best[mode], best.get(FINE_TUNING, {})) for mode in others}
    known = {mode: difference for mode, difference in found.items() if difference}
    corrected = holm([difference.p for difference in known.values()])
    rows = [
        f"| {mode} | {difference.mean.signed} | {difference.seeds} | {difference.p:.2g} | {p:.2g} |"
        for (mode, difference), p in zip(known.items(), corrected, strict=True)
    ]
    head = f"| better way, minus that of {FINE_TUNING} | style | seeds | p | p, corrected |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) if rows else ""
