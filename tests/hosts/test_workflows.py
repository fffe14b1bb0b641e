"""The graphs in workflows/: they follow the nodes, lie legibly on the page, and run on a real host."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from graphs import (
    as_prompt,
    change,
    draw_winners,
    files,
    metrics,
    real_nodes,
    widget_values,
    widgets,
    workflow,
)
from inprocess import PACK, PACK_FOLDER
from make_workflows import CHECKPOINT, WORKFLOWS
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from scorers import make_clip
from workflow_format import build

FOLDER = "workflow_winners"
RUN = "workflow_run"
TITLE = 30
"""Pixels of a node's title bar, above its position."""

every_graph = pytest.mark.parametrize("name", sorted(WORKFLOWS))


@pytest.fixture(scope="module")
def definitions(http_host) -> dict[str, Any]:
    return http_host.get("/object_info")


@pytest.fixture(scope="module")
def prepared(base, checkpoint):
    """A prompt made small: 64 px, a few steps, the thin checkpoint, three drawn winners."""
    draw_winners(base / "input" / FOLDER)

    def small(prompt: dict[str, Any]) -> dict[str, Any]:
        change(prompt, "CheckpointLoaderSimple", ckpt_name=checkpoint)
        change(prompt, "SePPOLoadWinners", folder=FOLDER)
        change(prompt, "SePPOEncodeWinners", resolution=64)
        change(prompt, "SePPOTrain", steps=3)
        change(prompt, "EmptyLatentImage", width=64, height=64)
        change(prompt, "KSampler", steps=2)
        change(prompt, "SePPOAnchorPreview", winners=2, levels=3, draws=1)
        change(prompt, "SePPOTestPrompts", every=2, sampling_steps=2)
        change(prompt, "SePPOCompare", seeds=1, steps=2, width=64, height=64)
        for entry in prompt.values():
            if "run_name" in entry["inputs"]:
                run_name = entry["inputs"]["run_name"].replace("my_run", RUN)
                entry["inputs"]["run_name"] = run_name
        return prompt

    return small


@pytest.fixture(scope="module")
def aligned(http_host, definitions, prepared) -> dict[str, dict]:
    """What `align_sd15_from_folder` shows, by class of node; its run serves the other graphs."""
    prompt = prepared(as_prompt(workflow("align_sd15_from_folder"), definitions))
    return by_class(prompt, http_host.run_graph(prompt))


def by_class(prompt: dict[str, Any], shown: dict[str, Any]) -> dict[str, dict]:
    return {prompt[node_id]["class_type"]: output for node_id, output in shown.items()}


def titled(file: dict[str, Any], title: str) -> str:
    """Id of the node with that title."""
    (found,) = [str(n["id"]) for n in real_nodes(file) if n.get("title") == title]
    return found


# The files


def test_folder_holds_the_graphs_that_the_generator_makes():
    assert {path.stem for path in (PACK / "workflows").iterdir()} == set(WORKFLOWS)
    assert len(WORKFLOWS) == 8


@every_graph
def test_file_is_what_the_generator_makes_of_this_hosts_nodes(name, definitions):
    def without_unused_outputs(file: dict[str, Any]) -> dict[str, Any]:
        for node in file["nodes"]:  # newer hosts give some of their nodes further outputs
            node["outputs"] = [output for output in node["outputs"] if output["links"]]
        return file

    made = json.loads(json.dumps(build(WORKFLOWS[name](), definitions)))
    assert without_unused_outputs(workflow(name)) == without_unused_outputs(made), (
        "the nodes changed: run scripts/make_workflows.py"
    )


@every_graph
def test_every_widget_has_a_value_that_its_node_takes(name, definitions):
    for node in real_nodes(workflow(name)):
        values = widget_values(node, definitions)
        for one in widgets(definitions[node["type"]]):
            value, kind = values[one.name], definitions[node["type"]]["input"]
            if one.type == "COMBO":
                first, *rest = {**kind["required"], **kind.get("optional", {})}[one.name]
                options = first if isinstance(first, list) else rest[0]["options"]
                assert value in [*options, CHECKPOINT], (node["type"], one.name)
            elif one.type in ("INT", "FLOAT"):
                low, high = one.settings.get("min", value), one.settings.get("max", value)
                assert low <= value <= high, (node["type"], one.name)
            else:
                assert isinstance(value, bool if one.type == "BOOLEAN" else str)


@every_graph
def test_links_join_outputs_and_inputs_of_one_type_and_both_ends_know_them(name):
    file = workflow(name)
    nodes = {node["id"]: node for node in file["nodes"]}
    linked = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"]]
    assert sorted(linked) == [link[0] for link in file["links"]]
    for link, source, output, target, slot, kind in file["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[target]["inputs"][slot]["type"] in (kind, "*")
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0], "links run left to right"


