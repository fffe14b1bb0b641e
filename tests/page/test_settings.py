"""The section SePPO of the host's settings: what it offers, and what new and loaded nodes make of it."""

from __future__ import annotations

import json

import pytest
from inprocess import PACK

DEFAULTS = {
    "SePPO.Train.preset": "indicator",
    "SePPO.Train.steps": 200,
    "SePPO.Train.learning_rate": 0.0001,
    "SePPO.Train.rank": 16,
    "SePPO.Runs.preview_every": 10,
    "SePPO.Runs.folder": "seppo",
}
CHOSEN = {
    "SePPO.Train.preset": "sft",
    "SePPO.Train.steps": 321,
    "SePPO.Train.learning_rate": 0.000025,
    "SePPO.Train.rank": 8,
    "SePPO.Runs.preview_every": 7,
}
NEW_NODES = """() => {
    const values = {};
    for (const kind of ["SePPOTrain", "SePPOOptimizerSettings"]) {
        const node = LiteGraph.createNode(kind);
        window.app.graph.add(node);
        for (const widget of node.widgets) values[widget.name] ??= widget.value;
    }
    const { preset, steps, learning_rate, rank, preview_every } = values;
    return [preset, steps, learning_rate, rank, preview_every];
}"""
TRAIN_VALUES = """() => {
    const node = window.app.graph.nodes.find((node) => node.comfyClass === "SePPOTrain");
    return Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value]));
}"""


@pytest.fixture
def untouched(server):
    """The settings as the pack brings them, before and after."""
    server.post("/settings", DEFAULTS)
    yield
    server.post("/settings", {**DEFAULTS, "Comfy.Locale": "en"})


def set_all(page) -> None:
    page.ask(
        """async (chosen) => {
            for (const [id, value] of Object.entries(chosen)) await window.app.extensionManager.setting.set(id, value);
        }""",
        CHOSEN,
    )


def test_new_nodes_begin_with_what_was_chosen_and_after_a_reload_too(open_page, untouched):
    page = open_page()
    assert page.ask(NEW_NODES) == list(DEFAULTS.values())[:5]
    set_all(page)
    assert page.ask(NEW_NODES) == list(CHOSEN.values())
    page.reload()
    assert page.ask(NEW_NODES) == list(CHOSEN.values())


def test_a_loaded_graph_keeps_its_own_values(open_page, untouched):
    page = open_page()
    set_all(page)
    graph = json.loads((PACK / "workflows" / "align_sd15_from_folder.json").read_text("utf-8"))
    page.ask("graph => window.app.loadGraphData(graph)", graph)
    assert page.ask(TRAIN_VALUES) | {"steps": 200, "rank": 16} == page.ask(TRAIN_VALUES)
    assert page.ask(TRAIN_VALUES)["preset"] == "indicator"
    saved = page.ask("() => window.app.graph.serialize()")
    page.ask("graph => window.app.loadGraphData(graph)", saved)
    assert page.ask(TRAIN_VALUES)["learning_rate"] == 0.0001


def test_the_settings_dialog_shows_the_section_in_both_languages(
    open_page, server, untouched, light
):
    chinese = json.loads((PACK / "locales" / "zh" / "settings.json").read_text("utf-8"))
    assert set(chinese) == {name.replace(".", "_") for name in DEFAULTS}
    for language, words in (
        ("en", ["Learning rate", "Run folder", "Preview interval", "Defaults of new nodes"]),
        ("zh", ["新节点的默认值", *(said["name"] for said in chinese.values())]),
    ):
        server.post("/settings", {"Comfy.Locale": language})
        page = open_page(light=light)
        page.ask("() => window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
        page.tab.get_by_text("SePPO", exact=True).first.click()
        page.wait_for(
            "words => words.every((word) => document.body.innerText.includes(word))", words
        )
        page.shot(f"settings-{language}-{'light' if light else 'dark'}")


def test_what_the_page_stores_is_what_the_server_reads(open_page, server, base, untouched):
    page = open_page()
    page.ask("() => window.app.extensionManager.setting.set('SePPO.Runs.folder', 'my experiments')")
    file = base / "user" / "default" / "comfy.settings.json"
    server.until(
        lambda: (
            json.loads(file.read_text("utf-8") or "{}").get("SePPO.Runs.folder") == "my experiments"
        ),
        30,
        "the setting is stored",
    )
