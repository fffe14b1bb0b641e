"""What a node will need is asked for when the graph is queued: one error, in words that say what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from folders import draw
from inprocess import GraphError

LINK = ["nothing", 0]
HUB = "hub:yuvalkirstain/PickScore_v1"


def complete(host, class_type: str) -> dict[str, Any]:
    """A link for each required socket, and every widget's default."""
    values = {}
    for name, (_, *settings) in host.node(class_type).INPUT_TYPES()["required"].items():
        given = settings[0] if settings else {}
        values[name] = given["default"] if "default" in given else LINK
    return values


def errors_of(host, class_type: str, others: dict | None = None, **inputs: Any) -> list[dict]:
    """What the host says of one node when a graph with it, and with `others`, is queued."""
    return errors_with(host, class_type, complete(host, class_type) | inputs, others)


def errors_with(
    host, class_type: str, values: dict[str, Any], others: dict | None = None
) -> list[dict]:
    """`errors_of` a node with these inputs and no others."""
    import execution

    node = {"class_type": class_type, "inputs": values}
    graph = {"node": node, "nothing": host.constant(None), **(others or {})}

    async def queue() -> tuple:
        host.server().trigger_on_prompt({"prompt": graph, "client_id": "page"})
        return await execution.validate_inputs("prompt", graph, "node", {})

    host.messages.clear()
    return asyncio.run(queue())[1]


def said(host, class_type: str, **inputs: Any) -> str:
    """The one error's words, which the page that queued was told as well."""
    (error,) = errors_of(host, class_type, **inputs)
    _, _, words = error["details"].partition(" - ")
    (told,) = [data for event, data in host.messages if event == "seppo.refused"]
    assert told.pop("request") > 0
    assert told == {"node": host.node(class_type).GET_SCHEMA().display_name, "said": words}
    return words


@pytest.fixture(autouse=True)
def hub(host, monkeypatch, tmp_path) -> dict[str, set[str]]:
    """Which repositories are on this machine, and which the hub has; nobody is asked in truth."""
    import huggingface_hub

    known = {name: set() for name in ("here", "in part", "there", "slow")}
    known["here"] = {HUB.partition(":")[2]}

    def snapshot(name, allow_patterns, local_files_only=False):
        assert local_files_only
        if name not in known["here"] | known["in part"]:
            raise FileNotFoundError(name)
        folder = tmp_path / ("here" if name in known["here"] else "in part")
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").touch()
        if name in known["here"]:
            (folder / "model.safetensors").touch()
        return str(folder)

    def model_info(api, name, timeout):
        if name in known["slow"]:
            time.sleep(0.5)
        elif name not in known["there"]:
            raise OSError("no answer")

    weights = host.core("evaluation.weights")
    monkeypatch.setattr(weights, "ANSWERS_WITHIN", 0.1)
    monkeypatch.setattr(weights, "_answers", {})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return known


@pytest.fixture
def folders(host) -> Path:
    """Folders in the host's input, and one in its output; the host's input."""
    root = host.base / "input"
    for name in ("portraits", "winter", "sets/cats", "sets/dogs"):
        draw(root / f"queued {name}" / "a.png")
    draw(host.output / "queued renders" / "a.png")
    yield root
    for path in (*root.glob("queued *"), host.output / "queued renders"):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)


def test_a_missing_folder_is_told_once_with_those_that_are_there(host, folders):
    words = said(host, "SePPOLoadWinners", folder="queued wintre", location="input")
    assert words.startswith("there is no folder 'queued wintre' inside")
    assert "There are: 'queued winter', " in words and "Take one of these" in words
    words = said(host, "SePPOLoadWinners", folder="queued sets/dog")
    assert "There are: 'queued sets/dogs', 'queued sets/cats'. Take one of these" in words


def test_a_folder_of_another_location_is_found_there(host, folders):
    words = said(host, "SePPOLoadWinners", folder="queued renders", location="input")
    assert words.endswith("There is one in output: choose location 'output'")
    assert not errors_of(host, "SePPOLoadWinners", folder="queued renders", location="output")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_folder_that_is_a_link_is_told_as_one(host, folders, tmp_path):
    (folders / "queued out").symlink_to(tmp_path)
    (folders / "queued dead").symlink_to("gone")
    assert "a link leads out of there" in said(host, "SePPOLoadWinners", folder="queued out")
    assert "is a link that leads to nothing" in said(host, "SePPOLoadWinners", folder="queued dead")


