"""When a run goes on in its directory, and when it is another run."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..runs.run import Run
from ..runs.status import STOPPED
from .config import SePPOConfig

RESUMABLE_UNFINISHED = ("optimizer.learning_rate",)
"""Of a run that has all its steps nothing would be trained with the new value, so there it makes another run."""

RESUMABLE = (
    "steps",
    "run.directory",
    "run.checkpoint_every",
    "run.preview_every",
    "run.held_out_every",
    "run.initial_weights",
    *RESUMABLE_UNFINISHED,
)
"""Settings that may change between a run and its continuation: `steps` under schedule constant only, and
where the initial weights lie, not which they are."""


def differences(before: dict[str, Any], now: dict[str, Any], step: int) -> list[str]:
    """What keeps a run described by `before` (its run.json), at `step`, from being continued as `now`."""
    parts = ("base", "conditions", "dataset", "initial")
    found = [name for name in parts if before.get(name) != now.get(name)]
    free = set(RESUMABLE)
    if step >= now["config"]["steps"]:
        free -= set(RESUMABLE_UNFINISHED)
    if now["config"]["optimizer"]["schedule"] != "constant":
        free.remove("steps")  # the whole schedule would move
    config = _filled(before["config"], SePPOConfig().as_dict())
    return found + [name for name in _changed(config, now["config"]) if name not in free]


def _filled(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values` with the defaults of settings that came after it was written, which change nothing."""
    found = defaults | values
    for name, default in defaults.items():
        if isinstance(default, dict) and isinstance(found[name], dict):
            found[name] = _filled(found[name], default)
    return found


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
        with suppress(CheckpointError):  # written by another version: left as it is
            step = run.step()
            if about["config"]["steps"] >= step and not differences(run.about(), about, step):
                return directory
        number += 1


def stays_stopped(run: Run, steps: int) -> bool:
    """Whether a run that was stopped is to be taken as it is: nobody asked it to go on, nor for more steps."""
    if not run.exists() or run.status().state != STOPPED:
        return False
    return run.step() < steps <= run.about()["config"]["steps"]


def check_writable(
    directory: Path, advice: str = "choose another run directory or free this one"
) -> None:
    """CheckpointError if `directory` could not be made or written; makes nothing."""
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"{directory}: cannot be written ({existing} is not a writable folder); {advice}"
        )
