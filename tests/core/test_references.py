"""Which snapshots stay in the pool, and which one is the reference."""

from collections import Counter

import pytest
import torch

from seppo_core import SELECTIONS, ReferencePool
from seppo_core.errors import ConfigError
from seppo_core.method.references import Snapshot
from seppo_core.randomness import generator


def filled(capacity, steps):
    pool = ReferencePool(Snapshot(0, {}), capacity)
    for step in steps:
        pool.add(Snapshot(step, {}))
    return pool


def test_entry_zero_and_the_newest_always_stay():
    for capacity in (2, 3, 5, 8):
        pool = filled(capacity, range(30, 3001, 30))
        assert (pool.steps[0], pool.steps[-1], len(pool)) == (0, 3000, capacity)


def test_a_full_pool_drops_the_entry_whose_neighbours_are_closest():
    # 0 30 60 90 + 120 at capacity 4: neighbours are 60 apart everywhere, so the first inner one goes;
    # then 0 60 90 120 + 150: around 90 and 120 the gap is 60, around 60 it is 90, so 90 goes.
    assert filled(4, [30, 60, 90, 120]).steps == [0, 60, 90, 120]
    assert filled(4, [30, 60, 90, 120, 150]).steps == [0, 60, 120, 150]


def test_what_remains_covers_the_run_evenly():
    steps = filled(8, range(1, 1001)).steps
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert max(gaps) < 1000 / 7 * 2.5


def test_capacity_one_is_the_initial_weights_alone():
    assert filled(1, [30, 60]).steps == [0]


def test_selections_choose_what_their_names_say():
    pool = filled(8, [30, 60, 90])
    assert pool.select("latest", generator(0)).step == 90
    assert pool.select("initial", generator(0)).step == 0


def test_random_selection_is_uniform_over_all_entries():
    pool = filled(8, [30, 60, 90])
    counts = Counter(pool.select("random", generator(7, i)).step for i in range(4000))
    # 1000 expected of each, standard deviation 27
    assert set(counts) == {0, 30, 60, 90}
    assert all(abs(count - 1000) < 140 for count in counts.values())


def test_selection_depends_on_the_generator_alone():
    pool = filled(8, [30, 60, 90])
    before = [pool.select("random", generator(1, i)).step for i in range(20)]
    torch.manual_seed(5)
    assert before == [pool.select("random", generator(1, i)).step for i in range(20)]


def test_unknown_selection_lists_the_choices():
    with pytest.raises(ConfigError, match="initial.*latest.*random"):
        filled(2, []).select("best", generator(0))
    assert {"random", "latest", "initial"} <= set(SELECTIONS)


def test_capacity_zero_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        ReferencePool(Snapshot(0, {}), 0)


def test_asking_for_a_dropped_snapshot_names_what_is_kept():
    with pytest.raises(ConfigError, match=r"no snapshot of step 30; it holds \[0, 60, 90, 120\]"):
        filled(4, [30, 60, 90, 120]).entry(30)
