"""Ten graphs queued one after the other on a real host, with cancels between: nothing is lost, nothing grows.

With SEPPO_RELIABILITY=long the ten come five times.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import draw_winners, events, latents, metrics, node

ROUNDS = 5 if os.environ.get("SEPPO_RELIABILITY") == "long" else 1
GRAPHS = 10
STEPS = 3
ENDLESS = 100_000
INTERRUPTED, DELETED = (1, 4), (6, 8)
"""Places in the queue: cancelled while they run, and taken out before their turn."""
GROWTH = 0.05
"""Of the server's memory, once ten graphs have run; fifty more were measured to move it by -1.4 to 2.6 %."""
FOLDER = "queue_winners"


def drawing(checkpoint: str, model: list, negative: str = "") -> dict[str, Any]:
    """Two steps of the host's KSampler; another negative prompt makes it compute the same anew at CFG 1."""
    return {
        "base": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", clip=["base", 1], text="a crimson disc"),
        "negative": node("CLIPTextEncode", clip=["base", 1], text=negative),
        "size": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "KSampler",
            model=model,
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["size", 0],
            seed=5,
            steps=2,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "latents": node("SaveLatent", samples=["sample", 0], filename_prefix="queue/latents"),
    }


def training(checkpoint: str, run_name: str, steps: int) -> dict[str, Any]:
    """From a folder of winners to latents drawn with the aligned model."""
    return {
        **drawing(checkpoint, ["train", 0]),
        "winners": node("SePPOLoadWinners", folder=FOLDER, caption=""),
        "dataset": node(
            "SePPOEncodeWinners",
            winners=["winners", 0],
            vae=["base", 2],
            clip=["base", 1],
            resolution=64,
            shape="square",
            multiple=64,
        ),
        "references": node(
            "SePPOReferenceSettings",
            selection="random",
            snapshot_every=1,
            capacity=3,
            reuse=1,
            sampler="euler",
            scheduler="normal",
            sampling_steps=2,
            guidance_scale=1.0,
            sample_batch=2,
        ),
        "train": node(
            "SePPOTrain",
            model=["base", 0],
            dataset=["dataset", 0],
            references=["references", 0],
            preset="seppo",
            steps=steps,
            batch_size=1,
            learning_rate=0.01,
            rank=4,
            beta=2000.0,
            criterion="sign",
            seed=0,
            run_name=run_name,
        ),
    }


@dataclass(frozen=True)
class Queue:
    """Ten runs queued on a server; `directories[i]` is the run of the i-th, `entries[i]` its history."""

    directories: list[Path]
    entries: list[dict[str, Any] | None]


def queue_ten(server, base: Path, checkpoint: str, name: str) -> Queue:
    """Queue ten runs; cancel INTERRUPTED once each has logged two steps, delete DELETED before their turn."""
    names = [f"{name}_{i}" for i in range(GRAPHS)]
    directories = [base / "output" / "seppo" / one for one in names]
    steps = [ENDLESS if i in INTERRUPTED else STEPS for i in range(GRAPHS)]
    ids = [
        server.queue(training(checkpoint, one, count))
        for one, count in zip(names, steps, strict=True)
    ]
    for i in INTERRUPTED:
        server.until(lambda at=directories[i]: steps_logged(at) >= 2, 120, f"two steps of {i}")
        server.post("/queue", {"delete": [ids[d] for d in DELETED]})
        server.interrupt()
    kept = [i for i in range(GRAPHS) if i not in DELETED]
    ended = {i: server.finish(ids[i]) for i in kept}
    return Queue(directories, [ended.get(i) for i in range(GRAPHS)])


def steps_logged(directory: Path) -> int:
    return len(metrics(directory)) if (directory / "metrics.jsonl").is_file() else 0


@pytest.fixture(scope="module", autouse=True)
def winners(base) -> None:
    draw_winners(base / "input" / FOLDER)


@pytest.fixture
def drawn_by_base(http_host, base, checkpoint) -> Callable[[str], torch.Tensor]:
    """What the base model draws now; a name not used before keeps the host from its cache."""

    def drawn(name: str) -> torch.Tensor:
        shown = http_host.run_graph(drawing(checkpoint, ["base", 0], negative=name))
        return latents(base, shown["latents"])

    return drawn


def test_ten_graphs_in_a_row_with_cancels_between_end_as_they_should(
    host, http_host, base, checkpoint, drawn_by_base, record_property
):
    psutil = pytest.importorskip("psutil")
    before = drawn_by_base("before")
    queue_ten(http_host, base, checkpoint, "queue_first")  # caches and allocator fill up
    drawn_by_base("filled")
    server = psutil.Process(http_host.process.pid)
    memory = [server.memory_info().rss]
    for number in range(ROUNDS):
        queue = queue_ten(http_host, base, checkpoint, f"queue_{number}")
        require_ends(queue)
        for i, directory in enumerate(queue.directories):
            if i not in DELETED:
                require_whole(host.core("runs.run").Run(directory))
        assert torch.equal(drawn_by_base(f"round {number}"), before)
        memory.append(server.memory_info().rss)
    grown = [after / memory[0] - 1 for after in memory[1:]]
    record_property("memory", " ".join(f"{rss / 1e6:.1f}" for rss in memory))
    assert max(grown) < GROWTH, [f"{rss / 1e6:.1f} MB" for rss in memory]

    cancelled = queue.directories[INTERRUPTED[0]]
    reached = steps_logged(cancelled)
    http_host.run_graph(training(checkpoint, cancelled.name, reached + 1))
    assert [line["step"] for line in metrics(cancelled)] == list(range(1, reached + 2))


def require_ends(queue: Queue) -> None:
    for i, (entry, directory) in enumerate(zip(queue.entries, queue.directories, strict=True)):
        if i in DELETED:
            assert not directory.exists()
        elif i in INTERRUPTED:
            assert events(entry)["execution_interrupted"] == 1, (i, entry["status"])
        else:
            assert entry["status"]["status_str"] == "success", (i, entry["status"])
            assert steps_logged(directory) == STEPS


def require_whole(run: Any) -> None:
    """Every step it logged is in its newest checkpoint, which reads."""
    steps = [line["step"] for line in run.metrics()]
    assert steps == list(range(1, run.step() + 1)) and len(steps) >= 2
    assert run.state().step == run.step()
    weights = run.weights()
    assert any(value.any() for name, value in weights.items() if name.endswith(".up"))
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert all(run.snapshot(step).weights.keys() == weights.keys() for step in run.snapshot_steps())
    assert not [path for path in run.directory.rglob("*") if path.suffix == ".part"]
