"""Who trains in a run directory: one process at a time, which can be asked to stop; and what became of it."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import CheckpointError
from ..files import make_folder, unless_refused
from .status import CANCELLED, FAILED, WAITING, Record, reason_of, was_cancelled

STOP = "STOP"
"""A file of this name in the run directory ends the run after the current step."""

PATIENCE = 0.5
"""Seconds to wait for a lock: whoever only looks who has it holds it for a moment."""

A_LOOK = 0.05
"""Seconds that another process may hold the lock to look."""

_LOOKING = threading.Lock()
_HELD: set[Path] = set()
"""Run directories whose lock this process has."""

log = logging.getLogger(__name__)


class OwnedFolder:
    """A run directory as those see it who want to train in it, or to end that."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def name(self) -> str:
        return self.directory.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains in this directory during the block; CheckpointError if somebody does.

        The system frees the lock when its owner ends, however it ends. A fault is recorded.
        """
        lock, owner = FileLock(self.directory / "run.lock"), self.directory / "run.owner"
        with self.writing("the folder cannot be locked"):
            make_folder(self.directory)
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                raise CheckpointError(
                    f"{self.directory}: process {self.owner() or 'unknown'} is training this run; wait "
                    "for it, stop it, or choose another run name"
                ) from None
        place = self.directory.resolve()
        _HELD.add(place)
        try:
            if before := self.owner():
                log.warning(
                    "run %r: process %s ended in mid-run; going on from its last checkpoint",
                    self.name,
                    before,
                )
            with self.writing("the folder cannot be locked"):
                owner.write_text(str(os.getpid()), "utf-8")
                (self.directory / STOP).unlink(missing_ok=True)  # it was meant for another time
            yield
        except BaseException as error:
            self.tell(*((CANCELLED,) if was_cancelled(error) else (FAILED, reason_of(error))))
            raise
        finally:
            for path in (owner, self.directory / STOP):
                with suppress(OSError):
                    path.unlink()
            _HELD.discard(place)
            lock.release()

    @property
    def _record_path(self) -> Path:
        return self.directory / "run.state"

    def record(self) -> Record:
        return Record.read(self._record_path)

    def tell(self, state: str, reason: str = "") -> None:
        """Record what became of the training; the directory is still there, or it is not recorded."""
        if self.directory.is_dir():
            with unless_refused(self._record_path):
                replace(self.record(), state=state, reason=reason).write(self._record_path)

    @contextmanager
    def writing(self, trouble: str) -> Iterator[None]:
        """CheckpointError if the disk does not take what the block writes."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.directory}: {trouble} ({error}). The checkpoints are as they were; free some "
                "space or make the folder writable, and run again"
            ) from None

    def holder(self) -> str | None:
        """Process id of who trains this run now, or None; the note that a killed one left does not count."""
        if self.is_held():
            return str(os.getpid())
        owner = self.owner()
        if owner is None:
            return None
        lock = FileLock(self.directory / "run.lock")
        with _LOOKING:  # one who looks must not take another one for the owner
            try:
                lock.acquire(timeout=A_LOOK)
            except Timeout:
                return owner
            except OSError:  # a folder that this user cannot write
                return None
            lock.release()
        return None

    def is_held(self) -> bool:
        """Whether this very process trains the run."""
        return self.directory.resolve() in _HELD

    def owner(self) -> str | None:
        """Process id of who trains this run, or None; one that was killed counts until the next one trains."""
        try:
            return (self.directory / "run.owner").read_text("utf-8", errors="replace")[:20]
        except OSError:
            return None

    def request_stop(self) -> None:
        """Let whoever trains this run end after the current step, as if that were the last."""
        (self.directory / STOP).touch()

    def ask_to_go_on(self) -> None:
        """A stopped run is trained on by whoever runs it next."""
        (self.directory / STOP).unlink(missing_ok=True)
        record = self.record()
        replace(record, state=WAITING, continued=record.continued + 1).write(self._record_path)

    def stop_requested(self) -> bool:
        return (self.directory / STOP).exists()
