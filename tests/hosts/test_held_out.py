"""Measuring on held-out winners is looking on: it changes nothing of what is learned."""

from __future__ import annotations

import pytest
import torch
from runs import dataset
from training import graph

STEPS = 5


@pytest.mark.parametrize("preset", ["seppo", "sft"])
def test_weights_are_the_same_whether_the_held_out_margin_is_measured_or_not(host, preset):
    winners = dataset(host, "sd15", 3)
    winners.held_out = dataset(host, "sd15", 2)

    def trained(every: int):
        prompt = graph(
            host,
            "sd15",
            f"held_out_{preset}_{every}",
            train={"preset": preset, "steps": STEPS},
            optimizer={"held_out_every": every},
            dataset=host.constant(winners),
        )
        run = host.run_graph(prompt, wanted=["train"])["train"][3]
        return run.weights(), [line["held_out_margin"] for line in run.metrics()]

    alone, nothing = trained(0)
    watched, margins = trained(1)
    assert nothing == [None] * STEPS
    assert all(margin is not None for margin in margins) and margins[-1] != 0
    assert alone.keys() == watched.keys()
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    assert any(value.any() for name, value in alone.items() if name.endswith(".up"))
