"""Odd values in the widgets of our nodes, queued over HTTP: an answer each time, and a server that lives on."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from graphs import draw_winners, node, widgets
from hostile import MARKER, Bait, attacks, tidied
from over_http import HttpHost

LONG = os.environ.get("SEPPO_RELIABILITY") == "long"
THOROUGH = os.environ.get("SEPPO_TESTS") == "all"
PROMPTS = 1500 if LONG else 60 if THOROUGH else 12
SEED = int(time.time()) if LONG else 0
FOLDER, RUN, SET = "fuzz_winners", "fuzz_run", "fuzz_set"

ODD_NUMBERS = [
    *(-1, 0, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, 1e-320, math.nan, math.inf),
    *(True, None, "1", "", [], {}, [1, 2], "NaN", "0x10"),
]
ODD_VALUES = [None, 0, -1, True, [], {}, [[]], {"a": 1}, ["x", 0], ["1", 99], "x" * 5_000]


def graph(checkpoint: str) -> dict[str, Any]:
    """Every node that can follow the others without a video model, with small settings."""
    return {
        "base": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "load": node("SePPOLoadWinners", folder=FOLDER, caption="a disc"),
        "edit": node("SePPOEditCaptions", winners=["load", 0]),
        "encode": node(
            "SePPOEncodeWinners",
            winners=["edit", 0],
            vae=["base", 2],
            clip=["base", 1],
            resolution=64,
        ),
        "references": node("SePPOReferenceSettings", sampling_steps=1, snapshot_every=1),
        "optimizer": node("SePPOOptimizerSettings"),
        "train": node(
            "SePPOTrain",
            **{
                "model": ["base", 0],
                "dataset": ["encode", 0],
                "run_name": RUN,
                "steps": 1,
                "rank": 2,
            },
            **{"references": ["references", 0], "optimizer": ["optimizer", 0]},
        ),
        "preview": node(
            "SePPOAnchorPreview",
            **{"model": ["base", 0], "dataset": ["encode", 0], "run": ["train", 3]},
            **{"winners": 1, "levels": 2, "draws": 1, "draw_samples": False},
        ),
        "curves": node("SePPOCurves", run=["train", 3]),
        "save": node("SePPOSaveAligned", run=["train", 3], filename_prefix="fuzz"),
        "found": node("SePPOLoadRun", run_name=RUN),
        "pick": node("SePPOPickWinners", set_name=SET),
        "sheet": node("PreviewImage", images=["pick", 1]),
    }


def filled(prompt: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """With the default of every widget that the graph does not set."""
    for entry in prompt.values():
        for one in widgets(definitions[entry["class_type"]]):
            entry["inputs"].setdefault(one.name, one.default)
    return prompt


EXPENSIVE = {
    "steps",
    "draws",
    "winners",
    "levels",
    "resolution",
    "rank",
    "sampling_steps",
    "frames",
}
"""Widgets whose large values are allowed and only take long: they get values out of range alone."""


def odd_value(draw: random.Random, name: str, strings: list[str], is_text: bool) -> Any:
    if is_text and draw.random() < 0.8:
        return draw.choice(strings)
    values = ODD_NUMBERS if draw.random() < 0.7 else ODD_VALUES
    value = draw.choice(values)
    return -7 if name in EXPENSIVE and isinstance(value, int | float) else value


def answer(server: HttpHost, prompt: dict[str, Any]) -> str:
    """What the user would read: an error of the graph, of its run, or nothing."""
    try:
        prompt_id = server.queue(prompt)
    except RuntimeError as error:
        return str(error)
    messages = server.finish(prompt_id, 120)["status"]["messages"]
    failed = [data for event, data in messages if event == "execution_error"]
    return f"{failed[0]['exception_type']}: {failed[0]['exception_message']}" if failed else ""


def fault(text: str, ours: set[str]) -> str:
    """What is wrong with an answer; empty if nothing."""
    if MARKER in text or "Traceback" in text:
        return "tells what it should not"
    if text.startswith("POST /prompt: 400 ") or not text:
        return ""
    if text.startswith("POST"):
        return "the server failed"
    kind = text.partition(": ")[0].rpartition(".")[2]
    return "" if kind in ours else f"an error of another kind, {kind}"


@pytest.fixture
def folder(base, http_host) -> Iterator[None]:
    with tidied(base):
        draw_winners(base / "input" / FOLDER)
        marked = [f"input/{FOLDER}/{path.name}" for path in (base / "input" / FOLDER).glob("*.png")]
        http_host.post(f"/seppo/sets/{SET}", {"add": marked})
        yield


@pytest.mark.thorough
def test_odd_widget_values_over_http_get_an_answer(
    http_host, host, base, folder, checkpoint, record_property
):
    definitions = http_host.get("/object_info")
    strings = attacks(Bait(base, base / "outside", frozenset()))
    draw = random.Random(SEED)
    plain = filled(graph(checkpoint), definitions)
    assert answer(http_host, plain) == ""
    ours = {name for name in dir(host.core("errors")) if name.endswith("Error")}
    places = [
        (key, one)
        for key, entry in plain.items()
        if entry["class_type"].startswith("SePPO")
        for one in widgets(definitions[entry["class_type"]])
    ]
    wrong = []
    for number in range(PROMPTS):
        prompt = json.loads(json.dumps(plain))
        for key, one in draw.sample(places, draw.choice([1, 1, 1, 2, 4])):
            is_text = one.type == "STRING"
            prompt[key]["inputs"][one.name] = odd_value(draw, one.name, strings, is_text)
        text = answer(http_host, prompt)
        if problem := fault(text, ours):
            changed = {
                f"{key}.{name}": repr(value)[:80]
                for key, entry in prompt.items()
                for name, value in entry["inputs"].items()
                if value != plain[key]["inputs"][name]
            }
            wrong.append(f"prompt {number}: {problem}: {changed}: {text[:300]}")
    record_property("inputs fuzzed: widgets over HTTP", PROMPTS)
    assert not wrong, f"seed {SEED}, {len(wrong)}:\n" + "\n".join(wrong[:30])
    assert answer(http_host, plain) == ""
