"""The run directory: what a run is (run.json), where it stands (state/, pool/) and how it went (metrics.jsonl).

A checkpoint is what one manifest in state/ names: weights, optimizer, pool entries, each with size and
checksum. The manifest is written last, and the checkpoint before it stays until the new one was read back.
So the newest checkpoint that is whole can always be gone back to, whatever was cut off, killed or full.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..files import (
    PART,
    Seal,
    atomic,
    first_line,
    is_whole,
    load_tensors,
    save_tensors,
    sealed,
    write_json,
)
from ..method.references import Snapshot
from ..settings import load_json
from .lock import OwnedFolder
from .manifest import Checkpoint, file_name
from .state import DAMAGE, TrainingState, json_lines, packed, unpacked
from .status import DONE, Facts, Status, judged

FORMAT = 3
KEPT = 2
"""Checkpoints that stay on disk: the newest, and the one before it."""

METRICS_END = 4096
"""Bytes, more than two lines of metrics.jsonl have."""

FOLDERS = ("state", "weights", "pool")
log = logging.getLogger(__name__)


class Run(OwnedFolder):
    """A handle on one run directory; everything is read from disk when asked for.

    What the trainer writes through it is also kept in memory, so that no damage to the files spreads.
    """

    def __init__(self, directory: Path | str) -> None:
        super().__init__(Path(directory))
        self._about: dict[str, Any] = {}
        self._lines: list[str] = []
        """of metrics.jsonl, as it has to be"""

    def exists(self) -> bool:
        """Whether there is a run; a damaged run.json without a checkpoint is none."""
        if self._manifests():
            return True
        about, _ = self._run_json()
        return about is not None and (is_whole(about) or about.get("format") != FORMAT)

    def about(self) -> dict[str, Any]:
        """The whole of run.json: config, base, base_name, dataset, family, created, version.

        If it is damaged, as the newest checkpoint remembers it.
        """
        if self._about:
            return self._about
        about, problem = self._run_json()
        if about is None or not is_whole(about):
            remembered = next((found.about for found in self._checkpoints(log.debug)), None)
            about = remembered or about
        if about is None:
            raise CheckpointError(f"not a run directory: {problem}")
        if about.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.directory}: run format {about.get('format')!r} is not {FORMAT}; "
                "it was written by another version"
            )
        if type(about.get("config")) is not dict or not {"base", "base_name"} <= about.keys():
            raise CheckpointError(f"{self.directory}: run.json is damaged; choose another run name")
        return {name: value for name, value in about.items() if name != "checksum"}

    def _run_json(self) -> tuple[dict[str, Any] | None, str]:
        """run.json as it stands, or why it cannot be read."""
        try:
            return load_json(self.directory / "run.json"), ""
        except ConfigError as error:
            return None, str(error)

    def require_base(self, identity: str) -> None:
        """CheckpointError unless `identity` is that of the model this run was trained on."""
        about = self.about()
        if about["base"] != identity:
            raise CheckpointError(
                f"run {self.name!r} was trained on another model ({about['base_name']}); connect the "
                "base model that it was trained on, not the aligned one"
            )

    def metrics(self) -> list[dict[str, Any]]:
        """One dict per optimizer step, in order; what a crash tore is left out."""
        whole, _, _ = self._metrics_text().rpartition("\n")
        return json_lines(whole)

    def _metrics_text(self) -> str:
        try:
            return (self.directory / "metrics.jsonl").read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def status(self) -> Status:
        """How it stands with the run. While it trains its step is that of the newest line, else that of what is saved."""
        steps = self.about()["config"]["steps"]
        noted = self.owner()
        owner = self.holder()
        lines = json_lines(self._metrics_end()) if owner else []
        step = lines[-1]["step"] if lines else self.step()
        left = owner is None and noted is not None and self.owner() == noted  # nobody came or went
        facts = (self.record(), step, steps, self.stop_requested(), owner, self.is_held(), left)
        return judged(Facts(*facts))

    def _metrics_end(self) -> str:
        """The last whole lines of metrics.jsonl."""
        try:
            with (self.directory / "metrics.jsonl").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - METRICS_END))
                return file.read().decode("utf-8", errors="replace").rpartition("\n")[0]
        except OSError:
            return ""

    def _manifests(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.directory / "state").glob("step_*.json"))

    def _checkpoints(
        self, tell: Callable[..., None], thoroughly: bool = False
    ) -> Iterator[Checkpoint]:
        """The checkpoints that are whole, newest first; `tell` hears what is wrong with the others."""
        for path in reversed(self._manifests()):
            try:
                found = Checkpoint.read(path)
                problem = found.complaint(self.directory, thoroughly)
            except CheckpointError as error:
                problem = str(error)
            if problem:
                tell("run %r: a checkpoint is passed over, for %s", self.name, problem)
            else:
                yield found

    def state(self, before: int | None = None) -> TrainingState | None:
        """The newest state that is whole, of a step `before` that one, or None; what is damaged is logged."""
        for found in self._checkpoints(log.warning, thoroughly=True):
            if before is not None and found.step >= before:
                continue
            try:
                return self._read_state(found)
            except CheckpointError as error:
                log.warning("run %r: a checkpoint is passed over, for %s", self.name, error)
        return None

    def _read_state(self, found: Checkpoint) -> TrainingState:
        path = self.directory / file_name("state", found.step)
        tensors, about = load_tensors(path)
        try:
            pool = [self.snapshot(step) for step in found.pool]
            return unpacked(found.step, tensors, about, pool)
        except DAMAGE as error:
            raise CheckpointError(
                f"{path}: not a state of this product ({first_line(error)})"
            ) from None

    def newest(self, thoroughly: bool = False) -> Checkpoint | None:
        """The newest checkpoint whose files have their sizes, and under `thoroughly` their checksums."""
        return next(self._checkpoints(log.debug, thoroughly), None)

    def step(self) -> int:
        """The optimizer step of the newest checkpoint; 0 before the first."""
        newest = self.newest()
        return newest.step if newest else 0

    def weights_path(self) -> Path:
        """The LoRA file of the newest checkpoint, in the keys of the run's family."""
        newest = self.newest()
        if newest is None:
            raise CheckpointError(f"{self.directory}: the run has no weights yet; train it first")
        return self.directory / file_name("weights", newest.step)

    def weights(self) -> dict[str, Tensor]:
        """The aligned LoRA of the newest checkpoint: `<layer>.down`, `<layer>.up`, float32."""
        from ..adapters.files import load_lora

        return load_lora(self.weights_path())[0]

    def snapshot_steps(self) -> list[int]:
        """Steps of the pool's entries, oldest first."""
        newest = self.newest()
        return newest.pool if newest else []

    def snapshot(self, step: int) -> Snapshot:
        return Snapshot(step, load_tensors(self.directory / file_name("pool", step))[0])

    # Writing; the trainer is the one caller.

    def begin(self, about: dict[str, Any], state: TrainingState | None) -> None:
        """Write run.json, and metrics.jsonl as far as `state` goes; clear away what a killed run left."""
        created = datetime.now(timezone.utc).isoformat()
        if self.exists():
            with suppress(CheckpointError):  # damaged, and no checkpoint remembers it
                created = self.about()["created"]
        self._about = {**about, "format": FORMAT, "created": created}
        self._lines = [json.dumps(line) + "\n" for line in state.metrics] if state else []
        self._tell_damage()
        with self.writing("the run cannot begin"):
            write_json(self.directory / "run.json", sealed(self._about))
            self._write_metrics()
            if state is None:
                self._set_aside()
            for path in self._manifests():
                if state is not None and path.stem > f"step_{state.step:08d}":
                    path.unlink()  # of a checkpoint that was passed over
            for path in self.directory.rglob(f"*{PART}"):
                path.unlink(missing_ok=True)

    def mend(self, about: dict[str, Any]) -> None:
        """Write run.json and metrics.jsonl of a finished run anew where they are not as its checkpoint has them.

        So it is with a run that ended early, once no more steps are asked for than it has.
        """
        there, _ = self._run_json()
        newest = self.newest()
        complaint = newest.metrics.complaint(self.directory / "metrics.jsonl", thoroughly=True)
        whole = not complaint and there is not None and is_whole(there)
        if whole and there["config"]["steps"] == about["config"]["steps"]:
            return
        try:
            with self.locked():
                state = self._read_state(newest)  # this one or none: the run is finished
                self.begin(about, state)
                self.tell(DONE)
        except CheckpointError as error:
            log.warning("run %r is finished, but could not be mended: %s", self.name, error)

    def _tell_damage(self) -> None:
        """Log which of the files that are written anew were not as they have to be."""
        about, _ = self._run_json()
        if about is None or not is_whole(about):
            if self._lines or (self.directory / "run.json").exists():
                log.warning("run %r: run.json was gone or damaged; it is written anew", self.name)
        there = self._metrics_text()
        if not there.startswith("".join(self._lines)):
            log.warning(
                "run %r: metrics.jsonl was gone or damaged; its %d lines come from the checkpoint",
                self.name,
                len(self._lines),
            )

    def _set_aside(self) -> None:
        """Checkpoints of which none is whole make way, but are not deleted."""
        if not self._manifests():
            return  # what lies there is of a first save that was cut off; the next one replaces it
        number = 1
        while (damaged := self.directory / f"damaged_{number}").exists():
            number += 1
        damaged.mkdir()
        for name in FOLDERS:
            if (self.directory / name).exists():
                (self.directory / name).rename(damaged / name)
        log.error(
            "run %r: no checkpoint is whole, so the run begins anew; what there was lies in %s",
            self.name,
            damaged,
        )

    def save(self, state: TrainingState, save_weights: Callable[[Path], Seal]) -> None:
        """Pool, weights, state, manifest; read back; then what no kept checkpoint names is removed.

        CheckpointError if the disk cannot take it; the checkpoints that were there stay.
        """
        kept = self._kept_entries(state)
        manifest = self.directory / Path(file_name("state", state.step)).with_suffix(".json")
        new = [path for path in (manifest, *self._files(state)) if not path.exists()]
        try:
            with self.writing(f"step {state.step} cannot be saved"):
                written = self._write_files(state, save_weights, kept)
                seals = {name: vars(seal) for name, seal in {**kept, **written}.items()}
                pool = [snapshot.step for snapshot in state.pool]
                self._flush_metrics()
                manifest_values = {
                    "step": state.step,
                    "pool": pool,
                    "files": seals,
                    "metrics": vars(Seal.of_content(self._text())),
                    "about": self._about,
                }
                write_json(manifest, sealed(manifest_values))
            self._read_back(state.step, written)
        except BaseException:
            for path in new:
                with suppress(OSError):
                    path.unlink()
            raise
        self._remove_old()

    def _read_back(self, step: int, written: Mapping[str, Seal]) -> None:
        """CheckpointError if the disk does not hold what was written."""
        checks = (s.complaint(self.directory / n, thoroughly=True) for n, s in written.items())
        if problem := next(filter(None, checks), ""):
            raise CheckpointError(f"{self.directory}: step {step} was not saved: {problem}")

    def _flush_metrics(self) -> None:
        """Bring the lines to the disk: nothing writes those of a finished run again."""
        path = self.directory / "metrics.jsonl"
        if path.is_file() and path.stat().st_size == sum(map(len, self._lines)):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:  # a line was torn, or somebody removed the file
            self._write_metrics()

    def _write_metrics(self) -> None:
        with atomic(self.directory / "metrics.jsonl") as temporary:
            temporary.write_bytes(self._text())

    def _text(self) -> bytes:
        """What metrics.jsonl has to hold."""
        return "".join(self._lines).encode("ascii")

    def _files(self, state: TrainingState) -> list[Path]:
        pool = [file_name("pool", snapshot.step) for snapshot in state.pool]
        names = [*pool, file_name("weights", state.step), file_name("state", state.step)]
        return [self.directory / name for name in names]

    def _kept_entries(self, state: TrainingState) -> dict[str, Seal]:
        """Pool entries that the newest checkpoint has already; they need not be written again."""
        before = self.newest()
        names = [file_name("pool", snapshot.step) for snapshot in state.pool]
        return {name: before.seals[name] for name in names if before and name in before.seals}

    def _write_files(
        self,
        state: TrainingState,
        save_weights: Callable[[Path], Seal],
        kept: Mapping[str, Seal],
    ) -> dict[str, Seal]:
        """The checkpoint's other files, and what each has to be."""
        written = {}
        for snapshot in state.pool:
            name = file_name("pool", snapshot.step)
            if name not in kept:
                about = {"step": str(snapshot.step)}
                written[name] = save_tensors(self.directory / name, snapshot.weights, about)
        weights = file_name("weights", state.step)
        written[weights] = save_weights(self.directory / weights)
        name = file_name("state", state.step)
        written[name] = save_tensors(self.directory / name, *packed(state, self._lines))
        return written

    def _remove_old(self) -> None:
        """Keep what the newest KEPT checkpoints name."""
        kept: set[str] = set()
        for found in islice(self._checkpoints(log.debug), KEPT):
            manifest = Path(file_name("state", found.step)).with_suffix(".json")
            kept |= {manifest.as_posix(), *found.seals}
        for folder in FOLDERS:
            for path in (self.directory / folder).glob("step_*"):
                if f"{folder}/{path.name}" not in kept:
                    with suppress(OSError):  # open elsewhere (Windows): the next save removes it
                        path.unlink()

    def append_metrics(self, line: dict[str, Any]) -> None:
        """CheckpointError if the disk cannot take it; checkpoints have the line all the same."""
        self._lines.append(json.dumps(line) + "\n")
        with self.writing("metrics.jsonl cannot be written"):
            with (self.directory / "metrics.jsonl").open("ab") as file:
                file.write(self._lines[-1].encode("ascii"))
