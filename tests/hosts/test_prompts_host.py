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
