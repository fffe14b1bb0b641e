"""Hashes over foreign objects: what tells two apart, and what must not."""

import subprocess
import sys
from functools import partial

import torch
from torch import nn

from seppo_core.denoisers.conditions import digest_state


class Holder:
    def __init__(self, strength: float, table: list[float]) -> None:
        self.strength, self.table = strength, torch.tensor(table)
        self._calls = object()

    def __call__(self, x):
        return x * self.strength


class Schedule(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.register_buffer("sigmas", torch.linspace(0, shift, 5))


class Other(Schedule):
    pass


def patch(strength: float):
    def scaled(x, by=1.0):
        return x * strength * by

    return scaled


def settings(strength: float = 0.5) -> dict:
    holder = Holder(strength, [1.0, 2.0])
    return {
        "patches": {"attn": [patch(strength), holder, holder.__call__, partial(max, strength)]},
        ("output", 3): Schedule(strength),
        Holder: {2, "a"},
        "dtype": torch.float16,
    }


def test_equal_settings_in_other_objects_have_the_same_hash():
    assert digest_state(settings()) == digest_state(settings())
    assert digest_state(dict(reversed(settings().items()))) == digest_state(settings())


def test_hash_is_the_same_in_another_process():
    code = "import test_conditions as t; print(t.digest_state(t.settings()), end='')"
    path = __file__.rpartition("/")[0]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({path!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found == digest_state(settings())


def test_whatever_can_be_read_tells_settings_apart():
    different = [
        Schedule(1.0),
        Schedule(2.0),
        Other(1.0),
        patch(1.0),
        patch(2.0),
        Holder(1.0, [1.0]),
        Holder(2.0, [1.0]),
        Holder(1.0, [2.0]),
        Holder(1.0, [1.0]).__call__,
        Holder(2.0, [1.0]).__call__,
        partial(patch, 1.0),
        partial(patch, 2.0),
        partial(patch, strength=2.0),
        {"a": 1},
        {"a": 2},
        {"b": 1},
        [1],
        (1,),
        1,
        True,
        None,
        torch.float16,
        torch.float32,
    ]
    assert len({digest_state(value) for value in different}) == len(different)


def test_a_network_counts_by_its_class_because_loading_changes_its_weights():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    assert digest_state(one) == digest_state(two) != digest_state(nn.Conv2d(2, 2, 1))
    holders = [Holder(strength, []) for strength in (1.0, 2.0)]
    for holder, network in zip(holders, (one, two), strict=True):
        holder.model = network
    assert digest_state(holders[0]) == digest_state(holders[1])


def test_cycles_end():
    one, two = Holder(1.0, []), Holder(1.0, [])
    one.other, two.other = two, one
    assert digest_state(one) == digest_state(two)
    two.strength = 3.0
    assert digest_state(one) != digest_state(two)
