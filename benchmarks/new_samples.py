"""The way of benchmarks/speed.py that was least sure to meet its target, in more rounds: `python benchmarks/new_samples.py`.

Thin SDXL with new samples each step, beside the limit alone, on every ComfyUI found; counted and timed as speed.py does.
"""

from __future__ import annotations

from each_host import on_each_host
from speed import OURS, beside_limit

KIND, WAY = "sdxl", "ours"
ROUNDS = 20


def measure(host, rounds: int) -> None:
    def model():
        return host.thin_model(KIND, "fp32")

    beside_limit(host, model, KIND, f"thin {KIND}", rounds, {}, {WAY: OURS[WAY]})


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure, ROUNDS)
