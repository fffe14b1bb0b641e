"""The states of a run: each way from one to the next is gone by a real training, and told alike by all who look."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TinyDenoiser, examples

from seppo_core import train
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.data import in_memory
from seppo_core.method.references import ReferenceConfig
from seppo_core.runs.lock import STOP
from seppo_core.runs.run import Run
from seppo_core.runs.status import (
    LONGEST_REASON,
    WORDS,
    Facts,
    Record,
    Status,
    judged,
    was_cancelled,
)
from seppo_core.training.config import RunConfig, SePPOConfig, config_of
from seppo_core.training.continuation import stays_stopped
from seppo_core.training.guard import GuardConfig

STEPS = 6
CONFIG = SePPOConfig(
    steps=STEPS,
    batch_size=2,
    references=ReferenceConfig(snapshot_every=2, sampling_steps=2),
    lora=LoRAConfig(rank=2, modules="all"),
    run=RunConfig(checkpoint_every=2, preview_every=0),
)


def started(home: Path, policy: TinyDenoiser | None = None, **changes):
    config = replace(CONFIG, run=replace(CONFIG.run, directory=str(home)), **changes)
    return train(policy or TinyDenoiser(), in_memory(examples(4)), config)


def told(home: Path) -> tuple[str, int, int]:
    status = Run(home).status()
    return status.state, status.step, status.steps


# Ways into a state.


def done(home: Path) -> None:
    assert len(list(started(home))) == STEPS


def stopped(home: Path, **changes) -> None:
    reports = started(home, **changes)
    next(reports)
    Run(home).request_stop()
    assert list(reports) == []


GUARD = GuardConfig(drift="stop", drift_window=2)


def stopped_by_the_guard(home: Path) -> None:
    class Drifting(TinyDenoiser):
        def residuals(self, *inputs):
            found = super().residuals(*inputs)
            return found + found.requires_grad  # worse than the reference, whatever is learned

    assert len(list(started(home, Drifting(), guard=GUARD))) < STEPS


def cancelled(home: Path) -> None:
    with closing(started(home)) as reports:
        next(reports)


def cancelled_inside(home: Path) -> None:
    """As by ComfyUI 0.3.64, in the middle of a step."""
    failed(home, type("InterruptProcessingException", (Exception,), {})())


def failed(home: Path, error: Exception | None = None) -> None:
    policy = TinyDenoiser()
    reports = started(home, policy)
    next(reports)
    error = error or ValueError("the card fell out\nof its slot")

    def broken(*inputs):
        raise error

    policy.residuals = broken
    with pytest.raises(type(error)):
        next(reports)


def test_two_that_look_at_once_do_not_take_each_other_for_the_owner(tmp_path):
    killed(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(lambda _: Run(tmp_path).status().state, range(200)))
    assert seen == {"failed"}


def killed(home: Path) -> None:
    """As a killed process leaves a run: the note of its id is still there, its lock is not."""
    reports = started(home)
    for _ in range(3):
        next(reports)
    owner = (home / "run.owner").read_text()
    lines = (home / "metrics.jsonl").read_bytes()
    reports.close()
    for path in home.glob("*/step_00000003*"):
        path.unlink()
    (home / "metrics.jsonl").write_bytes(lines)
    (home / "run.owner").write_text(owner)
    (home / "run.state").unlink()


def goes_on(home: Path, **changes) -> None:
    with closing(started(home, **changes)) as reports:
        next(reports)
        assert told(home)[0] == "training"


HOLD = """
import sys, time
from pathlib import Path
from seppo_core.runs.run import Run
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_process(home: Path) -> Iterator[int]:
    """It holds the run; on leaving it is killed."""
    command = [sys.executable, "-c", HOLD, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.kill()


MADE: dict[str, Callable[[Path], None]] = {
    "done": done,
    "stopped": stopped,
    "stopped by the guard": stopped_by_the_guard,
    "cancelled": cancelled,
    "cancelled inside a step": cancelled_inside,
    "failed": failed,
    "killed": killed,
}
STATE_OF = {"stopped by the guard": "stopped", "cancelled inside a step": "cancelled"} | {
    "killed": "failed"
}


@pytest.fixture(params=MADE)
def made(request, tmp_path) -> tuple[Path, str]:
    """A run, and the state that it has to be in."""
    MADE[request.param](tmp_path)
    return tmp_path, STATE_OF.get(request.param, request.param)


# From training to each end, and from each end on.


def test_training_ends_in_the_state_that_says_how_and_every_look_says_the_same(made):
    home, state = made
    run = Run(home)
    assert told(home) == (state, run.step(), STEPS)
    assert f"at step {run.step()} of {STEPS}" in run.status().text
    assert run.status().for_page()["training"] is False
    assert (state == "done") == (run.step() == STEPS)
    assert not (home / STOP).exists()


def test_from_every_end_more_steps_or_the_same_command_train_on(made):
    home, _ = made
    more = {"steps": STEPS + 2, "guard": config_of(Run(home).about()).guard}
    goes_on(home, **more)
    assert told(home) == ("cancelled", Run(home).step(), STEPS + 2)
    list(started(home, **more))
    assert told(home) == ("done", STEPS + 2, STEPS + 2)


@pytest.mark.parametrize("made", ["done", "stopped", "killed"], indirect=True)
def test_another_process_may_take_a_run_and_its_death_is_seen(made):
    home, state = made
    step = Run(home).metrics()[-1]["step"]
    with another_process(home) as pid:
        assert told(home) == ("elsewhere", step, STEPS)
        assert f"(process {pid})" in Run(home).status().text
        assert Run(home).status().actions == ["stop"]
    after = "done" if state == "done" else "failed"
    assert told(home)[0] == after
    assert state == "done" or "its process ended" in Run(home).status().text


def test_a_run_that_trains_says_so_and_at_which_step(tmp_path):
    with closing(started(tmp_path)) as reports:
        for step in (1, 2, 3):
            next(reports)
            assert told(tmp_path) == ("training", step, STEPS)
        assert Run(tmp_path).status().actions == ["stop", "cancel"]
        Run(tmp_path).request_stop()
        assert Run(tmp_path).status().text.endswith("(ends after this step)")
        assert Run(tmp_path).status().actions == ["cancel"]


def test_going_back_after_trouble_is_training_at_the_earlier_step(tmp_path, make_policy):
    policy, count = make_policy(), 0
    original = policy.residuals

    def errors(*inputs):
        nonlocal count
        found = original(*inputs)
        count += found.requires_grad
        return found * float("nan") if found.requires_grad and count in (3, 4) else found

    policy.residuals = errors
    guard = GuardConfig(non_finite="roll back", patience=2)
    seen = []
    for report in started(tmp_path, policy, guard=guard):
        seen.append((report.step, told(tmp_path)))
    assert [step for step, _ in seen[:6]] == [1, 2, 3, 4, 3, 4]
    assert seen[3][1] == ("training", 2, STEPS)  # back at the checkpoint
    assert all(state == "training" for _, (state, _, _) in seen)
    assert told(tmp_path) == ("done", STEPS, STEPS)


# A stopped run.


def test_a_stopped_run_stays_so_until_somebody_asks_it_to_go_on(tmp_path):
    stopped(tmp_path)
    run = Run(tmp_path)
    assert run.status().text == "stopped at step 1 of 6: press Continue to go on"
    assert run.status().actions == ["continue"]
    assert stays_stopped(run, STEPS) and stays_stopped(run, STEPS - 1)
    assert not stays_stopped(run, STEPS + 1)
    before = run.record().continued
    run.ask_to_go_on()
    assert told(tmp_path) == ("waiting", 1, STEPS)
    assert run.status().text == "waiting at step 1 of 6: press Run to go on"
    assert run.record().continued == before + 1
    assert not stays_stopped(run, STEPS)
    goes_on(tmp_path)
    assert told(tmp_path)[0] == "cancelled"
    stopped(tmp_path)
    assert run.record().continued == before + 1


@pytest.mark.parametrize("state", ["done", "cancelled", "failed", "killed"])
def test_no_other_run_stays_stopped(tmp_path, state):
    MADE[state](tmp_path)
    assert not stays_stopped(Run(tmp_path), STEPS)
    assert not stays_stopped(Run(tmp_path / "none"), STEPS)


def test_a_run_that_its_guard_ended_stays_stopped_and_says_why(tmp_path):
    stopped_by_the_guard(tmp_path)
    assert stays_stopped(Run(tmp_path), STEPS)
    assert "winner margin" in Run(tmp_path).status().text


def test_a_stopped_run_of_which_no_more_is_asked_than_it_has_is_done(tmp_path):
    stopped(tmp_path)
    assert not stays_stopped(Run(tmp_path), 1)
    assert list(started(tmp_path, steps=1)) == []
    assert told(tmp_path) == ("done", 1, 1)


def test_a_stop_that_comes_before_the_first_step_waits_for_it(tmp_path):
    """So that there are weights for the graph to go on with."""

    class Slow(TinyDenoiser):
        def residuals(self, *inputs):
            Run(tmp_path).request_stop()
            return super().residuals(*inputs)

    reports = started(tmp_path, Slow())
    assert [report.step for report in reports] == [1]
    assert told(tmp_path) == ("stopped", 1, STEPS)


def test_a_stop_file_laid_into_a_run_that_nobody_trains_stops_it_too(tmp_path):
    killed(tmp_path)
    (tmp_path / STOP).touch()
    assert told(tmp_path)[0] == "stopped"
    Run(tmp_path).ask_to_go_on()
    assert told(tmp_path)[0] == "failed" and not (tmp_path / STOP).exists()
    assert not stays_stopped(Run(tmp_path), STEPS)


def test_a_stop_that_came_with_the_last_step_means_nothing_later(tmp_path):
    reports = started(tmp_path)
    for _ in range(STEPS):
        next(reports)
    Run(tmp_path).request_stop()
    assert list(reports) == []
    assert told(tmp_path)[0] == "done"
    assert len(list(started(tmp_path, steps=STEPS + 2))) == 2


# What is told.


def test_a_fault_is_told_in_one_line(tmp_path):
    failed(tmp_path)
    assert Run(tmp_path).status().text == (
        "failed at step 1 of 6 (the card fell out): press Run to go on"
    )
    failed(tmp_path / "long", ValueError("x" * 5000))
    assert len(Run(tmp_path / "long").status().note) == LONGEST_REASON


def test_a_run_of_which_no_state_was_kept_is_never_done_before_its_last_step(tmp_path):
    cancelled(tmp_path)
    (tmp_path / "run.state").unlink()
    assert told(tmp_path) == ("waiting", 1, STEPS)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", b"[]", b'{"state": "done"}', b'{"state": 3}', b'{"state": "?"}', b"[" * 9999]
    + [b'{"state": "stopped", "reason": 1}', b'{"state": "stopped", "continued": "a"}'],
)
def test_a_damaged_state_is_no_trouble(tmp_path, content):
    cancelled(tmp_path)
    (tmp_path / "run.state").write_bytes(content)
    assert told(tmp_path) == ("waiting", 1, STEPS)
    assert len(list(started(tmp_path))) == STEPS - 1


def test_a_run_keeps_its_state_under_another_name(tmp_path):
    stopped(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "other")
    assert told(tmp_path / "other") == ("stopped", 1, STEPS)


def test_a_state_that_cannot_be_written_hinders_no_training(tmp_path, monkeypatch, caplog):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "write", full)
    assert len(list(started(tmp_path))) == STEPS
    assert "No space left" in caplog.text
    assert told(tmp_path)[0] == "done"


