"""Killed at any moment and started again, a run ends as if nothing had happened, to the bit.

20 kills; with SEPPO_RELIABILITY=long 200, and one inside every single disk operation of the run.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
from processes import LONG, finish, kill_after, seconds_of, start
from small_run import PICTURES, SHARD_VALUES, encoder_calls, metrics_lines, outcome, remove

KILLS = 200 if LONG else 12
KILLS_PER_RUN = 2
KILLS_INSIDE = 8
"""disk operations, in the short form"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    home = tmp_path_factory.mktemp("uninterrupted")
    assert finish(start(home, listed=home / "operations")) == 0
    return home


@pytest.fixture(scope="module")
def expected(whole):
    return outcome(whole)


def where(home: Path) -> str:
    """What a killed process was doing."""
    run = home / "run"
    if not (run / "run.json").exists():
        return "encoding"
    saved = {path.stem for path in (run / "state").glob("*.json")}
    begun = {path.stem for path in (run / "weights").glob("*.safetensors")} - saved
    parts = [path for name in ("pool", "weights", "state") for path in (run / name).glob("*.part")]
    return "saving" if begun or parts else "training"


def assert_nothing_lost(home: Path, whole: Path, expected: dict, kills: int) -> None:
    found = outcome(home)
    for part in expected:
        assert found[part] == expected[part], part
    assert [line["step"] for line in metrics_lines(home)] == list(range(1, 11))
    calls = Counter(encoder_calls(home))
    assert calls.keys() == set(encoder_calls(whole))
    assert calls.total() - len(calls) <= kills * SHARD_VALUES, "encoded twice"


def test_the_uninterrupted_run_has_all_that_could_be_lost(whole, expected):
    assert len(encoder_calls(whole)) == PICTURES + 2 * PICTURES + 1  # two orders each, and none
    assert [step for step, _ in expected["pool"]] == [0, 4, 10]
    assert any(line["held_out_margin"] for line in expected["metrics"])
    assert len({line["reference_step"] for line in expected["metrics"]}) > 1
    first, last = expected["pool"][0][1], expected["pool"][-1][1]
    assert first != last


def test_a_run_killed_at_random_moments_ends_equal_to_the_bit(tmp_path, whole, expected, tell):
    seconds = seconds_of(tmp_path / "timed")
    moments, met, processes = random.Random(0), Counter(), 0
    while met.total() < KILLS:
        home, kills = tmp_path / "run", 0
        while kills < KILLS_PER_RUN and met.total() < KILLS:
            processes += 1
            assert processes < 5 * KILLS, "nearly every process ends before its kill"
            if not kill_after(start(home), moments.uniform(0, 1.1 * seconds)):
                break
            kills += 1
            met[where(home)] += 1
        assert finish(start(home)) == 0
        assert_nothing_lost(home, whole, expected, kills)
        remove(home)
    tell(f"killed at {KILLS} random moments, {dict(met)}")


def test_a_run_killed_inside_a_disk_operation_ends_equal_to_the_bit(
    tmp_path, whole, expected, tell
):
    operations = (whole / "operations").read_text("utf-8").splitlines()
    assert len(operations) > 200
    numbers = range(1, len(operations) + 1)
    if not LONG:
        numbers = random.Random(1).sample(numbers, KILLS_INSIDE)
    met = Counter()
    for number in numbers:
        home = tmp_path / "run"
        assert finish(start(home, at=number)) != 0
        met[where(home)] += 1
        assert finish(start(home)) == 0
        assert_nothing_lost(home, whole, expected, kills=1)
        remove(home)
    tell(f"killed inside {len(numbers)} of {len(operations)} disk operations, {dict(met)}")
