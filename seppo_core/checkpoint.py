"""The run directory: what a run is (run.json), where it stands (state/, pool/) and how it went (metrics.jsonl).

Every file is written beside its place and renamed into it. A state file names the pool entries that
belong to it; they are written before it and removed only after it, so the newest state that reads is
always whole.
"""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor

from .config import SePPOConfig, from_dict, load_json
from .errors import CheckpointError, ConfigError
from .files import atomic, load_metadata, load_tensors, save_tensors, write_json
from .references import Snapshot

FORMAT = 1
RESUMABLE = (
    "steps",
    "run.directory",
    "run.checkpoint_every",
    "run.preview_every",
    "run.held_out_every",
    "run.initial_weights",
)
"""Settings that may change between a run and its continuation: `steps` under schedule constant only, and
where the initial weights lie, not which they are."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that a continued run needs besides its configuration."""

    step: int
    weights: dict[str, Tensor]
    optimizer_tensors: dict[str, Tensor]
    optimizer_json: str
    pool: list[Snapshot]
    loss_scale: float
    good_steps: int
    """optimizer steps since the loss scale last changed"""


class Run:
    """A handle on one run directory; everything is read from disk when asked for."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    @property
    def name(self) -> str:
        return self.directory.name

    def exists(self) -> bool:
        return (self.directory / "run.json").is_file()

    def about(self) -> dict[str, Any]:
        """The whole of run.json: config, base, base_name, dataset, family, created, version."""
        try:
            about = load_json(self.directory / "run.json")
        except ConfigError as error:
            raise CheckpointError(f"not a run directory: {error}") from None
        if about.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.directory}: run format {about.get('format')!r} is not {FORMAT}; "
                "it was written by another version"
            )
        return about

    def config(self) -> SePPOConfig:
        return from_dict(SePPOConfig, self.about()["config"])

    def require_base(self, identity: str) -> None:
        """CheckpointError unless `identity` is that of the model this run was trained on."""
        about = self.about()
        if about["base"] != identity:
            raise CheckpointError(
                f"run {self.name!r} was trained on another model ({about['base_name']}); connect the "
                "base model that it was trained on, not the aligned one"
            )

    def metrics(self) -> list[dict[str, Any]]:
        """One dict per optimizer step, in order; a last line that a crash tore is left out."""
        path = self.directory / "metrics.jsonl"
        if not path.is_file():
            return []
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def _saved(self, folder: str) -> list[tuple[int, Path]]:
        """(step, file) of what lies in one of the run's folders, oldest first."""
        files = (self.directory / folder).glob("step_*.safetensors")
        steps = ((re.fullmatch(r"step_(\d{8})", path.stem), path) for path in files)
        return sorted((int(match[1]), path) for match, path in steps if match)

    def state(self) -> TrainingState | None:
        """The newest state that reads whole, or None if nothing was saved yet."""
        problems = []
        for _, path in reversed(self._saved("state")):
            try:
                return self._read_state(path)
            except CheckpointError as error:
                problems.append(str(error))
        if problems:
            raise CheckpointError("no checkpoint of this run can be read: " + "; ".join(problems))
        return None

    def _read_state(self, path: Path) -> TrainingState:
        tensors, about = load_tensors(path)
        try:
            fields = json.loads(about["seppo"])
            return TrainingState(
                step=fields["step"],
                weights=_part(tensors, "policy/"),
                optimizer_tensors=_part(tensors, "optimizer/"),
                optimizer_json=fields["optimizer"],
                pool=[self.snapshot(step) for step in fields["pool"]],
                loss_scale=fields["loss_scale"],
                good_steps=fields["good_steps"],
            )
        except (KeyError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path}: not a state of this product ({error})") from None

    def step(self) -> int:
        """The optimizer step of the newest checkpoint that reads; 0 before the first."""
        for step, path in reversed(self._saved("state")):
            with suppress(CheckpointError):  # then an older one is the newest that reads
                load_metadata(path)
                return step
        return 0

    def weights_path(self) -> Path:
        """The LoRA file of the newest checkpoint, in the keys of the run's family."""
        saved = self._saved("weights")
        if not saved:
            raise CheckpointError(f"{self.directory}: the run has no weights yet; train it first")
        return saved[-1][1]

    def weights(self) -> dict[str, Tensor]:
        """The aligned LoRA of the newest checkpoint: `<layer>.down`, `<layer>.up`, float32."""
        from .export import load_lora

        return load_lora(self.weights_path())[0]

    def snapshot_steps(self) -> list[int]:
        """Steps of the pool's entries, oldest first."""
        return [step for step, _ in self._saved("pool")]

    def snapshot(self, step: int) -> Snapshot:
        return Snapshot(step, load_tensors(self._file("pool", step))[0])

    def _file(self, folder: str, step: int) -> Path:
        return self.directory / folder / f"step_{step:08d}.safetensors"

    # Writing; the trainer is the one caller.

    def create(self, about: dict[str, Any]) -> None:
        """Start the directory with its run.json."""
        about = {"format": FORMAT, "created": datetime.now(timezone.utc).isoformat(), **about}
        self.write_about(about)

    def write_about(self, about: dict[str, Any]) -> None:
        write_json(self.directory / "run.json", about)

    def save(self, state: TrainingState, save_weights: Callable[[Path], None]) -> None:
        """Pool, weights, then state; what the new state does not name goes last."""
        for snapshot in state.pool:
            path = self._file("pool", snapshot.step)
            if not path.exists():
                save_tensors(path, snapshot.weights, {"step": str(snapshot.step)})
        save_weights(self._file("weights", state.step))
        tensors = {f"policy/{name}": value for name, value in state.weights.items()}
        tensors |= {f"optimizer/{name}": value for name, value in state.optimizer_tensors.items()}
        fields = {
            "step": state.step,
            "optimizer": state.optimizer_json,
            "pool": [snapshot.step for snapshot in state.pool],
            "loss_scale": state.loss_scale,
            "good_steps": state.good_steps,
        }
        save_tensors(self._file("state", state.step), tensors, {"seppo": json.dumps(fields)})
        keep = set(fields["pool"])
        for folder, kept in (("state", {state.step}), ("weights", {state.step}), ("pool", keep)):
            for step, path in self._saved(folder):
                if step not in kept:
                    with suppress(OSError):  # open elsewhere (Windows): the next save removes it
                        path.unlink()

    def append_metrics(self, line: dict[str, Any]) -> None:
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Drop lines after `step`, so that a continued run has no double line."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        with atomic(self.directory / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What keeps a run described by `before` (its run.json) from being continued as `now`."""
    parts = ("base", "conditions", "dataset", "initial")
    found = [name for name in parts if before.get(name) != now.get(name)]
    free = set(RESUMABLE)
    if now["config"]["optimizer"]["schedule"] != "constant":
        free.remove("steps")  # the whole schedule would move
    return found + [name for name in _changed(before["config"], now["config"]) if name not in free]


def _changed(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(set(before) | set(now))
        join = f"{path}." if path else ""
        return [x for n in names for x in _changed(before.get(n), now.get(n), join + n)]
    return [] if before == now else [path]


def choose_directory(root: Path, name: str, about: dict[str, Any]) -> Path:
    """The directory below `root` for a run: `name` if it is free or holds this very run, else name_00002...

    A run continues if nothing but RESUMABLE settings differ and it does not ask for fewer steps than it has.
    """
    number = 1
    while True:
        directory = root / (name if number == 1 else f"{name}_{number:05d}")
        run = Run(directory)
        if not run.exists():
            return directory
        fewer = about["config"]["steps"] < run.step()
        if not fewer and not differences(run.about(), about):
            return directory
        number += 1


def check_writable(directory: Path) -> None:
    """CheckpointError if `directory` could not be made or written; makes nothing."""
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"{directory}: cannot be written ({existing} is not a writable folder); "
            "choose another run directory or free this one"
        )