@pytest.mark.parametrize(
    ("class_type", "inputs", "words"),
    [
        ("SePPOScore", {"scorer": "pickscore", "weights": "none"}, "Get all of yuvalkirstain"),
        ("SePPOScore", {"weights": "hub:somebody/else"}, "graphs may ask for hub:"),
        ("SePPOScore", {"weights": HUB}, "write one prompt for all"),
        ("SePPOCompare", {"scorers": "aesthetic=none", "run": LINK}, "sac+logos"),
        ("SePPOCompare", {}, "connect a `run`"),
        ("SePPOCompare", {"prompts": " ", "run": LINK}, "write at least one"),
        ("SePPOSaveAligned", {"format": "checkpoint"}, "connect it to `model`"),
        ("SePPOSaveAligned", {"filename_prefix": "../x"}, "must be a path inside"),
        ("SePPOTestPrompts", {"prompts": ""}, "write 1 to 16 prompts"),
        ("SePPOWinnersFromImages", {"captions": " "}, "type what is to be seen"),
        ("SePPOWinnersFromVideos", {"captions": ""}, "type what is to be seen"),
        ("SePPOEncodeWinners", {"background": "whit"}, "unknown background 'whit'"),
        ("SePPOOptimizerSettings", {"pattern": "("}, "is not a regular expression"),
        ("SePPOLoadRun", {"run_name": "no_such"}, "there is no run 'no_such'"),
        ("SePPOTrain", {"run_name": "a/b"}, "is not a usable name"),
    ],
)
def test_what_a_node_will_need_at_its_end_is_asked_for_at_once(host, class_type, inputs, words):
    assert words in said(host, class_type, **inputs)


@pytest.mark.parametrize("name", ["lion", "adamw_8bit"])
def test_an_optimizer_whose_package_is_missing_is_refused(host, monkeypatch, name):
    monkeypatch.setattr(host.core("training.optim"), "find_spec", lambda module: None)
    words = said(host, "SePPOOptimizerSettings", optimizer=name)
    assert words.startswith(f"optimizer '{name}' needs the package")


@pytest.mark.parametrize("class_type", ["SePPOCurves", "SePPOAnchorPreview"])
def test_pictures_of_numbers_are_refused_without_matplotlib(host, monkeypatch, class_type):
    monkeypatch.setattr(host.module("nodes.preview"), "find_spec", lambda module: None)
    assert "pip install matplotlib" in said(host, class_type)


@pytest.mark.parametrize("class_type", ["SePPOTrain", "SePPOSaveAligned", "SePPOEncodeWinners"])
def test_folders_that_cannot_be_written_are_told(host, monkeypatch, class_type):
    """The check asks the system, which tells an administrator that all can be written."""
    monkeypatch.setattr(host.core("training.continuation").os, "access", lambda *_: False)
    assert "cannot be written" in said(host, class_type)


@pytest.mark.parametrize(
    ("name", "other", "settings"),
    [
        ("references", "SePPOReferenceSettings", {"guidance_scale": 7.0}),
        ("tests", "SePPOTestPrompts", {"guidance": 7.0, "prompts": "a fox"}),
    ],
)
def test_guidance_without_a_negative_is_told_before_anything_is_encoded(
    host, name, other, settings
):
    inputs = complete(host, other) | settings
    graph = {"others": {"other": {"class_type": other, "inputs": inputs}}, name: ["other", 0]}
    for preset in ("indicator", "custom", "sft"):  # sft draws previews
        words = said(host, "SePPOTrain", preset=preset, **graph)
        assert "has guidance 7, which needs a negative prompt" in words
        assert not errors_of(host, "SePPOTrain", preset=preset, **graph, negative=LINK)


def test_pairs_without_losing_images_are_told_before_anything_is_encoded(host):
    def with_dataset(class_type, **inputs):
        dataset = {"class_type": class_type, "inputs": complete(host, class_type) | inputs}
        return {"preset": "dpo", "others": {"data": dataset}, "dataset": ["data", 0]}

    def with_winners(class_type, **inputs):
        graph = with_dataset("SePPOEncodeWinners", winners=["edit", 0])
        edit = {"class_type": "SePPOEditCaptions", "inputs": {"winners": ["winners", 0]}}
        winners = {"class_type": class_type, "inputs": complete(host, class_type) | inputs}
        return {**graph, "others": {**graph["others"], "edit": edit, "winners": winners}}

    def asks_for_losers(graph):
        found = errors_of(host, "SePPOTrain", **graph)
        return any("needs a losing image for every winner" in error["details"] for error in found)

    for graph in (
        with_dataset("SePPODatasetFromLatents"),
        with_winners("SePPOWinnersFromImages"),
        with_winners("SePPOWinnersFromVideos"),
    ):
        assert asks_for_losers(graph), graph
    for graph in (
        with_dataset("SePPODatasetFromLatents", losing_latents=LINK),
        with_winners("SePPOWinnersFromImages", losing_images=LINK),
        with_winners("SePPOLoadWinners"),
        with_winners("SePPOPickWinners"),
        with_dataset("SePPOEncodeWinners", winners=["data", 0]),  # a circle, which the host refuses
        {"preset": "dpo"},  # of somebody's own node
    ):
        assert not asks_for_losers(graph), graph


