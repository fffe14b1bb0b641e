"""A disk that is full or read-only, and a clock that jumps: nothing is lost, and the run goes on to the same end.

The disk is full at some of the run's writes; with SEPPO_RELIABILITY=long at each. Real small file systems are
mounted where the tests run as root.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from processes import LONG
from small_run import SHARD_VALUES, encoder_calls, metrics_lines, outcome, remove, whole_run
from writes import DiskFull, interrupted

from seppo_core.errors import CheckpointError, DatasetError
from seppo_core.runs import run as runs
from seppo_core.runs.run import Run
from seppo_core.training import metadata

FOR_GOOD = 10**9
EVERY = 1 if LONG else 20
"""Of so many writes one fails."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("whole") / "run"
    assert whole_run(home) == list(range(1, 11))
    return home


@pytest.fixture(scope="module")
def expected(whole):
    return outcome(whole)


class WatchedDiskFull(DiskFull):
    """Remembers the checkpoint that was there when the disk became full."""

    def __init__(self, at: int, count: int, home: Path) -> None:
        super().__init__(at, count)
        self.run, self.step = Run(home / "run"), 0

    def happen(self) -> None:
        self.step = self.run.step()


def assert_goes_on(home: Path, whole: Path, expected: dict, failures: int = 1) -> None:
    whole_run(home)
    assert outcome(home) == expected
    assert [line["step"] for line in metrics_lines(home)] == list(range(1, 11))
    calls = Counter(encoder_calls(home))
    assert calls.keys() == set(encoder_calls(whole))
    assert calls.total() - len(calls) <= failures * SHARD_VALUES


@pytest.mark.parametrize("count", [FOR_GOOD, 1], ids=["for good", "once"])
def test_a_full_disk_at_any_write_loses_nothing(tmp_path, whole, expected, count, tell):
    counting = DiskFull(FOR_GOOD, 1)
    with interrupted(counting):
        whole_run(tmp_path / "counted")
    total = len(counting.seen)
    assert total > 150
    numbers = range(1 if count == 1 else 1 + EVERY // 2, total + 1, EVERY)
    refused = 0
    for number in numbers:
        home = tmp_path / "run"
        full = WatchedDiskFull(number, count, home)
        with interrupted(full):
            try:
                whole_run(home)
            except (CheckpointError, DatasetError) as error:
                refused += 1
                assert "No space left on device" in str(error), number
                assert "free some space" in str(error), number
        assert Run(home / "run").step() >= full.step, number
        assert not list(home.rglob("*.part")), number
        assert_goes_on(home, whole, expected)
        remove(home)
    assert refused > len(numbers) // 2  # a folder that cannot be flushed is no fault
    tell(f"disk full at {len(numbers)} of {total} writes, {refused} times an error; count {count}")


# Real file systems.


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """A file system in memory; skips where that takes rights which the tests do not have."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=100m", *options]), "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def remount(path: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(path)], check=True)


def test_a_run_that_fills_a_small_disk_goes_on_once_it_has_space(tmp_path, whole, expected, tell):
    pages = sum(-(-path.stat().st_size // 4096) for path in whole.rglob("*") if path.is_file())
    refused = 0
    sizes = range(2, pages, 1 if LONG else max(1, pages // 6))
    for size in sizes:
        home = tmp_path / f"disk_{size}"
        with mounted(home, f"size={4 * size}k"):
            try:
                whole_run(home)
            except (CheckpointError, DatasetError) as error:
                refused += 1
                assert "No space left on device" in str(error), size
            reached = Run(home / "run").step()
            remount(home, "size=100m")
            steps = whole_run(home)
            assert steps == list(range(reached + 1, 11)), size
            assert outcome(home) == expected, size
    assert refused > len(sizes) // 2
    tell(f"{len(sizes)} disks of 8 to {4 * pages} kB, {refused} times full")


@pytest.mark.parametrize("folder", ["run", "cache"])
def test_a_read_only_folder_is_a_clear_error_and_the_run_goes_on_later(
    tmp_path, whole, expected, folder
):
    home = tmp_path / "run"
    with ExitStack() as mounts:
        mounts.enter_context(mounted(home / folder))
        with interrupted(DiskFull(100 if folder == "run" else 20, FOR_GOOD)):
            with pytest.raises((CheckpointError, DatasetError)):
                whole_run(home)
        remount(home / folder, "ro")
        before = {path: path.stat().st_mtime_ns for path in (home / folder).rglob("*")}
        assert before
        with pytest.raises((CheckpointError, DatasetError), match=rf"{folder}.* cannot be "):
            whole_run(home)
        assert {path: path.stat().st_mtime_ns for path in (home / folder).rglob("*")} == before
        remount(home / folder, "rw")
        assert_goes_on(home, whole, expected, failures=2)


def test_a_run_directory_without_permission_is_a_clear_error(tmp_path, whole, expected):
    home = tmp_path / "run"
    shutil.copytree(whole / "run", home / "run")
    shutil.rmtree(home / "run" / "state")
    (home / "run").chmod(0o500)
    if os.access(home / "run", os.W_OK):
        pytest.skip("this user may write anywhere, or the system knows no such permissions")
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            whole_run(home)
    finally:
        (home / "run").chmod(0o700)
    assert whole_run(home) == list(range(1, 11))
    assert outcome(home) == expected


# Clocks.

YEAR = 365 * 24 * 3600


@pytest.fixture
def jumping_clock(monkeypatch):
    """Every look at the clock shows another year, back or forth."""
    jumps, plain = random.Random(0), time.time

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=365 * jumps.uniform(-30, 30))

    monkeypatch.setattr(time, "time", lambda: plain() + jumps.uniform(-30, 30) * YEAR)
    for module in (runs, metadata):
        monkeypatch.setattr(module, "datetime", Jumping)


def test_a_clock_that_jumps_changes_nothing(tmp_path, whole, expected, jumping_clock):
    home = tmp_path / "run"
    for number in (25, 50, 50, 50):  # twice while encoding, twice while training
        with interrupted(DiskFull(number, FOR_GOOD)):
            with pytest.raises((CheckpointError, DatasetError)):
                whole_run(home)
    assert 0 < Run(home / "run").step() < 10
    assert_goes_on(home, whole, expected, failures=2)
    assert whole_run(home) == []


@pytest.mark.parametrize("years", [-40, 40])
def test_files_from_another_time_count_as_any_others(tmp_path, whole, expected, years):
    home = tmp_path / "run"
    with interrupted(DiskFull(160, FOR_GOOD)):
        with pytest.raises(CheckpointError):
            whole_run(home)
    reached = Run(home / "run").step()
    assert reached > 0
    order = random.Random(0)
    for path in home.rglob("*"):
        moment = time.time() + years * YEAR + order.uniform(-1, 1) * YEAR
        os.utime(path, (moment, moment))
    assert whole_run(home)[0] == reached + 1
    assert outcome(home) == expected
    assert Counter(encoder_calls(home)) == Counter(encoder_calls(whole))
