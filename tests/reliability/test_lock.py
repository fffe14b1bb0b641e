"""Two processes on one run directory: the second trains nothing; after a kill the next one takes over."""

import time
from pathlib import Path

import pytest
from processes import LIMIT, finish, start
from small_run import metrics_lines, outcome, whole_run
from writes import StuckAt

from seppo_core.errors import CheckpointError
from seppo_core.runs.lock import STOP
from seppo_core.runs.run import Run

STUCK_AT = 150
"""A disk operation in mid-run, behind the first checkpoint."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    home = tmp_path_factory.mktemp("whole") / "run"
    whole_run(home)
    return outcome(home)


@pytest.fixture
def training(tmp_path):
    """A run in another process that trains for as long as the test lasts, and its process."""
    home = tmp_path / "run"
    process = start(home, at=STUCK_AT, act=StuckAt)
    deadline = time.monotonic() + LIMIT
    while not (Run(home / "run").step() and settled(home)):
        assert time.monotonic() < deadline, "the other process does not come far enough"
    yield home, process
    process.kill()
    process.join()


def settled(home: Path) -> bool:
    """Whether nothing happens in the run directory for a moment."""

    def look():
        return sorted((str(p), p.stat().st_mtime_ns) for p in home.rglob("*") if p.exists())

    before = look()
    time.sleep(1)
    return look() == before


def test_a_second_process_is_told_who_trains_and_trains_nothing(training, expected):
    home, process = training
    before = metrics_lines(home)
    with pytest.raises(CheckpointError, match=f"process {process.pid} is training this run; wait"):
        whole_run(home)
    assert metrics_lines(home) == before
    assert process.is_alive()


def test_a_second_run_in_the_same_process_is_refused_too(tmp_path):
    run = Run(tmp_path)
    with run.locked():
        with pytest.raises(CheckpointError, match="is training this run"):
            with Run(tmp_path).locked():
                pass
        assert run.owner()
    assert run.owner() is None
    with Run(tmp_path).locked():
        pass


def test_after_a_kill_the_next_process_takes_over_and_says_so(training, expected, caplog):
    home, process = training
    pid = process.pid
    process.kill()
    process.join()
    reached = Run(home / "run").step()
    assert reached > 0
    assert whole_run(home)[0] == reached + 1
    assert f"process {pid} ended in mid-run; going on from its last checkpoint" in caplog.text
    assert outcome(home) == expected
    caplog.clear()
    assert whole_run(home) == []
    assert not caplog.text


def test_a_damaged_note_of_the_owner_keeps_nobody_out(training, expected):
    home, process = training
    (home / "run" / "run.owner").write_bytes(b"\xff" * 1000)
    with pytest.raises(CheckpointError, match="is training this run"):
        whole_run(home)
    process.kill()
    process.join()
    whole_run(home)
    assert outcome(home) == expected


def test_a_stop_asked_of_another_process_is_obeyed_after_its_step(tmp_path, expected):
    home = tmp_path / "run"
    process = start(home)
    while not (home / "run" / "metrics.jsonl").is_file():
        assert process.is_alive()
    Run(home / "run").request_stop()
    assert finish(process) == 0
    reached = Run(home / "run").step()
    assert reached == len(metrics_lines(home)) < 10
    assert not (home / "run" / STOP).exists()
    assert whole_run(home) == list(range(reached + 1, 11))
    assert outcome(home) == expected
