"""What the gate's rounding near a reference does to pictures: `python benchmarks/early_gate.py [--seeds 3]`.

The demo's model is aligned in float32 and, as a GPU computes, in bf16: with margins as they are measured, with margins measured beyond
the reference (as the product does), and with no gate in the first steps. The demo's judges look at pictures of other captions. What
was measured is kept in .benchmark/early_gate and not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.anchor_precision import AsOnGPU
from demo import judges, studio
from demo.run import STEPS
from seppo_core import train
from seppo_core.denoisers import ComputeConfig
from seppo_core.evaluation.statistics import mean_with_interval
from seppo_core.method.objectives import CRITERIA, constant
from seppo_core.training import rounding

WORK = Path(__file__).resolve().parents[1] / ".benchmark" / "early_gate"
UNGATED = 16
"""steps of the warm-up without a gate: as far as rounding matters"""


@contextmanager
def as_measured() -> Iterator[Callable[[int], None]]:
    """Margins are not measured beyond the reference."""
    with patch.object(rounding, "FAR", 1):
        yield lambda step: None


@contextmanager
def without_gate() -> Iterator[Callable[[int], None]]:
    """As measured, and in the first steps every sample loses at half the weight."""
    gate, done = CRITERIA["indicator"], [0]

    def late(anchor: Tensor, loser_weight: float) -> Tensor:
        return (constant if done[0] < UNGATED else gate)(anchor, loser_weight)

    with as_measured(), patch.dict(CRITERIA, indicator=late):
        yield lambda step: done.__setitem__(0, step)


@contextmanager
def as_it_is() -> Iterator[Callable[[int], None]]:
    yield lambda step: None


WAYS = {
    "float32": ("fp32", as_it_is),
    "bf16, margins as measured": ("bf16", as_measured),
    "bf16, measured beyond": ("bf16", as_it_is),
    "bf16, as measured, no gate in 16 steps": ("bf16", without_gate),
}


def result(way: str, seed: int) -> dict[str, float]:
    path = WORK / f"{way.replace(' ', '_').replace(',', '')}_{seed}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured(way, seed)), "utf-8")
    return json.loads(path.read_text("utf-8"))


def measured(way: str, seed: int) -> dict[str, float]:
    precision, changed = WAYS[way]
    texts, names = studio.Texts(), studio.read_names()
    policy, dataset = studio.load_policy(), studio.read_dataset(texts)
    config = replace(studio.settings(STEPS, seed), compute=ComputeConfig(precision=precision))
    with changed() as tell, AsOnGPU() if precision == "bf16" else nullcontext():
        for report in train(policy, dataset, config):
            tell(report.step)
    score, _ = studio.measure(
        policy, texts, judges.load(), names.test * studio.DRAWS, names.test
    )  # pictures are drawn in float32, all ways alike
    return {"style": score.style, "content": score.content}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    found = {}
    for seed in seeds:
        for way in WAYS:
            found[way, seed] = result(way, seed)
            scores = "  ".join(f"{name} {value:.3f}" for name, value in found[way, seed].items())
            sys.stdout.write(f"seed {seed}  {way:<42}{scores}\n")
            sys.stdout.flush()
    for name in ("style", "content"):
        sys.stdout.write(
            f"\n{name}, beside margins as measured; 95 % interval over {len(seeds)} seeds\n"
        )
        for way in WAYS:
            apart = [
                found[way, s][name] - found["bf16, margins as measured", s][name] for s in seeds
            ]
            found_apart = mean_with_interval(apart)
            ends = f"[{found_apart.low:+.3f}, {found_apart.high:+.3f}]"
            sys.stdout.write(f"  {way:<42}{found_apart.value:+.3f} {ends}\n")


if __name__ == "__main__":
    main()
