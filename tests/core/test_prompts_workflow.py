"""Prompts from graphs as ComfyUI's editor saves them, for files that carry no other."""

import io
import json
import random
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from seppo_core.data.generation import Generation, NoPromptError
from seppo_core.data.graphs import api_graph, generation_of
from seppo_core.data.prompts import read_generation

Workflow = dict[str, Any]


def widget(name: str, link: int | None = None) -> dict[str, Any]:
    return {"name": name, "type": "STRING", "widget": {"name": name}, "link": link}


def linked(name: str, link: int | None, kind: str = "CONDITIONING") -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link}


def node(key: int, kind: str, inputs: list[dict], values: Any = None, **more: Any) -> dict:
    return {"id": key, "type": kind, "inputs": inputs, "widgets_values": values, "mode": 0, **more}


def workflow(*replaced: dict, links: tuple = (), **more: Any) -> Workflow:
    """The host's default graph, of the time when widgets had no names."""
    nodes = [
        node(1, "CheckpointLoaderSimple", [], ["sd15.safetensors"]),
        node(2, "CLIPTextEncode", [linked("clip", 1, "CLIP")], ["a red fox"]),
        node(3, "CLIPTextEncode", [linked("clip", 2, "CLIP")], ["blurry"]),
        node(
            *(4, "KSampler", [linked("model", 3), linked("positive", 4), linked("negative", 5)]),
            [7, "randomize", 20, 8, "euler", "normal", 1],
        ),
        node(5, "VAEDecode", [linked("samples", 6, "LATENT")], []),
        node(6, "SaveImage", [linked("images", 7, "IMAGE")], ["ComfyUI"]),
    ]
    every = [[1, 1, 1, 2, 0, "CLIP"], [2, 1, 1, 3, 0, "CLIP"], [3, 1, 0, 4, 0, "MODEL"]]
    every += [
        [4, 2, 0, 4, 1, "C"],
        [5, 3, 0, 4, 2, "C"],
        [6, 4, 0, 5, 0, "L"],
        [7, 5, 0, 6, 0, "I"],
    ]
    kept = {item["id"]: item for item in [*nodes, *replaced]}
    return {"nodes": [*kept.values()], "links": [*every, *map(list, links)], **more}


def read(values: Any) -> Generation:
    return generation_of(api_graph(values), "ComfyUI_00001_.png")


TOLD = Generation("a red fox", "blurry", 7, 20, 8, "euler", "normal", "sd15.safetensors")


def test_default_graph_with_values_that_have_no_names():
    assert read(workflow()) == TOLD


def test_file_that_carries_the_editors_graph_alone():
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", json.dumps(workflow()))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    assert read_generation(file, "ComfyUI_00001_.png") == TOLD


def test_widgets_named_among_the_inputs():
    inputs = [widget("seed"), widget("thing"), widget("wording"), linked("clip", 1, "CLIP")]
    named = node(2, "NewTextEncode", inputs, [3, "fixed", "x", "a red fox"])
    named["inputs"][1]["name"] = named["inputs"][1]["widget"]["name"] = "mode"
    assert read(workflow(named)).prompt == "a red fox"


def test_values_with_names_of_their_own():
    for values in (
        {"widgets_values": {"text": "a fox"}},
        {"widgets_values_named": {"text": "a fox"}},
    ):
        assert read(workflow(node(2, "Other", [linked("clip", 1)]) | values)).prompt == "a fox"


def test_a_sentence_is_the_text_of_an_unknown_node():
    unknown = node(2, "Other", [linked("clip", 1)], [0.5, "normal", "a fox runs over snow"])
    assert read(workflow(unknown)).prompt == "a fox runs over snow"


def test_link_counts_more_than_the_value_a_widget_had():
    text = node(2, "CLIPTextEncode", [linked("clip", 1), widget("text", 8)], ["old words"])
    source = node(8, "PrimitiveNode", [], ["a fox", "fixed"])
    assert read(workflow(text, source, links=[(8, 8, 0, 2, 1, "STRING")])).prompt == "a fox"


def test_reroutes_and_named_hand_overs_are_followed():
    reroute = node(8, "Reroute", [linked("", 8, "*")])
    put = node(9, "SetNode", [linked("value", 9, "*")], ["my conditioning"])
    get = node(10, "GetNode", [], ["my conditioning"])
    links = ((8, 2, 0, 8, 0, "*"), (9, 8, 0, 9, 0, "*"), (10, 10, 0, 4, 1, "*"))
    graph = workflow(reroute, put, get, links=links)
    graph["nodes"][3]["inputs"][1]["link"] = 10
    assert read(graph) == TOLD