def test_weights_that_the_hub_does_not_have_are_told_before_anything_is_trained(host, hub):
    inputs = {"weights": HUB, "prompts": "a fox"}
    assert not errors_of(host, "SePPOScore", **inputs)
    (name,) = hub["in part"] = hub["here"]
    hub["here"] = set()
    assert "cannot be fetched (no answer)" in said(host, "SePPOScore", **inputs)
    hub["slow"] = {name}
    assert "cannot be fetched (the hub does not answer" in said(host, "SePPOScore", **inputs)
    time.sleep(0.6)  # its answer has come
    assert not errors_of(host, "SePPOScore", **inputs)
    hub["slow"], hub["in part"] = set(), set()
    assert not errors_of(host, "SePPOScore", **inputs)  # it is not asked again so soon


def test_a_lora_for_diffusers_needs_the_base_if_the_run_is_trained_here(host):
    train = {"train": {"class_type": "SePPOTrain", "inputs": complete(host, "SePPOTrain")}}
    save = {"format": "diffusers", "run": ["train", 3], "others": train}
    assert "connect it to `model`" in said(host, "SePPOSaveAligned", **save)
    assert not errors_of(host, "SePPOSaveAligned", **save, model=LINK)


def test_nodes_with_their_defaults_are_refused_for_good_reasons_alone(host, folders):
    if not (folders / "winners").exists():
        draw(folders / "winners" / "a.png")
    fine = {
        "SePPOScore": {"weights": HUB, "prompts": "a fox"},
        "SePPOCompare": {"run": LINK},
        "SePPOWinnersFromImages": {"captions": LINK},
        "SePPOWinnersFromVideos": {"captions": LINK},
    }
    refused = {"SePPOLoadRun", "SePPOPickWinners", "SePPOTestPrompts"}  # no run, set or prompt yet
    for node in host.module("nodes").NODES:
        class_type = node.GET_SCHEMA().node_id
        found = errors_of(host, class_type, **fine.get(class_type, {}))
        assert len(found) == (class_type in refused), (class_type, found)


def test_errors_are_shown_by_their_name_alone(host, folders):
    import execution

    errors, winners = host.core("errors"), host.core("data.winners")
    for error in (errors.SePPOError, errors.ConfigError, winners.NothingUsableError):
        assert execution.full_type_name(error) == error.__name__
    (folders / "queued empty").mkdir()
    inputs = {"folder": "queued empty", "caption": ""}
    graph = {"1": {"class_type": "SePPOLoadWinners", "inputs": inputs}}
    with pytest.raises(GraphError, match=r"\(node 1\): DatasetError: queued empty: no usable"):
        host.run_graph(graph, wanted=["1"])


def test_an_open_socket_is_told_in_the_hosts_own_words(host):
    """Whatever a check reads, it must not end in an error of Python's where nothing is given."""
    import nodes

    ours = [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("SePPO")]
    for class_type in (
        name for name in ours if not name.startswith("SePPOTest") or "Prompts" in name
    ):
        required = [*complete(host, class_type)]
        if not required:
            continue
        found = errors_with(host, class_type, {})
        assert [e["type"] for e in found] == ["required_input_missing"] * len(required), class_type


def test_every_optimizer_passes_that_is_installed(host):
    for name in host.core("training.optim").OPTIMIZERS:
        found = [
            error["details"] for error in errors_of(host, "SePPOOptimizerSettings", optimizer=name)
        ]
        assert all("needs the package" in words for words in found), (name, found)


def test_a_graph_that_comes_by_another_way_is_not_judged_by_the_one_before(host, folders):
    import execution

    graph = {
        "node": {"class_type": "SePPOLoadWinners", "inputs": complete(host, "SePPOLoadWinners")}
    }
    graph["node"]["inputs"] |= {"folder": "queued renders", "location": "output"}

    async def queue() -> tuple:
        host.server().trigger_on_prompt({"prompt": {}})
        return await execution.validate_inputs("prompt", graph, "node", {})

    assert asyncio.run(queue())[1] == []
