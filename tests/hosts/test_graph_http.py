"""A whole graph over HTTP, as a page uses the server: train, sample, save, reload, cancel, go on."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import (
    FOLDER,
    LONG,
    Watched,
    cached,
    contents,
    draw_winners,
    drawing,
    events,
    files,
    latents,
    metrics,
    node,
    restart,
    training,
    watch,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

PREVIEW_IMAGE, JPEG = 1, 1
"""The host's binary messages begin with these as big-endian numbers: kind of message, kind of image."""


def keeping() -> dict[str, Any]:
    """What hangs on the other outputs of SePPOTrain: our file, the host's file, the host's plot."""
    return {
        "ours": node(
            "SePPOSaveAligned",
            run=["train", 3],
            filename_prefix="http_ours",
            format="comfy",
            strength=1.0,
            snapshot=-1,
        ),
        "plot": node("LossGraphNode", loss=["train", 2], filename_prefix="http_loss"),
    }


def loaded(checkpoint: str, lora: str) -> dict[str, Any]:
    """The same drawing with the base and a LoRA file through the host's own loader."""
    loader = node("LoraLoaderModelOnly", model=["base", 0], lora_name=lora, strength_model=1.0)
    return {**drawing(checkpoint, ["lora", 0]), "lora": loader}


@pytest.fixture(scope="module", autouse=True)
def winners(base) -> None:
    draw_winners(base / "input" / FOLDER)


@dataclass(frozen=True)
class Trained:
    prompt: dict[str, Any]
    watched: Watched
    latents: torch.Tensor
    directory: Path

    @property
    def shown(self) -> dict[str, Any]:
        return self.watched.entry["outputs"]


@pytest.fixture(scope="module")
def trained(http_host, base, checkpoint) -> Trained:
    """Four steps, a drawing, the LoRA by our node and by the host's, the host's plot of the loss."""
    prompt = training(checkpoint, "http_run") | keeping()
    known = http_host.get("/object_info")
    saver = "SaveLoRA" if "SaveLoRA" in known else "SaveLoRANode"  # its name on 0.3.64
    prompt["theirs"] = node(saver, lora=["train", 1], prefix="loras/http_theirs")
    watched = watch(http_host, prompt)
    assert watched.entry["status"]["status_str"] == "success", watched.entry["status"]
    drawn = latents(base, watched.entry["outputs"]["latents"])
    return Trained(prompt, watched, drawn, base / "output" / "seppo" / "http_run")


@pytest.fixture(scope="module")
def undisturbed(http_host, base, checkpoint) -> torch.Tensor:
    """What the base model draws before anything was trained in this module's server."""
    shown = http_host.run_graph(drawing(checkpoint, ["base", 0], negative="before"))
    return latents(base, shown["latents"])


def queue_and_wait(server, prompt: dict[str, Any]) -> dict[str, Any]:
    return server.finish(server.queue(prompt))


# Train, sample, save, reload


def test_aligned_model_draws_something_else_than_the_base(undisturbed, trained):
    assert trained.latents.shape == undisturbed.shape == (1, 4, 8, 8)
    assert [line["step"] for line in metrics(trained.directory)] == [1, 2, 3, 4]
    assert not torch.equal(trained.latents, undisturbed)
    assert torch.isfinite(trained.latents).all()


def test_saved_lora_draws_with_the_hosts_loader_what_the_trained_model_drew(
    http_host, base, checkpoint, trained
):
    (text,) = trained.shown["ours"]["text"]
    path = Path(text.partition(": ")[2])
    assert text.startswith("step 4: ") and path.parent == base / "output" / "loras"
    shown = http_host.run_graph(loaded(checkpoint, path.name))
    assert torch.equal(latents(base, shown["latents"]), trained.latents)


def test_lora_socket_goes_into_the_hosts_own_save_lora(http_host, base, checkpoint, trained):
    (path,) = (base / "output" / "loras").glob("http_theirs_*.safetensors")
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    assert all(re.search(r"^diffusion_model\..*(lora_up|lora_down|alpha)", n) for n in names)
    shown = http_host.run_graph(loaded(checkpoint, path.name))
    assert torch.equal(latents(base, shown["latents"]), trained.latents)


def test_loss_socket_goes_into_the_hosts_own_plot(base, trained):
    (plot,) = files(base, trained.shown["plot"])
    assert Image.open(plot).size == (840, 520)


def test_page_gets_progress_for_every_step_and_previews_as_pictures(trained):
    steps = [
        data["value"]
        for data in trained.watched.of("progress")
        if data["node"] == "train" and data["max"] == 4
    ]
    assert steps == [1, 2, 3, 4]
    previews = [
        frame[8:]
        for frame in trained.watched.frames
        if struct.unpack(">II", frame[:8]) == (PREVIEW_IMAGE, JPEG)
    ]
    sizes = [Image.open(BytesIO(preview)).size for preview in previews]
    assert sizes == [(512, 512)] * 4  # the host enlarges what is smaller than a node shows
    texts = [frame.decode("utf-8", errors="replace") for frame in trained.watched.frames]
    assert any("step 4/4" in text and "loss" in text for text in texts)


# Queueing the same again


def test_same_graph_again_comes_from_the_cache(http_host, checkpoint, trained):
    prompt = training(checkpoint, "http_run")
    queue_and_wait(http_host, prompt)
    before = contents(trained.directory)
    again = queue_and_wait(http_host, prompt)
    assert again["status"]["status_str"] == "success"
    assert cached(again) == set(prompt)
    assert contents(trained.directory) == before


