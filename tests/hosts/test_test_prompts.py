"""SePPO Test Prompts inside a training whose optimizer trains on other weights than it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graphs import node
from inprocess import GraphError
from thin import thin_conditioning
from training import graph, run_of

STEPS, EVERY = 4, 2


@pytest.fixture
def tests_of(host, monkeypatch):
    """A function that makes test prompts of which every drawing is followed: `watch(policy, step)`."""
    kind = host.module("nodes.test_prompts").TestPrompts

    def made(watch):
        def drawn(prompts, policy, step, recorder, original=kind._draw):
            watch(policy, step)
            return original(prompts, policy, step, recorder)

        monkeypatch.setattr(kind, "_draw", drawn)
        sampling = host.core("training.config").ReferenceConfig(sampler="euler", sampling_steps=1)
        cond = thin_conditioning("sd15")
        return kind(["a fox"], [cond], (4, 8, 8), {}, EVERY, 0, sampling)

    return made


def prompt(host, name, tests=None):
    links = {} if tests is None else {"tests": host.constant(tests)}
    return graph(
        host,
        "sd15",
        name,
        train={"steps": STEPS, "learning_rate": 0.01},
        optimizer={"optimizer": "adamw_schedule_free"},
        **links,
    )


def test_they_are_drawn_with_the_weights_that_are_saved_and_change_nothing(host, tests_of):
    seen = {}
    tests = tests_of(lambda policy, step: seen.update({step: policy.lora.state()}))
    run = host.run_graph(prompt(host, "probed", tests), wanted=["train"])["train"][3]
    assert list(seen) == [0, 2, 4]
    saved = run.weights()
    assert saved.keys() == seen[STEPS].keys()
    assert all(torch.equal(saved[name], seen[STEPS][name]) for name in saved)
    assert not all(torch.equal(saved[name], seen[EVERY][name]) for name in saved)
    alone = host.run_graph(prompt(host, "unprobed"), wanted=["train"])["train"][3].weights()
    assert all(torch.equal(saved[name], alone[name]) for name in saved)


def test_a_run_whose_drawing_failed_goes_on_to_the_same_weights(host, tests_of):
    def fails(policy, step):
        if step == EVERY:
            raise RuntimeError("no memory left to draw")

    with pytest.raises(GraphError, match="no memory left to draw"):
        host.run_graph(prompt(host, "broken", tests_of(fails)))
    assert run_of(host, "broken").step() == EVERY, "what was trained is kept"
    again = tests_of(lambda policy, step: None)
    resumed = host.run_graph(prompt(host, "broken", again), wanted=["train"])["train"][3].weights()
    whole = host.run_graph(prompt(host, "unbroken"), wanted=["train"])["train"][3].weights()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("action", "expected"), [("warn", [0, 2, 4]), ("stop", [0, 2]), ("roll back", [0, 0, 2, 4])]
)
def test_an_alarm_leaves_out_only_what_is_taken_back(host, tests_of, monkeypatch, action, expected):
    """Back from step 2 to the start: what was trained there is drawn when it is trained again."""
    guard, drawn, alarms = host.core("training.guard"), [], []

    def judge(self, line):
        if line["step"] == EVERY and not alarms:
            alarms.append(guard.Alarm(action, "it drifts", finite=True))
            return alarms[0]
        return None

    monkeypatch.setattr(guard.Guard, "judge", judge)
    tests = tests_of(lambda policy, step: drawn.append(step))
    host.run_graph(prompt(host, f"alarmed_{action.replace(' ', '_')}", tests))
    assert drawn == expected


def test_they_are_drawn_away_from_the_base_where_that_is_asked_for(host, tests_of, monkeypatch):
    """The base itself, as step 0, is drawn as usual: it is what the others move away from."""
    asked = []
    denoiser = host.core("denoisers.comfy").ComfyDenoiser

    def sample(self, conds, noise, sampling, seed, guide=None, original=denoiser.sample):
        found = original(self, conds, noise, sampling, seed, guide)
        plain = original(self, conds, noise, sampling, seed)
        asked.append((guide is not None, torch.equal(found, plain)))
        return found

    monkeypatch.setattr(denoiser, "sample", sample)
    tests = replace(
        tests_of(lambda policy, step: None),
        guide=host.core("denoisers.guides").Guide(),
        sampling=host.core("training.config").ReferenceConfig(
            sampler="euler", sampling_steps=2, guidance_scale=3.0
        ),
    )
    shown = prompt(host, "away", tests) | {"negative": host.constant(thin_conditioning("sd15", 9))}
    shown["train"]["inputs"] |= {"negative": ["negative", 0], "preset": "sft"}
    shown["optimizer"]["inputs"]["preview_every"] = 0
    host.run_graph(shown, wanted=["train"])
    assert asked == [(False, True), (True, False), (True, False)]


def test_the_node_asks_for_it(host):
    graph = {
        "clip": host.constant(Words()),
        "latent": host.constant({"samples": torch.zeros(1, 4, 8, 8)}),
    }
    for name, value in (("usual", False), ("away", True)):
        settings = {"prompts": "a fox", "every": 5, "seed": 0, "sampling_steps": 2}
        settings |= {"guidance": 3.0, "sampler": "euler", "scheduler": "normal"}
        graph[name] = node(
            "SePPOTestPrompts",
            clip=["clip", 0],
            latent=["latent", 0],
            away_from_base=value,
            **settings,
        )
    made = host.run_graph(graph, wanted=["usual", "away"])
    assert made["usual"][0].guide is None
    assert made["away"][0].guide.slot is None and made["away"][0].guide.extrapolation == 1.0


class Words:
    """A CLIP that encodes every text alike."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return thin_conditioning("sd15")
