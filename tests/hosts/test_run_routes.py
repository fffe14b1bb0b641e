"""What the page is told of runs over HTTP, and what it is not."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request

import pytest
import torch
from filelock import FileLock
from graphs import FOLDER, draw_winners, node, training
from safetensors.torch import load_file

NAME = "routes"


@pytest.fixture(scope="module")
def trained(http_host, base, checkpoint):
    """A run of three steps."""
    if not (base / "input" / FOLDER).exists():
        draw_winners(base / "input" / FOLDER)
    http_host.run_graph(training(checkpoint, NAME, steps=3))
    return base / "output" / "seppo" / NAME


def status(http_host, route: str, **headers: str) -> int:
    request = urllib.request.Request(http_host.url + route, headers=headers)
    if headers:
        request.method = "POST"
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_run_is_listed_with_its_settings(http_host, trained):
    (run,) = [run for run in http_host.get("/seppo/runs") if run["name"] == NAME]
    assert (run["step"], run["steps"], run["training"], run["state"]) == (3, 3, False, "done")
    assert run["settings"]["lora.rank"] == 4 and run["settings"]["loss.criterion"] == "sign"
    assert run["snapshots"] == [2]


def test_all_that_is_shown_of_a_run_comes_at_once(http_host, trained):
    run = http_host.get(f"/seppo/runs/{NAME}")
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    for name, column in run["metrics"].items():
        assert column == [line[name] for line in lines]
    assert [line["step"] for line in run["samples"]] == [1, 2, 3]
    assert {line["role"] for line in run["samples"]} <= {-1.0, 0.0, 1.0}
    assert sum(looked for looked, _ in run["cells"].values()) == 3
    file = run["samples"][0]["file"]
    assert status(http_host, f"/seppo/runs/{NAME}/pictures/{file}") == 200


def test_a_run_with_a_damaged_line_is_shown_without_it(http_host, trained):
    path = trained / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('{"step": 2', '{"st', 1))
    try:
        assert http_host.get(f"/seppo/runs/{NAME}")["metrics"]["step"] == [1, 3]
    finally:
        path.write_text(whole)


@pytest.mark.parametrize(
    "route",
    [
        "/seppo/runs/none",
        "/seppo/runs/..",
        "/seppo/runs/%2e%2e%2finput",
        "/seppo/runs/.cache",
        f"/seppo/runs/{NAME}/pictures/none.webp",
        f"/seppo/runs/{NAME}/pictures/about.json",
        f"/seppo/runs/{NAME}/pictures/..%2frun.json",
        f"/seppo/runs/{NAME}/pictures/%2e%2e%2frun.json",
    ],
)
def test_nothing_else_can_be_asked_for(http_host, trained, route):
    assert status(http_host, route) == 404


def test_pages_of_other_sites_cannot_stop_a_run(http_host, trained):
    route = f"/seppo/runs/{NAME}/stop"
    assert status(http_host, route, Origin="http://example.com") == 403
    assert status(http_host, route, Origin=http_host.url) == 409  # not in training


def test_drawing_test_prompts_changes_nothing_of_the_training(http_host, trained, checkpoint):
    prompt = training(checkpoint, "routes_probed", steps=3)
    prompt["tests"] = node(
        "SePPOTestPrompts",
        clip=["base", 1],
        latent=["size", 0],
        prompts="a crimson disc",
        every=1,
        seed=0,
        sampling_steps=2,
        guidance=1.0,
        sampler="euler_ancestral",
        scheduler="normal",
    )
    prompt["train"]["inputs"]["tests"] = ["tests", 0]
    http_host.run_graph(prompt)
    probed = trained.with_name("routes_probed")
    assert [one["step"] for one in http_host.get("/seppo/runs/routes_probed")["tests"]] == [
        0,
        1,
        2,
        3,
    ]
    (before,), (after,) = (
        sorted(run.glob("weights/*.safetensors"))[-1:] for run in (trained, probed)
    )
    a, b = load_file(before), load_file(after)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_whose_process_was_killed_is_not_in_training(http_host, trained):
    owner = trained / "run.owner"
    owner.write_text(str(2**22 + 1))  # no process has it: Linux ends at 2**22
    try:
        run = http_host.get(f"/seppo/runs/{NAME}")
        assert (run["training"], run["state"]) == (False, "done")
        assert status(http_host, f"/seppo/runs/{NAME}/stop", Origin=http_host.url) == 409
        owner.write_text(str(http_host.process.pid))  # the server's own, which trains nothing
        assert http_host.get(f"/seppo/runs/{NAME}")["training"] is False
    finally:
        owner.unlink()


def test_the_list_says_of_a_run_that_another_process_has_what_its_panel_says(http_host, trained):
    kept = trained / ".album" / "about.json"
    before = kept.read_text()
    kept.write_text(json.dumps(json.loads(before) | {"panel": "taken"}))
    with FileLock(trained / "run.lock"):
        (trained / "run.owner").write_text(str(os.getpid()))
        listed = next(run for run in http_host.get("/seppo/runs") if run["name"] == NAME)
        shown = http_host.get("/seppo/panels?panel=taken")["taken"]
    (trained / "run.owner").unlink()
    kept.write_text(before)
    assert (listed["state"], shown["run"], shown["passing"]) == ("elsewhere", NAME, True)
    assert listed["text"] == shown["text"]
    assert f"another process has it at step 3 of 3 (process {os.getpid()})" in listed["text"]
    assert listed["actions"] == ["stop"]


def test_an_odd_folder_beside_the_runs_keeps_no_panel_from_its_own(http_host, trained, tmp_path):
    kept = trained / ".album" / "about.json"
    before = kept.read_text()
    kept.write_text(json.dumps(json.loads(before) | {"panel": "beside"}))
    odd = [trained.parent / name for name in ("a_link_inside", "a:b")]
    for folder in odd:
        folder.mkdir()
        (folder / "run.json").write_text("{}")
    (odd[0] / "pool").symlink_to(tmp_path)
    shown = http_host.get("/seppo/panels?panel=beside")["beside"]
    kept.write_text(before)
    for folder in odd:
        shutil.rmtree(folder)
    assert (shown["run"], shown["state"]) == (NAME, "done")


def test_a_name_with_braces_is_a_name(http_host, trained, checkpoint):
    http_host.run_graph(training(checkpoint, "fox {v2}", steps=1))
    assert http_host.get("/seppo/runs/fox%20%7Bv2%7D")["step"] == 1


def train_node(number: int, panel: str) -> dict:
    return {"id": number, "type": "SePPOTrain", "properties": {"seppo_panel": panel}}


def test_a_panel_is_found_in_the_graph_and_in_the_right_subgraph(host):
    panel_of = host.module("nodes.workflow").panel_of
    inner = {"id": "inner", "nodes": [train_node(1, "deep")]}
    first = {"id": "first", "nodes": [train_node(1, "one")]}
    second = {"id": "second", "nodes": [train_node(1, "two"), {"id": 2, "type": "inner"}]}
    workflow = {
        "nodes": [train_node(1, "top"), {"id": 4, "type": "first"}, {"id": "5", "type": "second"}],
        "definitions": {"subgraphs": [inner, first, second]},
    }
    found = {
        node: panel_of(workflow, node) for node in ("1", "4:1", "5:1", "5:2:1", "4", "4:9", "7:1")
    }
    assert found == {
        **{"1": "top", "4:1": "one", "5:1": "two", "5:2:1": "deep"},
        **{"4": "", "4:9": "", "7:1": ""},
    }


@pytest.mark.parametrize(
    "workflow",
    [None, [], {}, {"nodes": None}, {"nodes": [None, 3]}, {"definitions": []}]
    + [{"nodes": [{"id": 4}], "definitions": {"subgraphs": [None]}}]
    + [{"nodes": [{"id": 1, "type": "SePPOTrain", "properties": []}]}],
)
def test_what_is_no_workflow_has_no_panel(host, workflow):
    panel_of = host.module("nodes.workflow").panel_of
    assert [panel_of(workflow, node) for node in ("1", "4:1")] == ["", ""]


@pytest.mark.parametrize("extra", [{}, {"extra_pnginfo": []}, {"extra_pnginfo": {"workflow": 3}}])
def test_a_queued_graph_of_no_page_has_no_panel(host, extra):
    prompt = {"1": {"class_type": "SePPOTrain", "inputs": {"model": [["x"], 0], "run_name": "a"}}}
    panels = host.module("nodes.panels")
    assert list(panels.nodes_of("one", prompt, extra, ["1"])) == []
    shown = {"extra_pnginfo": {"workflow": {"nodes": [train_node(1, "one")]}}}
    assert list(panels.nodes_of("one", prompt, shown, ["1"])) == ["1"]
    assert panels.turn("no such prompt", prompt, "1").text == "waiting (for the nodes before it)"


def test_a_graph_that_does_not_come_to_a_node_leaves_its_panel_alone(host):
    """The host queues what is left of a graph whose training node it refused, or was not asked for."""
    prompt = {
        "train": node("SePPOTrain"),
        "curves": node("SePPOCurves", run=["train", 3]),
        "picture": node("SaveImage"),
    }
    shown = {"extra_pnginfo": {"workflow": {"nodes": [train_node("train", "one")]}}}
    nodes_of = host.module("nodes.panels").nodes_of
    assert list(nodes_of("one", prompt, shown, ["picture"])) == []
    assert list(nodes_of("one", prompt, shown, ["curves", "picture"])) == ["train"]


def test_a_node_that_waits_is_told_from_one_that_had_its_turn(host):
    from comfy_execution.graph import DynamicPrompt
    from comfy_execution.progress import get_progress_state, reset_progress_state

    prompt = {
        "winners": node("SePPOLoadWinners"),
        "dataset": node("SePPOEncodeWinners", winners=["winners", 0]),
        "other": node("SePPOEncodeWinners", winners=["winners", 0]),
        "train": node("SePPOTrain", dataset=["dataset", 0], mixed=[1, 2]),
    }
    turn = host.module("nodes.panels").turn

    def told() -> str:
        status = turn("this", prompt, "train")
        assert status is None or "stop" not in status.actions  # there is no run that could
        return status.text if status else "none"

    reset_progress_state("this", DynamicPrompt(prompt))
    progress = get_progress_state()
    assert told() == "waiting (for the nodes before it)"
    progress.start_progress("other")  # encodes for another node
    assert told() == "waiting (for the nodes before it)"
    progress.start_progress("dataset")
    assert told() == "encoding winners"
    progress.update_progress("dataset", 12, 120)
    assert told() == "encoding winners (10%)"
    progress.finish_progress("dataset")
    assert told() == "training (getting ready)"  # never back to waiting
    progress.start_progress("train")
    assert told() == "training (getting ready)"
    progress.finish_progress("train")
    assert told() == "none"
    assert turn("the next", prompt, "train").state == "waiting"
