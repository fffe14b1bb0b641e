"""A run's states on a real server: what Run does with a stopped run, and what is told before there is a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from graphs import FOLDER, LONG, cached, draw_winners, metrics, restart, training
from PIL import Image

PANEL = "0123456789abcdef"
MANY = "http_many"
PICTURES = 24


@pytest.fixture(scope="module", autouse=True)
def winners(base) -> None:
    if not (base / "input" / FOLDER).exists():
        draw_winners(base / "input" / FOLDER)
    folder = base / "input" / MANY
    folder.mkdir()
    for i in range(PICTURES):
        Image.new("RGB", (96, 96), (10 * i, 90, 240 - 9 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"ground number {i}", "utf-8")


@pytest.fixture(autouse=True)
def nothing_left(http_host):
    """A test that fails leaves no training behind that the next one would wait for."""
    yield
    http_host.post("/queue", {"clear": True})
    http_host.interrupt()


def until_step(server, directory: Path, step: int) -> None:
    server.until(
        lambda: (directory / "metrics.jsonl").is_file() and len(metrics(directory)) >= step,
        120,
        f"step {step}",
    )


def until_stopped(server, prompt: dict, directory: Path, step: int) -> dict[str, Any]:
    """Run a graph, press Stop and keep once it logged `step`; its entry in the history."""
    prompt_id = server.queue(prompt)
    server.until(lambda: state(server, directory.name) == "training", 120, "training")
    until_step(server, directory, step)
    assert server.ask(directory.name, "stop") == 204
    return server.finish(prompt_id)


def run(server, prompt: dict) -> dict[str, Any]:
    entry = server.finish(server.queue(prompt))
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry


def listed(server, name: str) -> dict[str, Any]:
    return next(run for run in server.get("/seppo/runs") if run["name"] == name)


def state(server, name: str) -> str:
    return next((run["state"] for run in server.get("/seppo/runs") if run["name"] == name), "")


def said(entry: dict[str, Any]) -> str:
    """What the node says of its run, as every client reads it."""
    return entry["outputs"]["train"]["text"][0]


def test_run_trains_nothing_of_a_stopped_run_until_the_page_asks_it_to_go_on(
    http_host, base, checkpoint
):
    name = "stays_stopped"
    directory = base / "output" / "seppo" / name
    prompt = training(checkpoint, name, steps=LONG)
    entry = until_stopped(http_host, prompt, directory, 2)
    kept = len(metrics(directory))
    sentence = f"stopped at step {kept} of {LONG}: press Continue to go on"
    assert said(entry) == f"{name}: {sentence}"
    again = run(http_host, prompt)
    assert "train" in cached(again)
    assert said(again) == said(entry)
    assert listed(http_host, name)["text"] == sentence

    assert http_host.ask(name, "continue", "http://elsewhere.example") == 403
    assert http_host.ask(name, "continue", http_host.url) == 204
    assert http_host.ask(name, "continue") == 409
    assert (
        listed(http_host, name)["text"] == f"waiting at step {kept} of {LONG}: press Run to go on"
    )
    prompt_id = http_host.queue(prompt)
    until_step(http_host, directory, kept + 1)
    http_host.interrupt()
    http_host.finish(prompt_id)
    kept = len(metrics(directory))
    cancelled = listed(http_host, name)
    assert cancelled["text"] == f"cancelled at step {kept} of {LONG}: press Run to go on"
    assert http_host.ask(name, "continue") == 409


def workflow(panel: str) -> dict[str, Any]:
    node = {"id": "train", "type": "SePPOTrain", "properties": {"seppo_panel": panel}}
    return {"extra_pnginfo": {"workflow": {"nodes": [node]}}}


def queue_from(server, panel: str, prompt: dict) -> str:
    """Queue a graph as a page does that has this panel."""
    data = {"prompt": prompt, "client_id": "test", "extra_data": workflow(panel)}
    return server.post("/prompt", data)["prompt_id"]


def test_a_panel_is_told_what_passes_before_there_is_a_run(http_host, base, checkpoint):
    other = "fedcba9876543210"

    def standing(panel: str) -> dict[str, Any]:
        return http_host.get(f"/seppo/panels?panel={panel}")[panel]

    assert (standing(PANEL)["text"], standing(PANEL)["passing"]) == ("No run yet", False)
    prompt = training(checkpoint, "watched", steps=LONG)
    prompt["winners"]["inputs"]["folder"] = MANY
    behind = training(checkpoint, "behind", steps=1)
    first = queue_from(http_host, PANEL, prompt)
    second = queue_from(http_host, other, behind)
    seen: list[dict[str, Any]] = []

    def trains() -> bool:
        seen.append(standing(PANEL))
        return seen[-1]["run"] is not None

    http_host.until(trains, 240, "a run")
    states = [one["state"] for one in seen]
    order = ["waiting", "encoding", "training"]
    assert states == sorted(states, key=order.index) and "encoding" in states
    assert all(one["passing"] for one in seen[:-1]) and not seen[-1]["passing"]
    assert any(re.fullmatch(r"encoding winners \(\d+%\)", one["text"]) for one in seen)
    assert standing(other)["text"] == "waiting (in the queue, 1 before it)"
    assert standing("another_page")["text"] == "No run yet"

    directory = base / "output" / "seppo" / "watched"
    until_step(http_host, directory, 1)
    shown = standing(PANEL)
    assert (shown["run"], shown["state"]) == ("watched", "training")
    assert listed(http_host, "watched")["state"] == "training"
    assert http_host.ask("watched", "stop") == 204
    http_host.finish(first)
    http_host.finish(second)
    assert standing(PANEL)["text"] == listed(http_host, "watched")["text"]
    assert (standing(other)["run"], standing(other)["text"]) == ("behind", "done at step 1 of 1")

    again = queue_from(http_host, PANEL, prompt)
    http_host.finish(again)
    assert standing(PANEL)["run"] == "watched" and standing(PANEL)["state"] == "stopped"


def test_a_killed_server_leaves_a_run_that_goes_on(http_host, base, checkpoint):
    name = "killed"
    directory = base / "output" / "seppo" / name
    prompt = training(checkpoint, name, steps=LONG)
    prompt["optimizer"]["inputs"]["checkpoint_every"] = 1
    queue_from(http_host, PANEL, prompt)
    until_step(http_host, directory, 2)
    http_host.process.kill()
    http_host.process.wait()
    restart(http_host, base)
    left = listed(http_host, name)
    assert left["state"] == "failed" and "its process ended" in left["text"]
    assert left["text"].endswith(": press Run to go on") and f" of {LONG} " in left["text"]
    assert http_host.get(f"/seppo/panels?panel={PANEL}")[PANEL]["text"] == left["text"]
    entry = until_stopped(http_host, prompt, directory, left["step"] + 1)
    assert "press Continue to go on" in said(entry)
