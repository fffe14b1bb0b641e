"""What Run does with a run that was stopped: with the host's cache, after a restart, and once it is asked to go on."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import pytest
import torch
from training import graph, run_of

STEPS = 9
NUMBER = itertools.count()


@contextmanager
def stop_after(host, monkeypatch, run_name: str, steps: int):
    """Somebody presses Stop and keep while the step after so many is computed."""
    denoisers = host.core("denoisers.comfy")
    original, calls = denoisers.ComfyDenoiser.residuals, []

    def residuals(self, *inputs):
        calls.append(True)
        if len(calls) == 2 * steps:  # two calls a step
            run_of(host, run_name).request_stop()
        return original(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(denoisers.ComfyDenoiser, "residuals", residuals)
        yield


class Graph:
    """One graph that is queued again and again, as on a page."""

    def __init__(self, host, name: str, **train) -> None:
        self.host, self.run = host, run_of(host, name)
        self.prompt = graph(host, "sd3", name, train={"steps": STEPS} | train)

    def queue(self, restarted: bool = False):
        """Run it; whether the host executed the node, its LoRA, and what the node says."""
        before = self.host.messages
        found = self.host.run_graph(self.prompt, ["train"], keep_cache=not restarted)
        executed = any(event == "seppo.run" for event, _ in before)
        return executed, found["train"][1], found.ui["train"]["text"][0]

    def steps(self) -> int:
        return len(self.run.metrics())


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def stopped(host, monkeypatch):
    """A graph whose run was stopped at step 3, and its LoRA."""
    name = f"stopped_{next(NUMBER)}"
    made = Graph(host, name)
    with stop_after(host, monkeypatch, name, 3):
        _, lora, said = made.queue(restarted=True)
    assert said == f"{name}: stopped at step 3 of {STEPS}: press Continue to go on"
    return made, lora


@pytest.mark.parametrize("restarted", [False, True])
def test_run_gives_what_was_learned_and_trains_nothing(stopped, restarted):
    made, lora = stopped
    for _ in range(2):
        executed, again, said = made.queue(restarted)
        assert (executed, made.steps()) == (restarted, 3)
        assert same(again, lora)
        assert said.endswith("press Continue to go on")
    assert made.run.status().state == "stopped"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("looked", [False, True])
def test_continue_makes_the_next_run_train_on(stopped, restarted, looked):
    """Whether or not Run was pressed between, and the host cached another answer."""
    made, lora = stopped
    if looked:
        made.queue(restarted)
    made.run.ask_to_go_on()
    executed, learned, said = made.queue(restarted)
    assert executed and made.steps() == STEPS
    assert said.endswith(f"done at step {STEPS} of {STEPS}")
    assert not same(learned, lora)
    assert made.queue()[0] is False


@pytest.mark.parametrize("restarted", [False, True])
def test_raising_the_steps_trains_on_and_lowering_them_does_not(stopped, restarted):
    made, lora = stopped
    widgets = made.prompt["train"]["inputs"]
    widgets["steps"] = 5
    _, again, said = made.queue(restarted)
    assert made.steps() == 3 and same(again, lora) and "stopped at step 3" in said
    widgets["steps"] = STEPS + 1
    _, _, said = made.queue(restarted)
    assert made.steps() == STEPS + 1 and said.endswith(f"done at step {STEPS + 1} of {STEPS + 1}")
    assert made.queue()[0] is False


def test_a_run_stopped_twice_and_cancelled_between_goes_on_each_time_it_is_asked(
    host, stopped, monkeypatch
):
    made, _ = stopped
    for at in (2, 1):
        made.run.ask_to_go_on()
        before = made.steps()
        with stop_after(host, monkeypatch, made.run.name, at):
            assert made.queue()[0]
        assert made.steps() == before + at
        assert made.queue()[0] is False
    made.run.ask_to_go_on()
    assert made.queue()[0] and made.steps() == STEPS


def test_a_numbered_run_in_a_folder_of_the_users_own_goes_on_and_its_neighbour_keeps_its_answer(
    host, monkeypatch
):
    settings = host.module("nodes.user_settings")
    monkeypatch.setattr(settings, "chosen", lambda name, default: "kept_here")
    first = Graph(host, "mine", steps=1)
    first.prompt["train"]["inputs"]["steps"] = 1
    second = Graph(host, "mine", beta=55.0)
    root = host.output / "kept_here"
    second.run = host.core("runs.run").Run(root / "mine_00002")
    monkeypatch.setattr(
        settings, "chosen", lambda name, default: "kept_here" if "folder" in name else default
    )
    host.run_graph(first.prompt, ["train"])
    denoisers = host.core("denoisers.comfy")
    original = denoisers.ComfyDenoiser.residuals

    def residuals(self, *inputs):
        second.run.request_stop()
        return original(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(denoisers.ComfyDenoiser, "residuals", residuals)
        second.queue(restarted=True)
    assert second.steps() == 1
    assert second.queue()[0] is False
    second.run.ask_to_go_on()
    assert second.queue()[0] and second.steps() == STEPS


def test_a_linked_name_goes_on_as_well(host, stopped):
    made, _ = stopped
    made.prompt["name"] = host.constant(made.run.name)
    made.prompt["train"]["inputs"]["run_name"] = ["name", 0]
    assert made.queue()[1] is not None and made.queue()[0] is False
    made.run.ask_to_go_on()
    assert made.queue()[0] and made.steps() == STEPS


def test_what_the_node_says_is_never_of_a_time_that_has_passed(host, stopped, monkeypatch):
    """Its line of text, which told the minutes left, tells the state when it ends in whatever way."""
    told: list[str] = []
    monkeypatch.setattr(
        host.module("nodes.host"), "progress_text", lambda text, id: told.append(text)
    )
    made, _ = stopped
    made.run.ask_to_go_on()
    with stop_after(host, monkeypatch, made.run.name, 2):
        made.queue()
    assert (
        "left" in told[-2] and told[-1] == f"stopped at step 5 of {STEPS}: press Continue to go on"
    )
    made.run.ask_to_go_on()

    denoisers = host.core("denoisers.comfy")
    with monkeypatch.context() as patch:
        patch.setattr(denoisers.ComfyDenoiser, "residuals", lambda *given: 1 / 0)
        with pytest.raises(AssertionError, match="division by zero"):
            made.queue()
    assert told[-1] == f"failed at step 5 of {STEPS} (division by zero): press Run to go on"
    assert made.run.status().text == told[-1]
