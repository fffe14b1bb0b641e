"""Epochs are exact, and a batch follows from the seed and its index alone."""

from collections import Counter

import pytest

from seppo_core.training.batch import BatchPlan, of_one_shape

SHAPES = [(4, 8, 8)] * 5 + [(4, 8, 6)] * 3


def test_an_epoch_shows_every_winner_once_if_the_size_divides():
    plan = BatchPlan([(1,)] * 12, 4, seed=0)
    for epoch in range(3):
        seen = [p for i in range(3) for p in plan.batch(3 * epoch + i)]
        assert sorted(seen) == list(range(12))


@pytest.mark.parametrize("count", [1, 3, 5, 9, 10, 50])
@pytest.mark.parametrize("kinds", [1, 2, 7, 50])
def test_an_epoch_shows_every_winner_once_whatever_its_shape(count, kinds):
    shapes = [(4, 8, 8 + position % kinds) for position in range(count)]
    for size in (1, 2, 4, 7, 60):
        plan = BatchPlan(shapes, size, seed=0)
        for epoch in range(2):
            first = epoch * plan.per_epoch
            batches = [plan.batch(first + place) for place in range(plan.per_epoch)]
            assert sorted(p for batch in batches for p in batch) == list(range(count))
            lengths = {len(batch) for batch in batches}
            assert max(lengths) <= min(size, count)
            assert max(lengths) - min(lengths) <= 1
            assert max(lengths) == plan.fullest or plan.fullest - 1 in lengths
            parts = [of_one_shape([shapes[p] for p in batch], 60) for batch in batches]
            assert sum(map(len, parts)) <= plan.per_epoch + len(plan.groups) - 1


def test_winners_of_rare_shapes_meet_others_in_every_epoch():
    plan = BatchPlan([(position,) for position in range(12)], 4, seed=0)
    company = {frozenset(plan.batch(index)) for index in range(3 * 20)}
    assert len(company) > 40  # of 60 batches; were the shapes always in one order, there would be 3


def test_neighbours_of_one_shape_go_through_the_network_together():
    shapes = ["a", "a", "a", "b", "a", "a"]
    assert of_one_shape(shapes, 2) == [range(0, 2), range(2, 3), range(3, 4), range(4, 6)]
    assert of_one_shape(shapes, 9) == [range(0, 3), range(3, 4), range(4, 6)]
    assert of_one_shape([], 2) == []


def test_how_often_winners_are_seen_is_what_the_plan_says():
    plan = BatchPlan(SHAPES * 5, 3, seed=0)  # 40 winners: 14 steps of two or three
    for steps, window, expected in (
        (28, 1, "2 times"),
        (30, 1, "2 to 3 times"),
        (5, 4, "0 to 4 times"),
    ):
        seen = Counter({position: 0 for position in range(40)})
        for step in range(steps):
            seen.update(plan.batch(step // window))
        low, high = min(seen.values()), max(seen.values())
        assert plan.report(steps, window).endswith(f"see each winner {expected}")
        assert expected.startswith(f"{low}")
        assert high <= int(expected.split()[-2])


def test_a_batch_does_not_depend_on_what_was_asked_before():
    plan = BatchPlan(SHAPES, 2, seed=3)
    forward = [plan.batch(i) for i in range(20)]
    assert [BatchPlan(SHAPES, 2, seed=3).batch(i) for i in reversed(range(20))] == forward[::-1]


def test_a_resumed_epoch_shows_exactly_what_was_left_of_it():
    shapes = [(4, 8, 8 if position % 4 else 6) for position in range(1000)]
    # 750 of one shape and 250 of the other fill 150 and 50 batches of 5
    plan = BatchPlan(shapes, 5, seed=1)
    assert plan.per_epoch == 200
    before = [p for index in range(77) for p in plan.batch(index)]
    resumed = BatchPlan(shapes, 5, seed=1)
    after = [p for index in range(77, 200) for p in resumed.batch(index)]
    assert sorted(before + after) == list(range(1000))


def test_epochs_and_seeds_differ_in_order():
    plan = BatchPlan([(1,)] * 30, 30, seed=0)
    assert plan.batch(0) != plan.batch(1)
    assert plan.batch(0) != BatchPlan([(1,)] * 30, 30, seed=1).batch(0)
