"""Prompts read back from pictures and clips that the host's own nodes saved, in graphs it really ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphs import node

SAVES = {
    "SaveImage": ({"images": ["decode", 0]}, "_00001_.png"),
    "SaveAnimatedWEBP": (
        {"images": ["decode", 0], "fps": 6.0, "lossless": True, "quality": 80, "method": "default"},
        "_00001_.webp",
    ),
    "SaveAnimatedPNG": ({"images": ["decode", 0], "fps": 6.0, "compress_level": 4}, "_00001_.png"),
    "SaveWEBM": (
        {"images": ["decode", 0], "codec": "vp9", "fps": 6.0, "crf": 32.0},
        "_00001_.webm",
    ),
    "SaveVideo": ({"video": ["video", 0], "format": "mp4", "codec": "h264"}, "_00001_.mp4"),
}


def source(checkpoint: str, count: int = 1) -> dict[str, dict]:
    """Text joined from two strings, combined with another text."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "one": node("PrimitiveString", value="a red"),
        "two": node("StringConcatenate", string_a=["one", 0], string_b="fox", delimiter=" "),
        "fox": node("CLIPTextEncode", text=["two", 0], clip=["model", 1]),
        "snow": node("CLIPTextEncode", text="deep snow", clip=["model", 1]),
        "both": node("ConditioningCombine", conditioning_1=["fox", 0], conditioning_2=["snow", 0]),
        "bad": node("CLIPTextEncode", text="blurry", clip=["model", 1]),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=count),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "video": node("CreateVideo", images=["decode", 0], fps=6.0),
    }


def classic() -> dict[str, dict]:
    return {
        "sampler": node(
            "KSampler",
            **{"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"},
            **{"model": ["model", 0], "positive": ["both", 0], "negative": ["bad", 0]},
            **{"latent_image": ["empty", 0], "denoise": 1.0},
        )
    }


def custom() -> dict[str, dict]:
    return {
        "sampler": node(
            "SamplerCustomAdvanced",
            **{"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["which", 0]},
            **{"sigmas": ["levels", 0], "latent_image": ["empty", 0]},
        ),
        "noise": node("RandomNoise", noise_seed=7),
        "guider": node(
            "CFGGuider", model=["model", 0], positive=["both", 0], negative=["bad", 0], cfg=3.0
        ),
        "which": node("KSamplerSelect", sampler_name="euler"),
        "levels": node(
            "BasicScheduler", model=["model", 0], scheduler="normal", steps=2, denoise=1.0
        ),
    }


def run(host, graph: dict[str, dict], kind: str, prefix: str) -> Path:
    """Run the graph so that `kind` saves its picture; the file."""
    inputs, suffix = SAVES[kind]
    used = {key: entry for key, entry in graph.items() if key != "video" or kind == "SaveVideo"}
    host.run_graph(used | {"save": node(kind, filename_prefix=prefix, **inputs)})
    return host.output / f"{prefix}{suffix}"


@pytest.mark.parametrize("sampling", [classic, custom])
@pytest.mark.parametrize("kind", SAVES)
def test_prompt_is_read_back_from_what_the_host_saved(host, checkpoint, kind, sampling):
    graph = source(checkpoint, count=2) | sampling()
    path = run(host, graph, kind, f"read_{kind}_{sampling.__name__}")
    with path.open("rb") as file:
        found = host.core("data.prompts").read_generation(file, path.name)
    assert found == host.core("data.generation").Generation(
        *("a red fox, deep snow", "blurry", 7, 2, 3.0, "euler", "normal", checkpoint)
    )


def test_output_folder_of_the_host_becomes_winners_without_caption_files(host, checkpoint):
    graph = source(checkpoint, count=2) | classic()
    for text in ("a red", "a grey"):
        graph["one"]["inputs"]["value"] = text
        run(host, graph, "SaveImage", "winners/ComfyUI")
    winners = host.core("data.readers").read_winners(host.output / "winners")
    assert [(winner.name, winner.caption) for winner in winners] == [
        ("ComfyUI_00001_.png", "a red fox, deep snow"),
        ("ComfyUI_00002_.png", "a red fox, deep snow"),
        ("ComfyUI_00003_.png", "a grey fox, deep snow"),
        ("ComfyUI_00004_.png", "a grey fox, deep snow"),
    ]
    assert f"{checkpoint} (4)" in winners.report()


def inputs_of(kind: type) -> dict[str, str]:
    """Name -> type, of the required and the optional inputs, in their order."""
    every = kind.INPUT_TYPES()
    rows = {**every.get("required", {}), **every.get("optional", {})}
    return {name: row[0] if isinstance(row[0], str) else "COMBO" for name, row in rows.items()}


def fitting(name: str, kind: str, words: str) -> object:
    """A value for an input of this name and type; None leaves it out."""
    negative = "neg" in name
    values = {"STRING": "dull" if negative else words, "CLIP": ["model", 1], "COMBO": "x"}
    values |= {"CONDITIONING": ["bad" if negative else "fox", 0], "INT": 1, "FLOAT": 0.5}
    return values.get(kind)


def drawn_by(name: str, kind: type, words: str) -> dict[str, dict]:
    """A graph that samples by a node of this kind."""
    values = {key: fitting(key, type_, words) for key, type_ in inputs_of(kind).items()}
    inputs = {key: value for key, value in values.items() if value is not None}
    outputs = [slot for slot, type_ in enumerate(kind.RETURN_TYPES) if type_ == "CONDITIONING"]
    graph = source("any") | classic() | {"node": node(name, **inputs)}
    graph["sampler"]["inputs"]["positive"] = ["node", outputs[0]]
    if len(outputs) > 1:
        graph["sampler"]["inputs"]["negative"] = ["node", outputs[1]]
    return graph | {"save": node("SaveImage", filename_prefix="x", images=["decode", 0])}


def kinds_giving(type_: str) -> dict[str, type]:
    import nodes

    return {
        name: kind for name, kind in nodes.NODE_CLASS_MAPPINGS.items() if type_ in kind.RETURN_TYPES
    }


def test_every_node_that_passes_conditionings_on_gives_each_side(host):
    generation_of = host.core("data.graphs").generation_of
    seen = 0
    for name, kind in kinds_giving("CONDITIONING").items():
        if "CONDITIONING" in inputs_of(kind).values() and name != "ConditioningZeroOut":
            found = generation_of(drawn_by(name, kind, "words of its own"), "x_00001_.png")
            assert (name, found.prompt, found.negative) == (name, "a red fox", "blurry")
            seen += 1
    assert seen > 40


def test_every_node_that_encodes_text_gives_it(host):
    generation_of = host.core("data.graphs").generation_of
    seen = 0
    for name, kind in kinds_giving("CONDITIONING").items():
        types = set(inputs_of(kind).values())
        if {"CLIP", "STRING"} <= types and "CONDITIONING" not in types:
            found = generation_of(drawn_by(name, kind, "a fox in snow"), "x_00001_.png")
            assert (name, found.prompt) == (name, "a fox in snow")
            assert found.negative in ("blurry", "dull")
            seen += 1
    assert seen > 10


def test_widgets_of_the_hosts_nodes_are_called_as_we_know_them(host):
    import nodes

    known = host.core("data.graphs.widgets")
    for name, names in known.WIDGETS.items():
        if name in nodes.NODE_CLASS_MAPPINGS:
            inputs = inputs_of(nodes.NODE_CLASS_MAPPINGS[name])
            widgets = [key for key, type_ in inputs.items() if type_ in known.PLAIN]
            shared = min(len(widgets), len(names.split()))
            assert (name, widgets[:shared]) == (name, names.split()[:shared])
