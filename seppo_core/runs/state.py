"""What a continued run needs besides its configuration, and how one safetensors file holds it."""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..method.references import Snapshot

MAX_METRICS_BYTES = 2**30
"""Of a state, unpacked: over two million steps."""

DAMAGE = (KeyError, ValueError, TypeError, RuntimeError, zlib.error)
"""What `unpacked` raises on a file that is something else."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that a continued run needs besides its configuration."""

    step: int
    weights: dict[str, Tensor]
    optimizer_tensors: dict[str, Tensor]
    optimizer_json: str
    pool: list[Snapshot]
    scalars: dict[str, float]
    """what the trainer counts: loss scale, steps since it changed, and the like"""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """the lines of metrics.jsonl up to `step`; filled when read"""


def packed(state: TrainingState, lines: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the file; `lines` are those of metrics.jsonl. The pool has files of its own."""
    tensors = {f"policy/{name}": value for name, value in state.weights.items()}
    tensors |= {f"optimizer/{name}": value for name, value in state.optimizer_tensors.items()}
    metrics = bytearray(zlib.compress("".join(lines).encode()))
    tensors["metrics"] = torch.frombuffer(metrics, dtype=torch.uint8)
    fields = {"optimizer": state.optimizer_json, "scalars": state.scalars}
    return tensors, {"seppo": json.dumps(fields)}


def unpacked(
    step: int, tensors: dict[str, Tensor], about: dict[str, str], pool: list[Snapshot]
) -> TrainingState:
    """What `packed` was given; any of DAMAGE if these are the tensors and metadata of another file."""
    fields = json.loads(about["seppo"])
    lines = _inflated(tensors["metrics"].numpy().tobytes())
    if type(fields["optimizer"]) is not str or type(fields["scalars"]) is not dict:
        raise TypeError("its fields are of other types")
    return TrainingState(
        step=step,
        weights=_part(tensors, "policy/"),
        optimizer_tensors=_part(tensors, "optimizer/"),
        optimizer_json=fields["optimizer"],
        pool=pool,
        scalars=fields["scalars"],
        metrics=json_lines(lines.decode()),
    )


def _inflated(data: bytes) -> bytes:
    """ValueError instead of more than MAX_METRICS_BYTES."""
    stream = zlib.decompressobj()
    found = stream.decompress(data, MAX_METRICS_BYTES)
    if not stream.eof:
        raise ValueError("its metrics are cut off or too long")
    return found


def json_lines(text: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines text; a damaged line is passed over."""
    found = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict) and type(value.get("step")) is int:
                found.append(value)
    return found


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