@every_graph
def test_no_node_covers_another_and_each_lies_inside_one_group(name):
    file = workflow(name)
    boxes = [
        (x, y - TITLE, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in file["nodes"])
    ]
    for (x0, y0, x1, y1), (u0, v0, u1, v1) in combinations(boxes, 2):
        assert x1 < u0 or u1 < x0 or y1 < v0 or v1 < y0
    frames = [group["bounding"] for group in file["groups"]]
    for x0, y0, x1, y1 in boxes:
        around = [
            (x, y, w, h) for x, y, w, h in frames if x < x0 and y < y0 and x1 < x + w and y1 < y + h
        ]
        assert len(around) == 1


@every_graph
def test_a_note_tells_a_newcomer_what_to_do(name):
    (note,) = [node for node in workflow(name)["nodes"] if node["type"] == "MarkdownNote"]
    assert 200 < len(note["widgets_values"][0]) < 700


def test_template_browser_offers_every_graph(http_host):
    assert sorted(http_host.get("/workflow_templates")[PACK_FOLDER]) == sorted(WORKFLOWS)
    name = "anchor_preview"
    served = http_host.get(f"/api/workflow_templates/{PACK_FOLDER}/{name}.json")
    assert served == workflow(name)


# Their runs


def test_aligning_shows_winners_draws_a_picture_and_keeps_a_lora(base, aligned):
    (sheet,) = files(base, aligned["SePPOLoadWinners"])
    assert Image.open(sheet).width > 3 * 96
    (picture,) = files(base, aligned["SaveImage"])
    assert Image.open(picture).size == (64, 64)
    assert picture.parent == base / "output" / "SePPO"
    (curves,) = files(base, aligned["SePPOCurves"])
    assert Image.open(curves).width > 400

    run = base / "output" / "seppo" / RUN
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]
    (text,) = aligned["SePPOSaveAligned"]["text"]
    lora = Path(text.partition(": ")[2])
    assert lora.parent == base / "output" / "loras" and lora.name.startswith("SePPO_")
    tensors = load_file(lora)
    assert all(name.startswith("diffusion_model.") for name in tensors)
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_up" in name)
    with safe_open(lora, "pt") as file:
        assert RUN in json.dumps(file.metadata())


def test_own_pictures_are_learned_from_with_the_prompts_they_hold(
    base, http_host, definitions, prepared, aligned
):
    prompt = prepared(as_prompt(workflow("align_from_own_pictures"), definitions))
    (picture,) = files(base, aligned["SaveImage"])
    change(prompt, "SePPOLoadWinners", folder=picture.parent.name)
    change(prompt, "SePPOTrain", run_name="workflow_own")
    shown = by_class(prompt, http_host.run_graph(prompt))
    (report,) = shown["PreviewAny"]["text"]
    assert "1 winning images, 1 different captions" in report
    assert "thin_sd15" in report
    assert [line["step"] for line in metrics(base / "output" / "seppo" / "workflow_own")] == [
        1,
        2,
        3,
    ]


def test_marked_pictures_are_learned_from_compared_and_scored(
    base, http_host, definitions, prepared, aligned
):
    (picture,) = files(base, aligned["SaveImage"])
    address = picture.relative_to(base).as_posix()
    http_host.post("/seppo/sets/favourites", {"add": [address]})
    make_clip(base / "models" / "seppo_scorers" / "PickScore_v1")
    file = workflow("pick_align_compare")
    prompt = prepared(as_prompt(file, definitions, muted_too=True))
    change(prompt, "SePPOTrain", run_name="workflow_picked")
    shown = http_host.run_graph(prompt)
    run = base / "output" / "seppo" / "workflow_picked"
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]
    drawn = http_host.get("/seppo/runs/workflow_picked")["tests"]
    assert [line["step"] for line in drawn] == [0, 0, 2, 2, 3, 3]
    assert len(by_class(prompt, shown)["SePPOCompare"]["seppo_pairs"]) == 2
    (report,) = shown[titled(file, "Scores")]["text"]
    assert "of 2 pictures" in report and "images wins" in report
    assert report.splitlines()[-1].endswith("a lighthouse in a storm")


def test_comparing_draws_two_pictures_that_differ_and_trains_once(
    base, http_host, definitions, prepared
):
    file = workflow("align_and_compare")
    prompt = prepared(as_prompt(file, definitions))
    change(prompt, "SePPOTrain", run_name="workflow_compared")
    seed = titled(file, "Seed of both pictures")
    samplers = [e for e in prompt.values() if e["class_type"] == "KSampler"]
    assert len(samplers) == 2
    without_model = [{**entry["inputs"], "model": None} for entry in samplers]
    assert without_model[0] == without_model[1]
    assert without_model[0]["seed"] == [seed, 0]

    def images(shown: dict[str, Any]) -> list[bytes]:
        saved = [node_id for node_id in shown if prompt[node_id]["class_type"] == "SaveImage"]
        paths = [files(base, shown[node_id])[0] for node_id in sorted(saved, key=int)]
        return [Image.open(path).tobytes() for path in paths]

    before, after = images(http_host.run_graph(prompt))
    assert before != after

    run = base / "output" / "seppo" / "workflow_compared"
    lines = metrics(run)
    prompt[seed]["inputs"]["value"] = 2
    others = images(http_host.run_graph(prompt))
    assert len({before, after, *others}) == 4
    assert metrics(run) == lines