def between(mode: int) -> Workflow:
    middle = node(
        8, "ConditioningZeroOut", [linked("conditioning", 8)], mode=mode,
        outputs=[{"name": "CONDITIONING", "type": "CONDITIONING"}],
    )  # fmt: skip
    graph = workflow(middle, links=((8, 2, 0, 8, 0, "C"), (9, 8, 0, 4, 1, "C")))
    graph["nodes"][3]["inputs"][1]["link"] = 9
    return graph


def test_bypassed_node_hands_on_what_it_gets_and_a_muted_one_is_not_there():
    with pytest.raises(NoPromptError, match="its prompt is empty"):
        read(between(mode=0))
    assert read(between(mode=4)) == TOLD
    with pytest.raises(NoPromptError):
        read(between(mode=2))


def subgraph(key: str, nodes: list, links: list, inputs: list[str]) -> dict[str, Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": key,
        "nodes": nodes,
        "links": [dict(zip(names, link, strict=True)) for link in links],
        "inputs": [{"name": name, "type": "STRING"} for name in inputs],
    }


ENCODER = subgraph(
    "enc",
    [node(1, "CLIPTextEncode", [widget("text", 1)], ["words inside"])],
    [(1, -10, 0, 1, 0), (2, 1, 0, -20, 0)],
    ["words"],
)
OUTER = subgraph(
    "outer",
    [node(5, "enc", [widget("words", 1)], [])],
    [(1, -10, 0, 5, 0), (2, 5, 0, -20, 0)],
    ["phrase"],
)


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (node(2, "enc", [widget("words")], ["words outside"]), "words outside"),
        (node(2, "enc", [], ["words outside"]), "words outside"),
        (node(2, "enc", [widget("words")], []), "words inside"),
        (node(2, "enc", [widget("words", 8)], []), "words from a node"),
        (node(2, "outer", [widget("phrase")], ["from far outside"]), "from far outside"),
        (node(2, "outer", [], []), "words inside"),
    ],
)
def test_text_through_subgraphs(use, text):
    source = node(8, "PrimitiveString", [], ["words from a node"])
    graph = workflow(use, source, links=((8, 8, 0, 2, 0, "STRING"),))
    assert read(graph | {"definitions": {"subgraphs": [ENCODER, OUTER]}}).prompt == text


def test_nodes_within_subgraphs_are_named_as_the_host_names_them():
    assert "2:5:1" in api_graph(
        workflow(node(2, "outer", [])) | {"definitions": {"subgraphs": [ENCODER, OUTER]}}
    )


def test_subgraphs_that_hold_themselves_end_with_a_reason():
    for uses in (1, 3):
        own = subgraph("own", [node(i, "own", []) for i in range(uses)], [], [])
        with pytest.raises(NoPromptError, match="too many nodes or subgraphs"):
            read(workflow(node(2, "own", []), definitions={"subgraphs": [own]}))
    row = [
        subgraph(f"s{i}", [node(j, f"s{i + 1}", []) for j in (1, 2, 3)], [], []) for i in range(19)
    ]
    with pytest.raises(NoPromptError, match="too many nodes or subgraphs"):
        read(workflow(node(2, "s0", []), definitions={"subgraphs": row}))


@pytest.mark.parametrize("values", [None, [], {}, {"nodes": 3}, {"nodes": {}, "links": []}, "text"])
def test_what_is_no_workflow_is_told(values):
    with pytest.raises(NoPromptError, match="no workflow of ComfyUI"):
        read(values)


def spoil(value: Any, rng: random.Random) -> Any:
    """The same value with some parts replaced by what does not belong there."""
    if rng.random() < 0.02:
        return rng.choice([None, [], {}, "", "9", -1, 1.5, True, [2, 0], [[]], 10**40, "outer", 4])
    if isinstance(value, dict):
        return {key: spoil(item, rng) for key, item in value.items()}
    if isinstance(value, list):
        return [spoil(item, rng) for item in value]
    return value


def test_workflows_spoiled_at_random_end_in_a_text_or_a_reason():
    rng = random.Random(0)
    nested = workflow(
        node(2, "outer", [widget("phrase")], ["a fox"]),
        definitions={"subgraphs": [ENCODER, OUTER]},
    )
    outcomes = set()
    for _ in range(500):
        for graph in (workflow(), nested, between(mode=4)):
            try:
                outcomes.add(bool(read(spoil(graph, rng)).prompt))
            except NoPromptError as error:
                outcomes.add(str(error)[:10])
    assert True in outcomes and False not in outcomes and len(outcomes) > 3
