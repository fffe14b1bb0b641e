"""docs/benchmarks.md and its pictures: every table from the results, SHORT and HEAD written by hand."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from . import plots, records
from .front import BASE, find_base, style_at_content
from .modes import MODES
from .records import Record, final_runs
from .search import tuning_runs
from .tables import (
    COIN,
    FINE_TUNING,
    NO_CRITERION,
    ONE_WEIGHT,
    PAPER,
    SAME_COST,
    SAME_STEPS,
    Compared,
    common_style,
    compared,
    comparisons,
    ideas,
    pairs_with,
    savings,
    settings_used,
    table,
    taken_out,
    whole_rows,
)

PAGE = records.ROOT / "docs" / "benchmarks.md"
IMAGES = records.ROOT / "docs" / "images"


def verdict(worlds: Mapping[str, Sequence[Record]]) -> str:
    """Every mode against plain fine-tuning of equal cost and against the paper's; empty for fewer than two worlds."""
    known = {
        world: whole_rows(done, SAME_COST)
        for world, done in worlds.items()
        if final_runs(done, BASE)
    }
    known = {w: rows for w, rows in known.items() if FINE_TUNING in rows and PAPER in rows}
    if len(known) < 2:
        return ""
    parts = [
        "## Is anything better than plain fine-tuning of equal cost, and than the paper's criterion?",
        "Differences, each world's style at 80 % content and content at equal style; * marks p < 0.05, corrected for the modes "
        "compared in that world. Empty: not run with enough seeds, or not comparable.",
    ]
    against_each = {
        against: {world: compared(pairs_with(rows, against)) for world, rows in known.items()}
        for against in (FINE_TUNING, PAPER)
    }
    won = []
    for against, columns in against_each.items():
        heads = [f"{what}, {world}" for world in columns for what in MEASURES]
        lines = [f"| minus {against} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for name in SAME_COST:
            cells = [column.get(name) for both in columns.values() for column in both]
            if any(cells):
                lines.append(f"| {name} | {' | '.join(c.text if c else '' for c in cells)} |")
        parts.append("\n".join(lines))
        for place, what in enumerate(MEASURES):
            best = _best({world: both[place] for world, both in columns.items()}, known)
            won.append(f"| {against}, in {what} | {best} |")

    def is_better(name: str, world: str) -> bool:
        return all(
            any(column[name].is_better for column in columns[world] if name in column)
            for columns in against_each.values()
        )

    in_all = []
    for name in [name for name in SAME_COST if name not in against_each]:
        run_in = [world for world, rows in known.items() if name in rows]
        if len(run_in) > 1 and all(is_better(name, world) for world in run_in):
            in_all.append(name)
    won.append(f"| both, in style or in content | {_named(in_all)} |")
    parts += [
        "Significantly better in every world where the two can be compared, and in at least two:",
        "\n".join(["| than | |", "|---|---|", *won]),
    ]
    return _joined(*parts)


def _best(columns: Mapping[str, Mapping[str, Compared]], known: Mapping[str, Collection]) -> str:
    """Modes that are better wherever they are compared, in two worlds at least, and where they were run but are not."""
    best = []
    for name in SAME_COST:
        cells = [column[name] for column in columns.values() if name in column]
        if len(cells) > 1 and all(cell.is_better for cell in cells):
            unknown = [
                w for w, column in columns.items() if name in known[w] and name not in column
            ]
            best.append(f"{name} (not comparable in {', '.join(unknown)})" if unknown else name)
    return _named(best)


def _named(modes: Sequence[str]) -> str:
    return "; ".join(modes) or "nothing so far"


def rates(done: Sequence[Record]) -> str:
    """How often samples were pushed away by the coin and by what it stands for."""
    found = []
    for name in ("random + indicator", COIN):
        runs = final_runs(done, name).values()
        flips = [value for run in runs for value in run.metrics["flip_rate"]]
        if flips:
            found.append(f"{name} {1 - sum(flips) / len(flips):.1%}")
    return f"Share of samples pushed away, ties included: {'; '.join(found)}." if found else ""


def tried(world: str, done: Sequence[Record], results: Path) -> str:
    """Ideas that were taken out again, beside what stayed: those with final runs, and those that the search's runs ended."""
    gone = records.read(results / "tried" / f"{world}.jsonl")
    parts = []
    if compared_ones := taken_out(done, gone):
        parts = [TAKEN_OUT_HEAD, compared_ones]
    if searched := [record for record in gone if record.job.split == "tuning"]:
        parts += [SEARCHED_HEAD, searched_for(done, searched)]
    return _under("Ideas that were taken out again", _joined(*parts))


def searched_for(done: Sequence[Record], gone: Sequence[Record]) -> str:
    """Ideas by the search's own measure, beside two modes that stayed."""
    base = find_base(done, "tuning")
    stayed = {name: tuning_runs(name, done) for name in (FINE_TUNING, "random + indicator")}
    lines = [
        "| mode | runs | best style at 80 % content | learning rate | beta | code |",
        "|---" * 6 + "|",
    ]
    for name in dict.fromkeys(r.job.mode for r in gone):
        lines.append(_best_run(name, [r for r in gone if r.job.mode == name], base))
    for name, runs in stayed.items():
        lines.append(_best_run(f"{name} (stayed)", runs, base, beta=MODES[name].reads_beta))
    return "\n".join(lines)


def _best_run(name: str, runs: Sequence[Record], base: Record, beta: bool = True) -> str:
    best = max(runs, key=lambda run: style_at_content(run, base).style)
    given = best.job.settings
    return (
        f"| {name} | {len(runs)} | {style_at_content(best, base).style:.3f} | {given.learning_rate:.2g} | "
        f"{f'{given.beta:g}' if beta else ''} | {best.commit} |"
    )


def section(path: Path, done: Sequence[Record]) -> str:
    """A world's part of the page, and its pictures."""
    world, base = path.stem, final_runs(done, BASE).get(0)
    if base is None:
        return ""
    frozen = next((r.settings_of for r in done if r.settings_of), "")
    finals = {name: final_runs(done, name) for name in MODES}
    shown = {name: runs for name, runs in finals.items() if runs}
    pictures = [] if world in AGAIN else plots.draw(world, base, shown, IMAGES)
    runs = [r for r in done if r.job.split == "final"]
    commits = sorted({r.commit for r in done if r.commit})
    seeds = sorted({r.job.seed for r in runs if r.job.mode != BASE})
    missing = [] if world in AGAIN else [name for name in MODES if name not in shown]
    elsewhere = [other for other, first in AGAIN.items() if first == world]
    beside_coin = comparisons(done, COIN, SAME_COST)
    parts = [
        f"## {world}{titled(world)}",
        base_of(world),
        f"No settings were searched for here. They are those that the search in {frozen} had found by then."
        if frozen
        else "",
        f"{len(done)} runs, of them {len(runs)} final ones with seeds {seeds}; "
        f"machine: {'; '.join(sorted({r.machine for r in done}))}; code: {', '.join(commits)}.",
        f"Not run here: {'; '.join(missing)}{', but in '.join(['', *elsewhere])}."
        if missing
        else "",
        f"Contents are compared at style {common_style(done):.3f}." if finals[FINE_TUNING] else "",
        _under("Equal optimizer steps", table(done, SAME_STEPS)),
        _under("Equal evaluations of the network", table(done, SAME_COST)),
        _under("Against plain fine-tuning of as many steps", comparisons(done, "sft", SAME_STEPS)),
        _under(
            "Against plain fine-tuning of equal cost", comparisons(done, FINE_TUNING, SAME_COST)
        ),
        _under("Against the paper's criterion", comparisons(done, PAPER, SAME_COST)),
        _under(
            "Is it the comparison with the anchor, or any gate?",
            _joined(beside_coin, rates(done)) if beside_coin else "",
        ),
        _under(
            "Does leaving samples out, or less weight, do anything?",
            comparisons(done, NO_CRITERION, SAME_COST),
        ),
        _under(
            "Is a criterion better than one weight for all samples?",
            comparisons(done, ONE_WEIGHT, SAME_COST),
        ),
        _under(
            "What do new samples each step, 50 sampler steps and guidance bring?", savings(done)
        ),
        _under("Ideas, each beside the mode that it changes", ideas(done)),
        *(f"![{title}](images/{name})" for title, name in pictures),
        tried(world, done, path.parent),
        _under("Settings of the final runs", settings_used(done)),
    ]
    return _joined(*parts)


def _under(asked: str, answer: str) -> str:
    return f"### {asked}\n\n{answer}" if answer else ""


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def titled(world: str) -> str:
    if first := AGAIN.get(world):
        return f"{titled(first)} on another base"
    return f", {WORLDS[world]}" if world in WORLDS else ""


def base_of(world: str) -> str:
    """What is known of the base of a world by its name."""
    if first := AGAIN.get(world):
        return (
            f"{base_of(first)} The base of {first} was not kept; this one was trained in the same way, so compare the runs "
            "here only with each other."
        )
    if re.search(r"-[0-9a-f]{8}$", world):
        return "With a base, winners, names or styles of somebody's own."
    return STRICT if world.endswith("-strict") else SEEN


SEEN = (
    "The base has seen the pictures of the test captions, in both styles, unnamed: alignment steers what it can draw already. "
    "*Fréchet* and *damage* compare with those very pictures."
)
STRICT = "The base has never seen the test captions in the winners' style."
MEASURES = ("style", "content")
TAKEN_OUT_HEAD = (
    "Two seeds show little: an idea that has no more was given up because time or promise was missing, not because it was shown to be "
    "worse. p is not corrected, and these very captions were looked at before. No idea was shown to be better than both `constant` and "
    "`indicator`, which need none of this code. The code is in the history."
)
SEARCHED_HEAD = (
    "Runs as in the search: one seed, its captions, its judges. The best of more runs is higher by luck alone. "
    "The code is in the history."
)
WORLDS = {
    "twemoji-openmoji": "the first pair of styles",
    "openmoji-fluent": "the second pair",
    "twemoji-openmoji-strict": "the strict form of the first pair",
}
"""Those of the repository, in the order of the page."""
AGAIN = {
    "openmoji-fluent-b081e166": "openmoji-fluent",
    "twemoji-openmoji-99fb9b6b": "twemoji-openmoji-strict",
}
"""world -> the one that it repeats, for a few modes, on a base trained anew."""

TITLE = """# Does it align?

This page is written by `python -m benchmarks.alignment --page` from benchmarks/results/alignment.
"""

SHORT = """## In short

There are three worlds. Settings were searched for in the *first pair* of styles, twemoji-openmoji. The *second pair* is openmoji-fluent. The
base of the *strict form*, twemoji-openmoji-strict, never saw the test captions in the winners' style. Style is compared at 80 % of the
base's content and equal cost, with five seeds each:

- **Nothing of ours is better than plain fine-tuning everywhere.** On the first pair `indicator` and `constant` under a random reference made
  significantly more style. On the second pair and in the strict form nothing did, and much made less. So try preset `sft` first: its step is
  the cheapest. If you have losing pictures, try `dpo`. As trained it destroys what pictures show. Once its LoRA was made weaker it made
  significantly more style than fine-tuning on the second pair and in the strict form; on the first pair we found no difference.
- **Does the anchor criterion pay?** The paper's `sign` made significantly less style than `indicator` on the first pair and in the strict
  form. We found no difference between `indicator` and a weight of one half for every sample, in any world, and none between `indicator` and
  a coin where the two can be compared. We found none between that weight and a gate that asked the judges of these very results,
  in two seeds on each pair. Nodes begin with preset `indicator`, which was not significantly worse than `sign` in any world.
- **What SePPO is then good for.** It changes style and loses less of the content: at equal style `latest + constant` kept significantly more
  content than fine-tuning on both pairs. In the strict form it made too little style to compare, and significantly less than fine-tuning.
- **Strength.** Most runs with a random reference change little as trained, and are ranked at strengths of 3 to 9. So load the LoRA
  at 2 to 4 before you train longer.
- **Cheap samples.** The modes ranked here draw in 8 or 12 steps without guidance and learn from each sample more than once.
  A plain DPO loop lets the base draw a loser for each step, in 50 steps with guidance, and pushes every one away (with a LoRA and the
  settings found for `initial + none`). At a ninth of its evaluations, `indicator` with four steps on the same samples made significantly more
  style on the first pair, where that loop made less than fine-tuning, too. On the second pair and in the strict form we found no
  difference; these two were run on other bases, in sections of their own. `indicator` can also draw its samples as that loop does.
  Compared with that, two or four steps on the same samples were not significantly worse on the first pair and in the strict form, but were
  on the second pair. A fifth of the weight and eight steps on the same samples was not significantly worse on either pair, but was in the
  strict form. So a step nine times as cheap was never significantly worse than that loop, in all three worlds. Against the same criterion
  with dear samples either way holds in two of three worlds, and neither in all three. Between four steps and two we found no difference in
  any world.
- **What nodes begin with.** Preset `indicator`, for these reasons. Learning rate, beta and rank are the literature's, because settings found
  for one small network need not suit a large one. Each step draws its samples anew (`reuse` 1): at one winner a step, 200 steps with
  `reuse` 4 would show 50 winners.
"""

HEAD = """## How it was measured

**What is compared.** A small text-to-image model has seen two styles of emoji, which no caption names. Winners are pictures in one
of them. Every mode trains a LoRA on as many winners a step. Its settings are searched for with two thirds of the winners, and other judges
look at the remaining third. The search tries three learning rates, then two more trials around the best: other betas, or finer learning
rates for a mode that reads no beta. If the best learning rate is the lowest or the highest, it tries up to two beyond. With the settings found
the mode is judged on captions that are not among the winners, from noise that is the same for all. An idea changes one thing of a mode and
takes the settings of that mode.

| in the name of a mode | means |
|---|---|
| sft | plain fine-tuning on the winners |
| dpo on pairs | DPO with a losing picture for each winner, the same thing in the base's style, which no other mode is given |
| initial, latest, random | who draws the reference samples: the base, the last snapshot, any snapshot. *latest + none* is SPIN-Diffusion's choice |
| none, constant | every sample is pushed away, with full weight or with half |
| sign, indicator | the anchor criterion: a sample that is not pushed away is learned from (the paper's), or left out |
| coin | left out at random, as often as by *indicator* |
| plainly drawn | new samples each step, 50 sampler steps with a guidance of 2. All other modes share samples between two steps and draw them in 8 steps without guidance. Apart from the LoRA, *initial + none, plainly drawn* is DPO as it is usually written where there are no pairs: the base draws the losers and is the reference. |
| sample indicator, sample sign | the criterion asks for the sample's own margin, not for the winner's |
| winner safe | the loser's gradient is scaled so that to first order the winner's error never rises |
| winner kept | half the winner's error on top of the loss |
| loser capped | a sample is pushed away until its error has risen by a tenth |
| a fifth | every sample is pushed away with a fifth of the weight |
| soft | the role fades in with the margin |
| anchor of 4 | the anchor is the mean of four draws of the noise |
| judge | a sample is left out if the judges of the results give it half or more to be in the winners' style: not for use, but the best look at a sample that there is |
| nearest | a sample nearer to winners than to other samples, by what the base makes of them, is left out |
| level | *indicator*, asking whether the policy is further ahead than it recently was at that noise level |
| moving beta | the beta under which the usual difference of margins makes a logit of 1 |
| reuse 8 | eight steps share samples, drawn in 8 steps, and 80 steps cost what 60 do otherwise |
| reuse 4 | four steps share samples, drawn in 12 steps: what benchmarks/speed.py times |

Of the nodes' presets, `sft` is *sft*, `dpo` *dpo on pairs*, `spin` *latest + none*, `seppo` *random + sign* and `indicator` *random +
indicator*; the others are `custom`.

**Who judges.** *Style*: probability of the winners' style by a logistic regression on EfficientNet-lite0, fitted on real pictures of
other things; a blank picture counts 0. *Content kept*: R@10 against real pictures of all test captions in two further styles, as a
share of the base's. *Fréchet*: distance of features to real pictures of the same captions in the winners' style. *Diversity*: distance of two
pictures of one caption. *Damage*: distance to the nearest real picture in either style. These two do not rank: noise is diverse, and
one clean picture may be drawn for every caption. The search sees EfficientNet-lite1 and other captions.

**Style at 80 % content** is what to rank by. The LoRA is made stronger or weaker until 80 % of the base's content is left (between two
strengths by interpolation), and the most style up to there is taken; the strength stands beside it. So no mode wins by giving content away:
DPO makes by far the most style as trained, but destroys what the pictures show, and has to be made weaker for its place in the table. All
other columns are of the LoRA as trained. "At least" means that content never fell that far, and style still rose. The search chooses by the
same measure, on its own captions. **Content at equal style** is the reverse. The style to reach lies halfway from the base's to what
fine-tuning of equal cost has at 80 % content; the most content at any strength that reaches it counts.

**Evaluations** are forwards of one sample through the network while training; a forward with its backward counts three, as is usual. With
a LoRA a backward takes less, because the frozen weights need no gradient. So the modes that draw no samples get fewer steps here than would
take as long. If the backward counted as one, fine-tuning would get a quarter more of them.

± is the 95 % interval over training seeds; captions, noise of the evaluation and the search are the same for all of them, so the interval leaves them out.
Comparisons are paired by seed (t-test) and need five seeds. "Corrected" is Holm's correction for the number of rows; * marks p < 0.05 after it.

**What it cannot show.** It is a toy: one small base, drawings of 32x32 pixels. An effect seen here may be missing on photographs and
large models, and an effect missing here may be there. All modes share the demo's optimizer, sampler and two steps a sample, and
one look at these test captions went into that choice (demo/README.md). We looked at the first pair's test captions when we made up ideas and
kept or dropped them, and for *reuse 8* at the second pair's, too. So the p-values of ideas are too low. The second pair was run twice: once
early, with six modes, then again on another base, with the settings that the search has found now, in several batches as ideas came.
The first run is in the history. That base and the strict form's were not kept, so the plain DPO loop was run on others there.
"""


def write(results: Path, page: Path = PAGE) -> None:
    """The page, of every world that has results."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    rank = {world: place for place, world in enumerate(WORLDS)}
    paths = sorted(
        results.glob("*.jsonl"), key=lambda path: (rank.get(path.stem, len(rank)), path.stem)
    )
    worlds = {path.stem: records.read(path) for path in paths}
    short = SHORT if worlds.keys() >= WORLDS.keys() | AGAIN.keys() else ""
    sections = [section(path, worlds[path.stem]) for path in paths]
    parts = [TITLE, short, HEAD, verdict(worlds), *sections]
    page.write_text(_joined(*(part.strip() for part in parts)) + "\n", "utf-8")
