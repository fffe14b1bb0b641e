"""Training in bf16 on a real host: ties, the winner margin's floor, and the preview's."""

from __future__ import annotations

import pytest
from runs import dataset
from training import graph

STEPS = 2


def trained(host, precision: str, model):
    prompt = graph(
        host,
        "sd3",
        f"rounding_{precision}",
        train={"preset": "seppo", "steps": STEPS},
        optimizer={"precision": precision},
    )
    prompt |= {"model": host.constant(model)}
    return host.run_graph(prompt, wanted=["train"])["train"][3]


def test_a_run_in_bf16_ties_at_first_and_tells_the_floor_of_its_margins(host):
    model = host.thin_model("sd3")
    run = trained(host, "bf16", model)
    first, second = run.metrics()
    assert (first["winner_margin"], first["flip_rate"]) == (0.0, 1.0)
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert second["winner_margin"] != 0
    floors = [line["winner_margin_floor"] for line in (first, second)]
    assert all(0 < each < 0.1 for each in floors)
    widgets = {"winners": 1, "levels": 2, "draws": 1, "draw_samples": False}
    _, text = host.call(
        "SePPOAnchorPreview",
        model=model,
        dataset=dataset(host, "sd3"),
        run=run,
        **{"first": 0, "reference": "latest", "reference_step": 0, "criterion": "as trained"},
        **{"batch_size": 2, "seed": 0, **widgets},
    )
    assert "cells are undecided" in text  # the newest snapshot lies next to the policy


def test_a_run_in_float32_has_no_floor(host):
    lines = trained(host, "fp32", host.thin_model("sd3")).metrics()
    assert [line["winner_margin_floor"] for line in lines] == [None] * STEPS
