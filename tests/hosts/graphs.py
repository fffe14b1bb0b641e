"""Graphs for tests over HTTP: the page's workflow files as prompts, and what a run of a graph left on disk."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inprocess import PACK
from over_http import HttpHost
from PIL import Image, ImageDraw
from safetensors.torch import load_file

sys.path.append(str(PACK / "scripts"))  # behind everything else: the pack's root stays off the path

from workflow_format import Input, inputs_of  # noqa: E402

NOTES = {"Note", "MarkdownNote"}
MUTED = {2, 4}
FOLDER = "http_winners"
LONG = 10_000
"""More steps than any test waits for."""
ENDS = {"execution_success", "execution_error", "execution_interrupted"}


def workflow(name: str) -> dict[str, Any]:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))


def real_nodes(file: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that the server knows; notes live on the page alone."""
    return [node for node in file["nodes"] if node["type"] not in NOTES]


def widget_values(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Widget values by input id; what follows a seed is the page's own and left out."""
    values = list(node["widgets_values"])
    found = {}
    for one in widgets(definitions[node["type"]]):
        found[one.name] = values.pop(0)
        if one.has_control:
            assert values.pop(0) in ("fixed", "randomize", "increment", "decrement")
    assert not values, f"{node['type']} has {len(values)} widget values too many"
    return found


def widgets(info: dict[str, Any]) -> list[Input]:
    return [one for one in inputs_of(info) if one.is_widget]


def as_prompt(
    file: dict[str, Any], definitions: dict[str, Any], muted_too: bool = False
) -> dict[str, Any]:
    """What the page sends for a workflow: nodes by id, links as [id, output]."""
    active = {n["id"]: n for n in real_nodes(file) if muted_too or n["mode"] not in MUTED}
    prompt = {
        str(id): {"class_type": node["type"], "inputs": widget_values(node, definitions)}
        for id, node in active.items()
    }
    for _, source, output, target, slot, _ in file["links"]:
        if source in active and target in active:
            name = active[target]["inputs"][slot]["name"]
            prompt[str(target)]["inputs"][name] = [str(source), output]
    return prompt


def change(prompt: dict[str, Any], class_type: str, **inputs: Any) -> None:
    """Set inputs of every node of a class."""
    for entry in prompt.values():
        if entry["class_type"] == class_type:
            entry["inputs"] |= inputs


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def drawing(checkpoint: str, model: list, seed: int = 5, negative: str = "") -> dict[str, Any]:
    """Two steps of the host's KSampler with `model` at CFG 1, where the negative prompt has no part.

    Another negative prompt makes the host's cache compute the same latents anew.
    """
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
            seed=seed,
            steps=2,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "latents": node("SaveLatent", samples=["sample", 0], filename_prefix="http/latents"),
    }


def training(checkpoint: str, run_name: str, steps: int = 4, **widgets: Any) -> dict[str, Any]:
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
            snapshot_every=2,
            capacity=4,
            reuse=1,
            sampler="euler",
            scheduler="normal",
            sampling_steps=2,
            guidance_scale=1.0,
            sample_batch=4,
        ),
        "optimizer": node(
            "SePPOOptimizerSettings",
            optimizer="adamw",
            schedule="constant",
            warmup=0.0,
            weight_decay=0.0,
            clip=1.0,
            accumulation=1,
            precision="auto",
            gradient_checkpointing=False,
            alpha=0.0,
            modules="attention",
            pattern="",
            loser_weight=0.5,
            checkpoint_every=LONG,
            preview_every=1,
        ),
        "train": node(
            "SePPOTrain",
            **{
                "model": ["base", 0],
                "dataset": ["dataset", 0],
                "references": ["references", 0],
                "optimizer": ["optimizer", 0],
                "preset": "seppo",
                "steps": steps,
                "batch_size": 1,
                "learning_rate": 0.01,
                "rank": 4,
                "beta": 2000.0,
                "criterion": "sign",
                "seed": 0,
                "run_name": run_name,
                **widgets,
            },
        ),
    }


def draw_winners(folder: Path, count: int = 3) -> None:
    """Pictures of discs on plain ground, each with its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    colors = ("crimson", "seagreen", "royalblue", "orange")
    for i in range(count):
        picture = Image.new("RGB", (96, 96), "ivory")
        ImageDraw.Draw(picture).ellipse((16 + 4 * i, 20, 76, 80 - 4 * i), fill=colors[i])
        picture.save(folder / f"{colors[i]}.png")
        (folder / f"{colors[i]}.txt").write_text(f"a {colors[i]} disc", "utf-8")


def files(base: Path, shown: dict[str, Any], key: str = "images") -> list[Path]:
    """The files that a node showed the page."""
    return [base / one["type"] / one["subfolder"] / one["filename"] for one in shown[key]]


def latents(base: Path, shown: dict[str, Any]) -> Any:
    """The latents [B, C, H, W] that a SaveLatent node wrote."""
    (path,) = files(base, shown, "latents")
    return load_file(path)["latent_tensor"]


def metrics(directory: Path) -> list[dict[str, Any]]:
    path = directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def contents(directory: Path) -> dict[str, tuple[int, int]]:
    """Relative path -> (size, time of last change) of every file below."""
    return {
        str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def cached(entry: dict[str, Any]) -> set[str]:
    """The nodes that a run took from the host's cache."""
    return {
        node_id
        for event, data in entry["status"]["messages"]
        if event == "execution_cached"
        for node_id in data["nodes"]
    }


def events(entry: dict[str, Any]) -> Counter:
    return Counter(event for event, _ in entry["status"]["messages"])


@dataclass(frozen=True)
class Watched:
    """What a page was sent while its graph ran, and the graph's entry in the history."""

    messages: list[dict[str, Any]]
    frames: list[bytes]
    entry: dict[str, Any]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.messages if message["type"] == kind]


def watch(server: HttpHost, prompt: dict[str, Any], timeout: float = 120) -> Watched:
    """Run a graph as the page does, with a web socket open under the same client id."""
    import aiohttp

    messages: list[dict[str, Any]] = []
    frames: list[bytes] = []

    async def listen() -> str:
        address = server.url.replace("http", "ws", 1) + "/ws?clientId=test"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            prompt_id = await asyncio.to_thread(server.queue, prompt)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    frames.append(message.data)
                    continue
                messages.append(json.loads(message.data))
                if messages[-1]["type"] in ENDS:
                    break
            return prompt_id

    prompt_id = asyncio.run(asyncio.wait_for(listen(), timeout))
    return Watched(messages, frames, server.finish(prompt_id))


def restart(server: HttpHost, base: Path) -> None:
    """Another process of the same host takes over."""
    server.stop()
    fresh = HttpHost.start(Path(os.environ["SEPPO_TEST_HOST"]), base)
    server.url, server.process, server.log = fresh.url, fresh.process, fresh.log
