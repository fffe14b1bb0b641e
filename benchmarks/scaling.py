"""How time and memory of a step grow with batch, latents, rank, pool and winners: `python benchmarks/scaling.py`.

Thin SD1.5 and thin SDXL in float32 on the first ComfyUI found, Linux only (memory is the process's own peak, which only
Linux lets reset). Each curve varies one thing. Time is the process's own, on one thread. The slope of time is fitted to
logarithms (1 is proportional, 0 is not at all) and stands beside the one to expect; of memory, what one more costs, for most of
a process's memory has nothing to do with the step.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from each_host import MIB, apart, on_each_host, peak_bytes, reset_peak, version_of

STEPS, WARM = 3, 1
KINDS = ("sd15", "sdxl")


@dataclass(frozen=True)
class Point:
    """One setting of everything that is varied."""

    batch: int = 1
    side: int = 16
    """of the latents"""
    rank: int = 16
    pool: int = 2
    winners: int = 8


@dataclass(frozen=True)
class Curve:
    """One field of Point, its values, and how time and memory should follow."""

    field: str
    values: Sequence[int]
    time: str
    """the slope expected"""
    unit: str
    """what one more of is counted in memory"""
    each: str = ""
    """the measurement that is expected for one more, where the estimate of a step does not count it"""


CURVES = (
    Curve("batch", (1, 2, 4, 8, 16), "1", "winner"),
    Curve("side", (16, 32, 64), "2: area, and more where attention counts", "cell"),
    Curve("rank", (4, 16, 64, 128), "0 to 0.3: the paths are thin beside the layers", "rank"),
    Curve("pool", (1, 2, 8, 32), "0", "checkpoint", "LoRA MiB"),
    Curve("winners", (10, 100, 1000, 10_000), "0", "winner", "winner MiB"),
)


def dataset_of(host, kind: str, point: Point):
    """Winners of random latents with a text each, all in memory."""
    import thin
    import torch

    core = host.core("data")
    text = thin.thin_conditioning(kind)
    examples = []
    for i in range(point.winners):
        latents = torch.randn(4, point.side, point.side, generator=torch.Generator().manual_seed(i))
        cond = [[text[0][0].clone(), dict(text[0][1])]]
        examples.append(core.Example(latents, cond))
    return core.in_memory(examples)


def mib_of(tensors) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def measure(host, kind: str, point: Point) -> dict[str, float]:
    """Seconds of a step, once the pool is full, and what the process needed for it all."""
    import torch

    config, core = host.core("training.config"), host.core
    policy = core("denoisers.comfy").ComfyDenoiser(host.thin_model(kind, "fp32"))
    references = config.ReferenceConfig(
        sampling_steps=2, capacity=point.pool, batch_size=point.batch, snapshot_every=1
    )
    settings = config.SePPOConfig(
        steps=point.pool + WARM + STEPS,
        batch_size=point.batch,
        references=references,
        lora=config.LoRAConfig(rank=point.rank),
        run=config.RunConfig(preview_every=0),
    )
    reset_peak()
    before = peak_bytes()
    addresses = [p.data_ptr() for p in policy.network.parameters()]
    with torch.inference_mode(False):
        dataset = dataset_of(host, kind, point)
        reports = core("training.trainer").train(policy, dataset, settings)
        marks = [time.process_time() for _ in reports]
    assert addresses == [p.data_ptr() for p in policy.network.parameters()], "base weights moved"
    times = [later - earlier for earlier, later in pairwise(marks)]
    peak = peak_bytes() - before
    estimate = core("training.estimate")
    fresh = core("denoisers.comfy").ComfyDenoiser(host.thin_model(kind, "fp32"))
    with torch.inference_mode(False), fresh.session(settings.compute):
        calls = estimate.calls_of(fresh, dataset)
        expected = estimate.step_bytes(fresh, calls, settings, point.batch)
    return {
        "seconds": statistics.median(times[-STEPS:]),
        "MiB": peak / MIB,
        "expected MiB": expected / MIB,
        "LoRA MiB": mib_of(policy.lora.state().values()),
        "winner MiB": mib_of((dataset[0].latents, dataset[0].cond[0][0])),
    }


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of log y over log x, by least squares."""
    across, up = [math.log(x) for x in xs], [math.log(y) for y in ys]
    return statistics.linear_regression(across, up).slope


def show(curve: Curve, found: list[dict[str, float]]) -> None:
    xs = curve.values
    print(f"\n{curve.field}: " + ", ".join(map(str, xs)))
    print("  ms a step  " + ", ".join(f"{1000 * f['seconds']:.0f}" for f in found))
    print("  peak MiB   " + ", ".join(f"{f['MiB']:.0f}" for f in found))
    print("  estimate   " + ", ".join(f"{f['expected MiB']:.0f}" for f in found))
    seconds = slope(xs, [f["seconds"] for f in found])
    print(f"  time: slope {seconds:.2f}, expected {curve.time}")
    squared = [x**2 for x in xs] if curve.field == "side" else list(xs)
    measured, expected = (
        statistics.linear_regression(squared, [f[key] for f in found]).slope
        for key in ("MiB", "expected MiB")
    )
    if curve.each:
        expected = found[0][curve.each]
    print(f"  memory: {measured:.3f} MiB for one more {curve.unit}, expected {expected:.3f}")
    sys.stdout.flush()


def measure_all(host, rounds: int) -> None:
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    # Random weights drive some losses to where gradients are too small for full precision, which slows a CPU many times.
    torch.set_flush_denormal(True)
    for kind in KINDS:
        print(f"\nComfyUI {version_of(host)}, thin {kind}, float32")
        for curve in CURVES:
            points = [Point(**{curve.field: value}) for value in curve.values]
            show(curve, [apart(partial(measure, host, kind, point)) for point in points])


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure_all, only_first=True)
