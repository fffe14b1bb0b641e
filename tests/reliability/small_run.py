"""One small run from pictures to weights, with all that a run can have, and what it came to, bit by bit."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import TinyDenoiser
from torch import Tensor

from seppo_core import train
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.data import EncodedDataset, cache
from seppo_core.data.encode import encode
from seppo_core.data.pictures import picture_from_tensor
from seppo_core.data.prepare import Preparation
from seppo_core.data.winners import Winners, pair_up
from seppo_core.data.wording import Wording, reworded
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal
from seppo_core.runs.run import Run
from seppo_core.training.config import RunConfig, SePPOConfig
from seppo_core.training.optim import OptimizerConfig

OPEN = os.open
"""Not the one that is interrupted."""

PICTURES = 6
SHARD_VALUES = 4
"""Encoded values that wait in memory for their shard; a kill loses them."""

CONFIG = SePPOConfig(
    steps=10,
    batch_size=2,
    loss=LossConfig(beta=50.0),
    references=ReferenceConfig(snapshot_every=2, capacity=3, reuse=2, sampling_steps=2),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02),
    run=RunConfig(checkpoint_every=3, preview_every=4, held_out_every=4),
)
"""Checkpoints at 3, 6, 9 and 10; those at 3 and 9 in mid-window; snapshots at 2, 4, 6, 8 and 10, of which three stay."""


def winners() -> Winners:
    pictures = [
        picture_from_tensor(torch.sigmoid(normal((16, 16, 3), "picture", i)), f"picture {i}")
        for i in range(PICTURES)
    ]
    captions = [f"number {i}, red, tall" for i in range(PICTURES)]
    return reworded(pair_up(pictures, captions), Wording(shuffle=1, dropout=0.3))


class Encoders:
    """Trivial ones, which note every call in `journal`: a line each, that no kill can tear."""

    def __init__(self, journal: Path) -> None:
        self._journal = OPEN(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def close(self) -> None:
        os.close(self._journal)

    def _note(self, what: str) -> None:
        os.write(self._journal, f"{what}\n".encode())

    def image(self, picture: Tensor) -> Tensor:
        self._note(hashlib.sha256(picture.numpy().tobytes()).hexdigest())
        return picture.reshape(4, 4, 4, 4, 3).mean((1, 3)).movedim(-1, 0)[:2].contiguous()

    def text(self, caption: str) -> Tensor:
        self._note(caption)
        return normal((3,), "text", caption)


def encoded(home: Path) -> EncodedDataset:
    encoders = Encoders(journal(home))
    try:
        return encode(
            winners(),
            encoders.image,
            encoders.text,
            Preparation(resolution=16, multiple=8),
            image_identity="vae",
            text_identity="clip",
            cache=home / "cache",
            held_out=0.4,
        )
    finally:
        encoders.close()


def configuration(home: Path) -> SePPOConfig:
    return replace(CONFIG, run=replace(CONFIG.run, directory=str(home / "run")))


def whole_run(home: Path) -> list[int]:
    """Encode and train in `home`, or go on with what is there; the steps that were trained."""
    waiting, cache.SHARD_VALUES = cache.SHARD_VALUES, SHARD_VALUES
    try:
        dataset = encoded(home)
    finally:
        cache.SHARD_VALUES = waiting
    assert dataset.held_out is not None
    return [report.step for report in train(TinyDenoiser(), dataset, configuration(home))]


def journal(home: Path) -> Path:
    """Beside `home`, so that it can be written where the disk of `home` is full."""
    return home.with_name(f"{home.name}.journal")


def encoder_calls(home: Path) -> list[str]:
    return journal(home).read_text("utf-8").splitlines() if journal(home).exists() else []


def copy(home: Path, target: Path) -> None:
    """A run with all that it has done, in another place."""
    shutil.copytree(home, target, dirs_exist_ok=True)
    shutil.copyfile(journal(home), journal(target))


def remove(home: Path) -> None:
    shutil.rmtree(home)
    journal(home).unlink(missing_ok=True)


def outcome(home: Path) -> dict[str, Any]:
    """All that a finished run is: two outcomes are equal if the runs are, to the bit."""
    run = Run(home / "run")
    state = run.state()
    assert state is not None
    return {
        "step": state.step,
        "scalars": state.scalars,
        "optimizer_json": state.optimizer_json,
        "weights": bits(state.weights),
        "optimizer": bits(state.optimizer_tensors),
        "pool": [(snapshot.step, bits(snapshot.weights)) for snapshot in state.pool],
        "result": bits(run.weights()),
        "metrics": metrics_lines(home),
        "metrics in the state": [untimed(line) for line in state.metrics],
    }


def metrics_lines(home: Path) -> list[dict[str, Any]]:
    """Of the file itself; a torn line is an error here."""
    text = (home / "run" / "metrics.jsonl").read_text("utf-8")
    return [untimed(json.loads(line)) for line in text.splitlines()]


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "seconds"}


def bits(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{value.dtype} {tuple(value.shape)} {value.numpy().tobytes().hex()}"
        for name, value in sorted(tensors.items())
    }
