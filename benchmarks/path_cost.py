"""What a LoRA's path adds to the linear layer that it goes along: `python benchmarks/path_cost.py`.

Without gradients, as in the reference's forwards: rank 16, float32, the process's own time on one thread of a CPU. Each layer is one
of many, so that its weights come from memory, as a network's do; medians over rounds in which layer and layer with path take turns.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from seppo_core.lora import path_for

RANK, LAYERS, ROUNDS = 16, 60, 7
WIDTHS, ROWS = (320, 640, 1280), (16, 64, 256, 1024)


def seconds(layers: list[nn.Linear], x: torch.Tensor) -> float:
    """Of one layer."""
    began = time.process_time()
    for layer in layers:
        layer(x)
    return (time.process_time() - began) / len(layers)


def with_paths(layers: list[nn.Linear]) -> list[nn.Linear]:
    """The same layers, each with a path as `seppo_core.lora` hooks it on."""
    hooked = [copy.copy(layer) for layer in layers]
    for layer in hooked:
        layer._forward_hooks = OrderedDict()
        path = path_for("", layer, RANK)
        width = layer.in_features
        weights = torch.randn(RANK, width), torch.randn(width, RANK)

        def add(_, args, output, path=path, weights=weights):
            return path(args[0], output, *weights, 1.0)

        layer.register_forward_hook(add)
    return hooked


@torch.no_grad()
def compare(width: int, rows: int) -> None:
    bare = [nn.Linear(width, width) for _ in range(LAYERS)]
    hooked, x = with_paths(bare), torch.randn(1, rows, width)
    seconds(hooked, x)
    rounds = [(seconds(bare, x), seconds(hooked, x)) for _ in range(ROUNDS)]
    alone, both = (statistics.median(column) for column in zip(*rounds, strict=True))
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
