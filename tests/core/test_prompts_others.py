"""Graphs that hold words which are not those of the picture: none of them may become a caption."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
from test_prompts_graph import Graph, node, plain, prompt, reason  # noqa: E402


def on_loaded(loaded: dict[str, Any], **more: dict[str, Any]) -> Graph:
    """The default graph, begun with the picture of node `photo`; `more` are inputs of the sampler."""
    graph = plain(
        photo=loaded,
        scaled=node("ImageScaleBy", image=["photo", 0], scale_by=1.5),
        empty=node("VAEEncode", pixels=["scaled", 0], vae=["model", 2]),
    )
    graph["sampler"]["inputs"] |= more
    return graph


PHOTO = node("LoadImage", image="x.png")


def masked(kind: str, **inputs: Any) -> Graph:
    """The default graph, of which a mask leaves most of a loaded picture."""
    return on_loaded(PHOTO) | {
        "empty": node(kind, **inputs, mask=["photo", 1]),
        "latent": node("VAEEncode", pixels=["photo", 0], vae=["model", 2]),
    }


@pytest.mark.parametrize(
    "graph",
    [
        on_loaded(PHOTO, denoise=0.2),
        on_loaded(PHOTO, denoise=0.7),
        on_loaded(PHOTO, steps=20, start_at_step=15),
        on_loaded(node("VHS_LoadVideo", video="x.mp4"), denoise=0.3),
        on_loaded(node("Image Load", path="/x", image_name="a"), denoise=0.3),
        on_loaded(node("SomebodysInbox", url="http://127.0.0.1/x.png"), denoise=0.3),
        masked("SetLatentNoiseMask", samples=["latent", 0]),
        masked("VAEEncodeForInpaint", pixels=["photo", 0], vae=["model", 2]),
    ],
    ids=["low", "refines", "steps", "video", "path", "url", "mask", "inpaint"],
)
def test_words_of_a_pass_that_refines_a_loaded_picture_are_no_caption(graph):
    assert reason(graph) == (
        "node sampler (KSampler) refines a picture that was loaded, whose prompt the graph does not "
        "hold"
    )


@pytest.mark.parametrize(
    "graph",
    [
        on_loaded(PHOTO, denoise=0.75),
        on_loaded(PHOTO, denoise=["unknown", 0]),
        on_loaded(node("EmptyImage", width=512, height=512), denoise=0.6),
        on_loaded(PHOTO, denoise=0.6)
        | {
            "empty": node("ImageIntoLatent", image=["scaled", 0], latent=["new", 0]),
            "new": node("EmptyLTXVLatentVideo", width=["size", 0], height=["size", 1]),
            "size": node("GetImageSize", image=["scaled", 0]),
        },
    ],
    ids=["most of the noise", "unknown", "a plain colour", "a clip's first frame"],
)
def test_words_of_a_pass_that_draws_upon_a_loaded_picture_are_its_caption(graph):
    assert prompt(graph) == "a red fox"