def test_same_graph_after_a_restart_returns_the_run_without_a_step(
    http_host, base, checkpoint, trained
):
    runs = base / "output" / "seppo"
    before = contents(trained.directory)
    names = sorted(path.name for path in runs.iterdir())
    restart(http_host, base)
    watched = watch(http_host, training(checkpoint, "http_run"))
    assert watched.entry["status"]["status_str"] == "success"
    assert "train" not in cached(watched.entry)
    assert not any(d["node"] == "train" and d["max"] == 4 for d in watched.of("progress"))
    assert contents(trained.directory) == before
    assert sorted(path.name for path in runs.iterdir()) == names
    assert torch.equal(latents(base, watched.entry["outputs"]["latents"]), trained.latents)


def test_another_setting_under_the_same_name_starts_a_numbered_run(
    http_host, base, checkpoint, trained
):
    before = contents(trained.directory)
    prompt = training(checkpoint, "http_run", steps=1, beta=500.0)
    http_host.run_graph(prompt)
    assert contents(trained.directory) == before
    assert len(metrics(base / "output" / "seppo" / "http_run_00002")) == 1


# Cancel


def cancelled_after(server, prompt: dict[str, Any], directory: Path, step: int) -> dict[str, Any]:
    """Queue a long run and press Cancel once it logged `step`; its entry in the history."""
    prompt_id = server.queue(prompt)

    def reached() -> bool:
        return (directory / "metrics.jsonl").is_file() and len(metrics(directory)) >= step

    server.until(reached, 120, f"step {step}")
    server.interrupt()
    return server.finish(prompt_id)


def saved_step(directory: Path) -> int:
    newest = max((directory / "state").glob("*.json"))
    return json.loads(newest.read_text("utf-8"))["step"]


def test_cancel_keeps_what_was_learned_leaves_the_base_alone_and_the_same_graph_goes_on(
    http_host, base, checkpoint, undisturbed
):
    directory = base / "output" / "seppo" / "http_cancelled"
    prompt = training(checkpoint, "http_cancelled", steps=LONG)
    entry = cancelled_after(http_host, prompt, directory, 3)
    assert events(entry)["execution_interrupted"] == 1
    assert entry["outputs"].get("latents") is None
    first = [line["step"] for line in metrics(directory)]
    assert first == list(range(1, saved_step(directory) + 1)) and len(first) >= 3

    plain = queue_and_wait(http_host, drawing(checkpoint, ["base", 0], negative="after"))
    assert "base" in cached(plain) and "sample" not in cached(plain)
    assert torch.equal(latents(base, plain["outputs"]["latents"]), undisturbed)

    lines = metrics(directory)
    entry = cancelled_after(http_host, prompt, directory, len(first) + 2)
    assert events(entry)["execution_interrupted"] == 1
    reached = saved_step(directory)
    assert [line["step"] for line in metrics(directory)] == list(range(1, reached + 1))
    assert metrics(directory)[: len(lines)] == lines

    shown = http_host.run_graph(training(checkpoint, "http_cancelled", steps=reached + 1))
    assert [line["step"] for line in metrics(directory)] == list(range(1, reached + 2))
    assert not torch.equal(latents(base, shown["latents"]), undisturbed)
    assert not (directory.parent / "http_cancelled_00002").exists()
    weights = load_file(max((directory / "weights").iterdir()))
    assert any(t.abs().max() > 0 for name, t in weights.items() if "lora_up" in name)


# Stop and keep


def test_a_run_told_to_stop_ends_after_its_step_and_the_graph_goes_on_with_it(
    http_host, base, checkpoint, undisturbed
):
    directory = base / "output" / "seppo" / "http_stopped"
    prompt_id = http_host.queue(training(checkpoint, "http_stopped", steps=LONG))
    http_host.until(lambda: directory.is_dir() and len(metrics(directory)) >= 2, 120, "two steps")
    assert http_host.ask("http_stopped", "stop", "http://elsewhere.example") == 403
    assert http_host.ask("http_stopped", "stop", http_host.url) == 204
    entry = http_host.finish(prompt_id)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert not torch.equal(latents(base, entry["outputs"]["latents"]), undisturbed)
    steps = [line["step"] for line in metrics(directory)]
    assert steps == list(range(1, saved_step(directory) + 1)) and len(steps) < LONG
    assert http_host.ask("http_stopped", "stop") == 409


@pytest.mark.parametrize(
    "name", ["no_such_run", "..", "%2e%2e%2foutput", "a%00b", "..%5c..", "x" * 300]
)
def test_only_runs_can_be_told_to_stop(http_host, name):
    assert http_host.ask(name, "stop") == 404


# Bad input


@pytest.mark.parametrize(
    "where, value, message",
    [
        ("winners.folder", "", "name a folder inside"),
        ("winners.folder", "../output", "must be a path inside"),
        ("winners.folder", "no_such_folder", "there is no folder 'no_such_folder' inside"),
        ("train.rank", 0, "smaller than min of 1"),
        ("train.beta", 0.0, "smaller than min of 0.001"),
        ("train.run_name", "../outside", "'../outside' is not a usable name"),
        ("train.run_name", "", "'' is not a usable name"),
    ],
)
def test_bad_input_is_refused_at_once_with_one_clear_message(
    http_host, base, checkpoint, where, value, message
):
    prompt = training(checkpoint, "http_refused")
    node_id, _, name = where.partition(".")
    prompt[node_id]["inputs"][name] = value
    with pytest.raises(RuntimeError, match="POST /prompt: 400") as refused:
        http_host.queue(prompt)
    answer = json.loads(str(refused.value).partition(" 400 ")[2])
    errors = [
        f"{error['message']}: {error['details']}"
        for found in answer["node_errors"].values()
        for error in found["errors"]
    ]
    assert list(answer["node_errors"]) == [node_id]
    assert len(errors) == 1 and message in errors[0] and name in errors[0]
    assert not (base / "output" / "seppo" / "http_refused").exists()
