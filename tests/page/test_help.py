"""Help, languages, templates and search of the host's page know the pack's nodes."""

from __future__ import annotations

import json

import pytest
from inprocess import PACK, PACK_FOLDER
from pages import IS_NEW, Page, appears

WORKFLOWS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
CHINESE = json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
ADD = """kind => {
    const { app } = window;
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    node.pos = [300, 200];
    app.graph.add(node);
    app.canvas.setDirty(true, true);
}"""
TITLE = """() => {
    const { app } = window;
    const box = app.canvasEl.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    return [box.left + (360 + offset[0]) * scale, box.top + (185 + offset[1]) * scale];
}"""
"""Where the added node's title is in the window."""


def open_help(page: Page, kind: str) -> None:
    """As a user does it: a click on the node, and one on the button that appears above it.

    Once more where the host put its first graph on the canvas after it had said that the page is ready.
    """
    button = page.tab.locator("[data-testid='info-button']")
    for _ in range(4):
        page.ask(ADD, kind)
        page.drawn()
        page.tab.mouse.click(*page.ask(TITLE))
        if appears(button):
            button.click()
            return
    pytest.fail("no help button came up above the selected node")


@pytest.fixture
def in_language(server, open_page):
    """Open a page in a language; the next one is English again."""

    def opened(language: str, light: bool = False):
        server.post("/settings", {"Comfy.Locale": language})
        return open_page(light=light)

    yield opened
    server.post("/settings", {"Comfy.Locale": "en"})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_of_a_node_shows_its_table_and_picture(in_language, language, light):
    page = in_language(language, light)
    open_help(page, "SePPOTrain")
    said = "Winners per batch." if language == "en" else "每批的优胜图像数。"
    page.wait_for(
        "said => [...document.querySelectorAll('td')].some((cell) => cell.textContent.startsWith(said))",
        said,
    )
    width = page.wait_for(
        """() => [...document.querySelectorAll("img")].find(
            (image) => image.src.includes("/docs/SePPOTrain/") && image.complete)?.naturalWidth"""
    )
    assert width > 300
    page.shot(f"help-{language}-{'light' if light else 'dark'}")


def test_a_language_without_pages_of_its_own_gets_the_english_ones(in_language):
    page = in_language("fr")
    open_help(page, "SePPOLoadRun")
    page.wait_for("() => document.body.textContent.includes('drawing curves and previewing')")


def test_chinese_page_names_nodes_widgets_and_sockets_in_chinese(in_language):
    page = in_language("zh")
    shown = page.ask(
        """() => {
            const node = LiteGraph.createNode("SePPOTrain");
            window.app.graph.add(node);
            return {
                title: node.title,
                widgets: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.label])),
                inputs: Object.fromEntries(node.inputs.map((slot) => [slot.name, slot.localized_name])),
                outputs: node.outputs.map((slot) => slot.localized_name),
            };
        }"""
    )
    expected = CHINESE["SePPOTrain"]
    names = {name: said["name"] for name, said in expected["inputs"].items()}
    assert shown["title"] == "SePPO 训练" == expected["display_name"]
    own = {name: label for name, label in shown["widgets"].items() if name in names}
    assert own["steps"] == "步数" and own == {name: names[name] for name in own}
    assert shown["inputs"] == {name: names[name] for name in shown["inputs"]}
    assert shown["outputs"] == [said["name"] for said in expected["outputs"].values()]
    page.shot("chinese")


def test_every_template_has_a_picture_and_loads_with_all_its_nodes(open_page):
    """The host marks the loader, for the checkpoint that a template names is not here."""
    page = open_page()
    offered = page.ask("async () => (await window.app.api.fetchApi('/workflow_templates')).json()")
    assert sorted(offered[PACK_FOLDER]) == WORKFLOWS
    for name in WORKFLOWS:
        found = page.ask(
            """async ([pack, name]) => {
                const at = (ending) => window.app.api.apiURL(`/workflow_templates/${pack}/${name}.${ending}`);
                const picture = new Image();
                picture.src = at("jpg");
                await picture.decode();
                const graph = await (await fetch(at("json"))).json();
                await window.app.loadGraphData(graph, true, true, name);
                const unknown = window.app.graph.nodes.filter(
                    (node) => !(node.type in LiteGraph.registered_node_types)
                );
                return {
                    picture: [picture.naturalWidth, picture.naturalHeight],
                    nodes: window.app.graph.nodes.length,
                    expected: graph.nodes.length,
                    unknown: unknown.map((node) => node.type),
                    broken: window.app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)
                        .filter((kind) => kind !== "CheckpointLoaderSimple"),
                };
            }""",
            [PACK_FOLDER, name],
        )
        assert found["picture"] == [480, 480]
        assert found["nodes"] == found["expected"] >= 5
        assert found["unknown"] == [] and found["broken"] == []


CARD_SHOWS_ITS_PICTURE = """name => {
    const title = [...document.querySelectorAll("*")].find(
        (one) => !one.children.length && one.textContent.trim() === name && one.checkVisibility()
    );
    if (!title) return false;
    title.scrollIntoView({ block: "end" });  // a picture is there while its card is seen
    let card = title;
    while (card && !card.querySelector("img")) card = card.parentElement;
    const images = [...(card?.querySelectorAll("img") ?? [])];
    return images.length === 1 && images[0].naturalWidth === 480 && images[0].naturalHeight === 480;
}"""


def test_template_browser_shows_the_packs_pictures(open_page):
    page = open_page()
    page.browse_templates(WORKFLOWS[0])
    for name in WORKFLOWS:
        page.wait_for(CARD_SHOWS_ITS_PICTURE, name)
    page.shot("templates")


def test_search_finds_a_node_by_its_words(open_page):
    page = open_page()
    page.ask("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    found = page.tab.get_by_role("option").filter(has_text="SePPO Reference Settings")
    page.wait_for("() => document.activeElement.tagName === 'INPUT'")
    page.tab.keyboard.type("self-play" if IS_NEW else "reference settings")
    found.first.wait_for()
