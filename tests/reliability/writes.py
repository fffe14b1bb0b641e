"""Something happens in the middle of writing: at any one of all the calls that change what is on the disk."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

Act = Callable[[str, str], None]
"""Called with the operation (create, write, fsync, replace, rename, unlink or mkdir) and the name of its folder."""


class HalfWritten:
    """A file whose every write is interrupted after its first half has reached the disk."""

    def __init__(self, file: Any, act: Act, folder: str) -> None:
        self._file, self._act, self._folder = file, act, folder

    def write(self, data: Any) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._act("write", self._folder)
        self._file.write(data[half:])
        return len(data)

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def interrupted(act: Act) -> Iterator[None]:
    """`act` runs in every call of the block that changes the disk, and may raise or end the process."""
    plain_open, plain_os_open, plain_fsync = Path.open, os.open, os.fsync

    def open_path(self: Path, mode: str = "r", *args: Any, **settings: Any) -> Any:
        if not set(mode) & set("wax"):
            return plain_open(self, mode, *args, **settings)
        act("create", self.parent.name)
        return HalfWritten(plain_open(self, mode, *args, **settings), act, self.parent.name)

    def open_handle(path: Any, flags: int, *args: Any, **settings: Any) -> int:
        if flags & os.O_CREAT:
            act("create", Path(path).parent.name)
        return plain_os_open(path, flags, *args, **settings)

    def fsync(handle: int) -> None:
        act("fsync", "")
        plain_fsync(handle)

    def before(operation: str, plain: Callable) -> Callable:
        def call(self: Path, *args: Any, **settings: Any) -> Any:
            act(operation, self.parent.name)
            return plain(self, *args, **settings)

        return call

    with ExitStack() as patches:
        patches.enter_context(patch.object(Path, "open", open_path))
        patches.enter_context(patch.object(os, "open", open_handle))
        patches.enter_context(patch.object(os, "fsync", fsync))
        for method in ("replace", "rename", "unlink", "mkdir"):
            plain = getattr(Path, method)
            patches.enter_context(patch.object(Path, method, before(method, plain)))
        yield


class At:
    """Notes the operations, each as `operation folder`, and does something at number `at`, from 1 on."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen: list[str] = []

    def __call__(self, operation: str, folder: str) -> None:
        self.seen.append(f"{operation} {folder}")
        if len(self.seen) == self.at:
            self.happen()

    def happen(self) -> None:
        """What is done at that operation."""


class KilledAt(At):
    """The process is killed."""

    def happen(self) -> None:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


class StuckAt(At):
    """The process goes no further."""

    def happen(self) -> None:
        time.sleep(3600)


class DiskFull(At):
    """There is no space from operation `at` on, for `count` operations; removing needs none."""

    def __init__(self, at: int, count: int) -> None:
        super().__init__(at)
        self.count = count

    def __call__(self, operation: str, folder: str) -> None:
        if operation != "unlink":
            super().__call__(operation, folder)
            if self.at <= len(self.seen) < self.at + self.count:
                raise OSError(errno.ENOSPC, "No space left on device (injected)")
