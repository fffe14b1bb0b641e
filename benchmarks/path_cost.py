"""What a LoRA's path adds to the linear layer that it goes along: `python benchmarks/path_cost.py`.

Without gradients, as in the reference's forwards: rank 16, float32, the process's own time on one thread of a CPU. Each layer is one
of many, so that its weights come from memory, as a network's do; medians over rounds in which layer and layer with path take turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from seppo_core.adapters.lora import LoRA, LoRAConfig

RANK, LAYERS, ROUNDS = 16, 60, 7
WIDTHS, ROWS = (320, 640, 1280), (16, 64, 256, 1024)


def seconds(layers: list[nn.Linear], x: torch.Tensor) -> float:
    """Of one layer."""
    began = time.process_time()
    for layer in layers:
        layer(x)
    return (time.process_time() - began) / len(layers)


@torch.no_grad()
def compare(width: int, rows: int) -> None:
    layers = [nn.Linear(width, width) for _ in range(LAYERS)]
    lora = LoRA(nn.ModuleList(layers), LoRAConfig(rank=RANK), seed=0, device=torch.device("cpu"))
    x = torch.randn(1, rows, width)
    rounds = []
    for _ in range(1 + ROUNDS):
        alone = seconds(layers, x)
        with lora.attached():
            rounds.append((alone, seconds(layers, x)))
    alone, both = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
    print(
        f"{width:5} wide, {rows:4} rows: {1000 * alone:7.3f} ms alone, {1000 * both:7.3f} ms with its path, "
        f"{both / alone - 1:+.0%}; of products {2 * RANK / width:+.1%}",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for width in WIDTHS:
        for rows in ROWS:
            compare(width, rows)
