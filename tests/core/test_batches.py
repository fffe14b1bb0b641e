"""Epochs are exact, batches have one shape, and a batch follows from the seed and its index alone."""

from seppo_core.batches import BatchPlan

SHAPES = [(4, 8, 8)] * 5 + [(4, 8, 6)] * 3


def test_an_epoch_shows_every_winner_once_if_the_size_divides():
    plan = BatchPlan([(1,)] * 12, 4, seed=0)
    for epoch in range(3):
        seen = [p for i in range(3) for p in plan.batch(3 * epoch + i)]
        assert sorted(seen) == list(range(12))


def test_a_batch_has_one_shape_and_is_full():
    plan = BatchPlan(SHAPES, 2, seed=0)
    assert plan.per_epoch == 3 + 2
    for index in range(10):
        batch = plan.batch(index)
        assert len(batch) == 2
        assert len({SHAPES[position] for position in batch}) == 1
    assert {p for i in range(5) for p in plan.batch(i)} == set(range(8))


def test_fewer_winners_than_a_batch_are_repeated():
    assert sorted(BatchPlan([(1,)] * 2, 5, seed=0).batch(0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


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