def test_whatever_is_seen_of_a_run_is_one_state_that_has_words():
    for state in ("", *WORDS):
        for step, stop, owner, mine in (
            (step, stop, owner, mine)
            for step in (0, 3, STEPS)
            for stop in (True, False)
            for owner, mine in ((None, False), ("7", False), ("7", True))
        ):
            status = judged(Facts(Record(state), step, STEPS, stop, owner, mine))
            assert status.state in WORDS and f"at step {step} of {STEPS}" in status.text
            assert status.trains == (owner is not None)
            assert status.trains or (status.state == "done") == (step == STEPS)
    assert Status("none").text == "No run yet"


def test_what_a_user_wishes_is_no_fault():
    assert was_cancelled(KeyboardInterrupt()) and was_cancelled(GeneratorExit())
    assert not was_cancelled(ValueError("x")) and not was_cancelled(MemoryError())


def test_looking_at_a_run_keeps_nobody_from_training_it(tmp_path):
    """Who looks holds the lock of a killed process's run for a moment."""
    killed(tmp_path)
    look = (
        "import sys; from seppo_core.runs.run import Run\n"
        "run = Run(__import__('pathlib').Path(sys.argv[1]))\n"
        "print('looks', flush=True)\nwhile True: run.holder()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", look, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "looks\n"
            for _ in range(5):
                (tmp_path / "run.owner").write_text(str(os.getpid()))
                with Run(tmp_path).locked():
                    pass
        finally:
            other.kill()