def test_anchor_preview_alone_needs_no_run(base, http_host, definitions, prepared):
    prompt = prepared(as_prompt(workflow("anchor_preview"), definitions))
    assert not any(entry["class_type"] == "SePPOLoadRun" for entry in prompt.values())
    runs = sorted((base / "output" / "seppo").glob("*/run.json"))
    shown = by_class(prompt, http_host.run_graph(prompt))
    (picture,) = files(base, shown["SePPOAnchorPreview"])
    assert Image.open(picture).width > 400
    assert sorted((base / "output" / "seppo").glob("*/run.json")) == runs


def test_muted_half_of_the_anchor_preview_shows_a_run(
    base, http_host, definitions, prepared, aligned
):
    file = workflow("anchor_preview")
    prompt = prepared(as_prompt(file, definitions, muted_too=True))
    shown = http_host.run_graph(prompt)
    before, after = (
        files(base, shown[titled(file, title)])[0]
        for title in ("Base model", "Aligned model against its first checkpoint")
    )
    assert Image.open(before).tobytes() != Image.open(after).tobytes()


def test_guided_aims_beyond_the_winners_and_draws_away_from_the_base(
    base, http_host, definitions, prepared
):
    prompt = prepared(as_prompt(workflow("align_guided"), definitions))
    for entry in prompt.values():
        if entry["class_type"] == "SePPOTrain":
            entry["inputs"]["run_name"] = f"{RUN}_guided"
        if entry["class_type"] == "KSampler":
            entry["inputs"]["seed"] = 1
    guided = by_class(prompt, http_host.run_graph(prompt))
    about = json.loads(
        (base / "output" / "seppo" / f"{RUN}_guided" / "run.json").read_text("utf-8")
    )
    loss = about["config"]["loss"]
    assert (loss["objective"], loss["guidance"]) == ("guided", 3.0)
    (train,) = [key for key, entry in prompt.items() if entry["class_type"] == "SePPOTrain"]
    for entry in prompt.values():
        if entry["class_type"] == "KSampler":
            entry["inputs"]["model"] = [train, 0]
    usual = by_class(prompt, http_host.run_graph(prompt))
    pictures = [
        Image.open(file).tobytes()
        for shown in (guided, usual)
        for file in files(base, shown["SaveImage"])
    ]
    assert len(pictures) == 2 and pictures[0] != pictures[1]


def test_continuing_starts_where_the_run_ended_and_goes_on(
    base, http_host, definitions, prepared, aligned
):
    prompt = prepared(as_prompt(workflow("continue_from_run"), definitions))
    shown = by_class(prompt, http_host.run_graph(prompt))
    runs = base / "output" / "seppo"
    assert [line["step"] for line in metrics(runs / f"{RUN}_continued")] == [1, 2, 3]

    (ended,) = (runs / RUN / "weights").glob("*.safetensors")
    (went_on,) = (runs / f"{RUN}_continued" / "weights").glob("*.safetensors")
    old, new = load_file(ended), load_file(went_on)
    assert set(old) == set(new)
    up = next(name for name in old if "lora_up" in name and "attn2" in name)
    assert not new[up].equal(old[up])

    start = load_file(runs / f"{RUN}_continued" / "pool" / "step_00000000.safetensors")
    layer = up.removeprefix("diffusion_model.").removesuffix(".lora_up.weight")
    assert start[f"{layer}.up"].equal(old[up].float())

    (aligned_picture,) = files(base, aligned["SaveImage"])
    (picture,) = files(base, shown["SaveImage"])
    assert Image.open(picture).tobytes() != Image.open(aligned_picture).tobytes()


def test_comparing_a_run_shows_its_pictures_beside_the_bases_and_tells_the_scores(
    base, http_host, definitions, prepared, aligned
):
    prompt = prepared(as_prompt(workflow("score_and_compare"), definitions))
    make_clip(base / "models" / "seppo_scorers" / "PickScore_v1")
    change(prompt, "SePPOCompare", scorers="pickscore")
    shown = by_class(prompt, http_host.run_graph(prompt))
    (grid,) = files(base, shown["SePPOCompare"])
    pairs = shown["SePPOCompare"]["seppo_pairs"]
    assert len(pairs) == 2 and all(
        set(p["scores"]["pickscore"]) == {"base", "aligned"} for p in pairs
    )
    for pair in pairs:
        before, after = (
            Image.open(base / "temp" / pair[side]["subfolder"] / pair[side]["filename"])
            for side in ("base", "aligned")
        )
        assert before.size == after.size == (64, 64) and before.tobytes() != after.tobytes()
    assert Image.open(grid).height > 4 * 64
    (summary,) = shown["PreviewAny"]["text"]
    assert "2 prompts x 1 seeds = 2 pairs" in summary and "pickscore: aligned wins" in summary
