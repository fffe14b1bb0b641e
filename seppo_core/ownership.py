"""Who trains in a run directory: one process at a time, which can be asked to stop."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .errors import CheckpointError
from .files import make_folder

STOP = "STOP"
"""A file of this name in the run directory ends the run after the current step."""

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

        The system frees the lock when its owner ends, however it ends.
        """
        lock, owner = FileLock(self.directory / "run.lock"), self.directory / "run.owner"
        with self.writing("the folder cannot be locked"):
            make_folder(self.directory)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise CheckpointError(
                    f"{self.directory}: process {self.owner() or 'unknown'} is training this run; wait "
                    "for it, stop it, or choose another run name"
                ) from None
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
        finally:
            for path in (owner, self.directory / STOP):
                with suppress(OSError):
                    path.unlink()
            lock.release()

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

    def owner(self) -> str | None:
        """Process id of who trains this run, or None; one that was killed counts until the next one trains."""
        try:
            return (self.directory / "run.owner").read_text("utf-8", errors="replace")[:20]
        except OSError:
            return None

    def request_stop(self) -> None:
        """Let whoever trains this run end after the current step, as if that were the last."""
        (self.directory / STOP).touch()

    def stop_requested(self) -> bool:
        return (self.directory / STOP).exists()
