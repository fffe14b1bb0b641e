"""Graphs that hold words which are not those of the picture: none of them may become a caption."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
from test_prompts_graph import Graph, encode, node, plain, positive, prompt, reason  # noqa: E402

COMPUTING = [
    node("easy promptLine", prompt="a cat\na dog", start_index=0, max_rows=1000),
    node("CR Prompt List", multiline_text="a cat\na dog", start_index=0, max_rows=1000),
    node("CR Simple Prompt List", prompt_1="a cat", prompt_2=""),
    node("CR Split String", text="a cat; a dog", delimiter=";"),
    node("Text List", text="a cat"),
    node("Zzz Lines", text="a cat\na dog"),
    node("Text Cycler", text="a cat\na dog"),
    node("Next Words", text="a cat\na dog", max_rows=1),
    node("BatchPromptSchedule", text='"0": "a cat", "12": "a dog"', max_frames=120),
    node("PromptSchedule", text='"0": "a cat", "12": "a dog"', current_frame=0),
    node("CLIPTextEncodeSequence2", text="0:a cat\n1:a dog", frame_count=100),
    node("GoogleTranslateCLIPTextEncodeNode", from_translate="de", to_translate="en", text="Hund"),
    node("GoogleTranslateTextNode", from_translate="de", to_translate="en", text="ein Hund"),
    node("Other Tongue", translate_to="en", text="ein Hund"),
    node("Griptape Run: Prompt Task", STRING="write a prompt about a cat"),
    node("Griptape Run: Agent", prompt="write a prompt about a cat"),
    node("FooocusPromptExpansion", prompt="a cat", seed=1),
    node("SuperPrompt", prompt="a cat", seed=1),
    node("Superprompt", prompt="a cat", max_new_tokens=77),
    node("Muse", tags="a cat", temperature=0.5, top_p=0.9),
    node("OllamaEncode", prompt="describe a cat"),
    node("Text Random Prompt", text="a cat"),
    node("CLIPTextEncode (NSP)", text="a __animal__", mode="Noodle Soup Prompts", seed=0),
    node("Wildcard Encode (Zzz)", text="a {cat|dog}", seed=0),
]


@pytest.mark.parametrize("encodes", [False, True], ids=["gives", "encodes"])
@pytest.mark.parametrize("source", COMPUTING, ids=lambda source: source["class_type"])
def test_nodes_that_make_other_words_are_told_whether_they_give_or_encode_them(source, encodes):
    linked = {"good": encode(["source", 0]), "source": source}
    encoder = {"good": {**source, "inputs": source["inputs"] | {"clip": ["model", 1]}}}
    told = reason(plain(**(encoder if encodes else linked)))
    name = f"node {'good' if encodes else 'source'} ({source['class_type']})"
    assert told == f"{name} makes its text only when the graph runs"


@pytest.mark.parametrize(
    "kind",
    [
        *("Text Multiline", "MultiLine Prompt", "Multi Line Text", "multiLineText", "Stylist"),
        *("Realistic Words", "Inline Text", "CLIPTextEncode (NSP)", "Outline Text"),
    ],
)
def test_kinds_whose_names_only_resemble_those_of_lists_hand_on_their_text(kind):
    assert positive(good=encode(["t", 0]), t=node(kind, text="a fox")) == "a fox"
    assert positive(good=node(kind, text="a fox", clip=["model", 1])) == "a fox"


@pytest.mark.parametrize("kind", ["TextEncodeQwenImageEdit", "MZ_ChatGLM3", "Efficient Loader"])
def test_encoders_called_after_models_that_write_encode_their_text(kind):
    assert positive(good=node(kind, text="a fox", clip=["model", 1])) == "a fox"


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
