"""Writes workflows/*.json from the tables below: `python scripts/make_workflows.py [http://127.0.0.1:8188]`.

The address is a running ComfyUI with this pack in it: order, types and defaults of inputs are read from
its nodes. Take the oldest release that the pack supports; a newer page fills in what nodes gained since.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_format import Group, Link, Node, build

FOLDER = Path(__file__).resolve().parent.parent / "workflows"
SERVER = "http://127.0.0.1:8188"

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
MODEL_FILE = {
    "name": CHECKPOINT,
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    + CHECKPOINT,
    "directory": "checkpoints",
}
"""As the host's own templates name it."""
PANEL = 880
"""Pixels below the widgets of SePPO Train, for its whole panel and the host's line of text, in both of its renderers."""

# What the graphs are made of


def note(text: str, room: int = 230) -> Node:
    return Node("MarkdownNote", title="Read me", text=text, room=room)


def base_model() -> Node:
    return Node("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT}, models=(MODEL_FILE,))


def folder(**source: Any) -> Node:
    """The folder of winners with their contact sheet."""
    return Node("SePPOLoadWinners", {"folder": "winners", **source}, room=280)


def winners(text: str, source: Node | None = None) -> Group:
    """The base model, and the winners: what `source` gives, or a folder."""
    return Group(
        "1. Base model and winning images",
        (
            {"note": note(text), "base": base_model()},
            {"winners": source or folder()},
            {
                "dataset": Node(
                    "SePPOEncodeWinners",
                    {
                        "winners": Link("winners", "winners"),
                        "vae": Link("base", "VAE"),
                        "clip": Link("base", "CLIP"),
                        "model": Link("base", "MODEL"),
                    },
                )
            },
        ),
    )


def training(title: str = "2. Train", **inputs: Any) -> Group:
    train = Node(
        "SePPOTrain",
        {"model": Link("base", "MODEL"), "dataset": Link("dataset", "dataset"), **inputs},
        width=460,
        room=PANEL,
    )
    return Group(title, ({"train": train},))


def prompts() -> dict[str, Node]:
    clip = Link("base", "CLIP")
    return {
        "positive": Node(
            "CLIPTextEncode",
            {"clip": clip, "text": "a red fox in a snowy forest"},
            title="Prompt",
        ),
        "negative": Node("CLIPTextEncode", {"clip": clip, "text": ""}, title="Negative prompt"),
        "size": Node("EmptyLatentImage", {"width": 512, "height": 512}),
    }


def sampler(model: Link, control: str = "fixed", seed: Any = 1, title: str = "") -> Node:
    return Node(
        "KSampler",
        {
            "model": model,
            "positive": Link("positive", "CONDITIONING"),
            "negative": Link("negative", "CONDITIONING"),
            "latent_image": Link("size", "LATENT"),
            "seed": seed,
            "steps": 20,
            "cfg": 7.0,
            "sampler_name": "euler",
            "scheduler": "normal",
        },
        title=title,
        control=control,
    )


def decode(samples: str) -> Node:
    return Node(
        "VAEDecode", {"samples": Link(samples, "LATENT"), "vae": Link("base", "VAE")}, width=220
    )


def save_image(image: str, prefix: str, title: str = "") -> Node:
    inputs = {"images": Link(image, "IMAGE"), "filename_prefix": prefix}
    return Node("SaveImage", inputs, title=title, room=360)


def sampling(model: str = "train") -> Group:
    """A picture by the model that a node gives, the aligned one's; every run draws another one."""
    return Group(
        "3. Draw with the aligned model",
        (
            prompts(),
            {"sample": sampler(Link(model, "model"), "randomize"), "picture": decode("sample")},
            {"image": save_image("picture", "SePPO/aligned")},
        ),
    )


def keeping() -> Group:
    """The LoRA file, and how the run went."""
    run = Link("train", "trained_run")
    return Group(
        "4. Keep and look",
        (
            {
                "file": Node("SePPOSaveAligned", {"run": run, "model": Link("base", "MODEL")}),
                "curves": Node("SePPOCurves", {"run": run}, width=480, room=420),
            },
        ),
    )


# The graphs


def align_sd15_from_folder() -> list[Group]:
    text = (
        "## Make a model draw more like your best images\n\n"
        "Put some pictures into ComfyUI's `input/winners` folder, each with a text file of the same "
        "name that says what it shows (`cat.png`, `cat.txt`), and press Run.\n\n"
        "**SePPO Train** shows how far it is; Cancel keeps what was learned, and Run goes on from "
        "there. The LoRA lies in `output/loras` and loads like any other."
    )
    return [winners(text), training(), sampling(), keeping()]


def align_guided() -> list[Group]:
    text = (
        "## Make more of what your winners share\n\n"
        "Put some pictures into ComfyUI's `input/winners` folder, each with a text file of the same name that says "
        "what it shows, and press Run.\n\n"
        "**SePPO Train** aims beyond the winners here (preset `guided`); `change` says how far. **SePPO Guide** then draws "
        "away from the model as it was. Too much? Lower its `strength`, or take less `change`."
    )
    guide = Node(
        "SePPOGuide", {"model": Link("base", "MODEL"), "run": Link("train", "trained_run")}
    )
    drawing = sampling("guide")
    drawing.columns[0]["guide"] = guide
    return [winners(text), training(preset="guided"), drawing, keeping()]


def align_from_own_pictures() -> list[Group]:
    text = (
        "## Learn from the pictures you made here and liked\n\n"
        "Make a folder `winners` in ComfyUI's `output` folder, move your best pictures into it and press Run. "
        "Their prompts are read from the pictures themselves; the report says which have none that can be "
        "read, and why. A text file of the same name always comes first.\n\n"
        "**SePPO Edit Captions** may add a trigger word, or leave captions away now and then."
    )
    first = winners(text, folder(location="output"))
    report = Link("winners", "report")
    first.columns[1]["report"] = Node("PreviewAny", {"source": report}, title="Report", room=160)
    first.columns[2]["captions"] = Node(
        "SePPOEditCaptions", {"winners": Link("winners", "winners"), "dropout": 0.1}
    )
    first.columns[2]["dataset"].inputs["winners"] = Link("captions", "edited")
    return [first, training(), sampling(), keeping()]


def pick_align_compare() -> list[Group]:
    text = (
        "## Mark what you like, and see what became of it\n\n"
        "Press **Open the gallery**, mark the pictures you like and press Run: their prompts are read from the "
        "pictures. The panel of **SePPO Train** shows what is learned and draws two prompts as it goes; "
        "**Stop and keep** goes on with what was learned so far.\n\n"
        "For numbers, put a scorer's weights into `models/seppo_scorers`, select the two grey nodes and press "
        "Ctrl+M. Nothing is trained or drawn again."
    )
    clip = Link("base", "CLIP")
    size = Node("EmptyLatentImage", {"width": 512, "height": 512}, title="Size of test pictures")
    negative = Node("CLIPTextEncode", {"clip": clip, "text": ""}, title="Negative prompt")
    tests = Node(
        "SePPOTestPrompts",
        {
            "clip": clip,
            "latent": Link("size", "LATENT"),
            "prompts": "a red fox in a snowy forest\na lighthouse in a storm",
            "guidance": 7.0,
        },
    )
    train = training(
        "2. Train and watch",
        tests=Link("tests", "tests"),
        negative=Link("negative", "CONDITIONING"),
    )
    compare = Node(
        "SePPOCompare",
        {
            "model": Link("base", "MODEL"),
            "aligned": Link("train", "model"),
            "clip": clip,
            "vae": Link("base", "VAE"),
        },
        width=620,
        room=520,
    )
    score = Node(
        "SePPOScore",
        {
            "images": Link("compare", "aligned_images"),
            "images_b": Link("compare", "base_images"),
            "prompts": Link("compare", "captions"),
        },
    )
    report = Node("PreviewAny", {"source": Link("score", "report")}, title="Scores", room=200)
    run = Link("train", "trained_run")
    saved = Node("SePPOSaveAligned", {"run": run, "model": Link("base", "MODEL")})
    return [
        winners(text, Node("SePPOPickWinners", room=320)),
        Group(train.title, ({"size": size, "negative": negative, "tests": tests}, *train.columns)),
        Group("3. Keep and compare", ({"file": saved}, {"compare": compare})),
        Group("4. Score (muted: Ctrl+M)", ({"score": score, "report": report},), muted=True),
    ]


def align_and_compare() -> list[Group]:
    text = (
        "## Before and after, side by side\n\n"
        "Trains on the pictures in `input/winners`, then draws one prompt with the base model and "
        "with the aligned one, from the same seed: whatever differs was learned.\n\n"
        "Change prompt or seed and press Run again. The training is not repeated."
    )
    seed = Link("seed", "INT")
    return [
        winners(text),
        training(),
        Group(
            "3. The same prompt and seed for both",
            (
                {
                    "seed": Node("PrimitiveInt", {"value": 1}, title="Seed of both pictures"),
                    **prompts(),
                },
                {
                    "before": sampler(Link("base", "MODEL"), seed=seed, title="Base model"),
                    "after": sampler(Link("train", "model"), seed=seed, title="Aligned model"),
                },
                {"picture_before": decode("before"), "picture_after": decode("after")},
            ),
        ),
        Group(
            "4. Compare",
            (
                {"image_before": save_image("picture_before", "SePPO/base", "Base model")},
                {"image_after": save_image("picture_after", "SePPO/aligned", "Aligned model")},
            ),
        ),
    ]


def anchor_preview() -> list[Group]:
    text = (
        "## What the anchor criterion sees\n\n"
        "Before training: how well the base model explains your winners at each noise level. The "
        "first levels are nearly clean, the last nearly pure noise.\n\n"
        "After training: put your run's name into **SePPO Load Run**, select the two grey nodes and "
        "press Ctrl+M. You then see where the aligned model is ahead of its first checkpoint, and "
        "what becomes of the samples."
    )
    seen = {
        "model": Link("base", "MODEL"),
        "dataset": Link("dataset", "dataset"),
        "vae": Link("base", "VAE"),
    }
    before = Node("SePPOAnchorPreview", seen, title="Base model", width=620, room=420)
    after = Node(
        "SePPOAnchorPreview",
        {**seen, "run": Link("run", "run")},
        title="Aligned model against its first checkpoint",
        width=620,
        room=420,
    )
    return [
        winners(text),
        Group("2. Before training", ({"before": before},)),
        Group(
            "3. After training (muted: Ctrl+M)",
            ({"run": Node("SePPOLoadRun")}, {"after": after}),
            muted=True,
        ),
    ]


def continue_from_run() -> list[Group]:
    text = (
        "## Train on from an earlier run\n\n"
        "Name the run to start from in **SePPO Load Run**. Its aligned weights are where this "
        "training begins, with the same base model and the same rank; the winners may be other ones."
        "\n\nThe new run is kept under its own `run_name`. To give a run more steps, as if it had "
        "never stopped, you do not need this graph: raise `steps` in the graph that made it."
    )
    title = "2. Train on from a run"
    load = {"run": Node("SePPOLoadRun")}
    train = training(title, run=Link("run", "run"), run_name="my_run_continued")
    return [
        winners(text),
        Group(title, (load, *train.columns)),
        sampling(),
        keeping(),
    ]


def score_and_compare() -> list[Group]:
    text = (
        "## Was it worth it?\n\n"
        "Name your run in **SePPO Load Run**, write prompts that were not among the winners, one on each line, "
        "and press Run. Base and aligned model draw all of them from the same seeds.\n\n"
        "For numbers, name a scorer in the last field of **SePPO Compare**, for example `pickscore`, and put "
        "its weights into `models/seppo_scorers`; if they are not there, the message says what to get."
    )
    compare = Node(
        "SePPOCompare",
        {
            "model": Link("base", "MODEL"),
            "clip": Link("base", "CLIP"),
            "vae": Link("base", "VAE"),
            "run": Link("run", "run"),
        },
        width=620,
        room=520,
    )
    summary = Node("PreviewAny", {"source": Link("compare", "summary")}, title="Summary", room=200)
    return [
        Group(
            "1. Base model and run",
            ({"note": note(text), "base": base_model()}, {"run": Node("SePPOLoadRun")}),
        ),
        Group("2. The same prompts and seeds for both", ({"compare": compare}, {"told": summary})),
    ]


WORKFLOWS: dict[str, Callable[[], list[Group]]] = {
    "align_sd15_from_folder": align_sd15_from_folder,
    "align_guided": align_guided,
    "align_from_own_pictures": align_from_own_pictures,
    "pick_align_compare": pick_align_compare,
    "align_and_compare": align_and_compare,
    "anchor_preview": anchor_preview,
    "continue_from_run": continue_from_run,
    "score_and_compare": score_and_compare,
}
"""File name -> the graph."""


def main() -> None:
    server = sys.argv[1] if len(sys.argv) > 1 else SERVER
    with urllib.request.urlopen(f"{server.rstrip('/')}/object_info", timeout=60) as answer:
        definitions = json.load(answer)
    FOLDER.mkdir(exist_ok=True)
    for name, graph in WORKFLOWS.items():
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(build(graph(), definitions), indent=1) + "\n", "utf-8")
        print(path)


if __name__ == "__main__":
    main()
