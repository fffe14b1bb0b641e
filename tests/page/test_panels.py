"""The panels of Train and Compare fit their nodes, whatever the host does with these, and show each picture once."""

from __future__ import annotations

import pytest
from filled import PANELS, fill, fits
from graphs import FOLDER, LONG, draw_winners, training, workflow
from pages import IS_NEW
from running import panel, until_pictures, until_state, until_step

TEMPLATE = "pick_align_compare"
FIND = "const node = window.app.graph.nodes.find((one) => one.comfyClass === kind);"
LOAD = "async (graph) => { await window.app.loadGraphData(graph, true, true, 'panels'); }"
ZOOM = f"""([kind, scale]) => {{
    {FIND}
    window.app.canvas.ds.scale = scale;
    window.app.canvas.centerOnNode(node);
    window.app.canvas.setDirty(true, true);
}}"""
SELECT = f"""(kind) => {{
    {FIND}
    window.app.canvas.deselectAll();
    window.app.canvas.selectNode(node);
    window.app.canvas.setDirty(true, true);
}}"""
COLLAPSE = f"""(kind) => {{
    {FIND}
    node.collapse();
    window.app.canvas.setDirty(true, true);
}}"""
CHANGE_AND_UNDO = f"""async (kind) => {{
    {FIND}
    const tracker = window.app.extensionManager.workflow.activeWorkflow.changeTracker;
    const noted = () => (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
    noted();
    node.widgets.find((one) => one.name === "steps").value = 77;
    noted();
    await tracker.undo();
    return window.app.graph.nodes.find((one) => one.comfyClass === kind).widgets.find((one) => one.name === "steps").value;
}}"""
SHRINK = f"""([kind, size]) => {{
    {FIND}
    node.setSize(size);
    window.app.canvas.setDirty(true, true);
}}"""
HAS_DARK_INK = """() => {
    const chart = document.querySelector("[data-testid=run-panel] [data-testid=chart-loss] canvas");
    const { data } = chart.getContext("2d").getImageData(0, 0, chart.width, chart.height);
    for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] > 200 && Math.max(data[i], data[i + 1], data[i + 2]) < 90) return true;
    return false;
}"""
"""Whether a curve's axes are drawn for the light theme."""
PROPERTIES = (
    """(open) => window.app.extensionManager.setting.set("Comfy.RightSidePanel.IsOpen", open)"""
)
"""The host keeps it for the next page: whoever clicked its button last left it open or shut."""


@pytest.fixture
def page(open_page):
    """The template with both panels, as it comes and filled."""
    page = open_page()
    page.ask(LOAD, workflow(TEMPLATE))
    fill(page)
    return page


def both_fit(page) -> None:
    for kind in PANELS:
        page.ask(ZOOM, [kind, 0.7])
        page.drawn()
        assert fits(page, kind)


def test_panels_fit_in_the_templates_own_sizes_at_every_zoom_and_in_both_themes(page, vue):
    both_fit(page)
    page.shot(f"panel_compare_{'vue' if vue else 'canvas'}")
    for scale in (0.3, 0.7, 1.6):
        page.ask(ZOOM, ["SePPOTrain", scale])
        page.drawn()
        assert fits(page, "SePPOTrain")
    page.ask("() => window.app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    both_fit(page)
    page.ask(ZOOM, ["SePPOTrain", 0.7])
    page.drawn()
    page.wait_for(HAS_DARK_INK)
    page.shot(f"panel_train_light_{'vue' if vue else 'canvas'}")
    page.ask("() => window.app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert fits(page, "SePPOTrain")


@pytest.mark.skipif(not IS_NEW, reason="this release has no panel of properties")
def test_panels_fit_after_the_hosts_panel_of_properties_showed_their_nodes(page, vue):
    """It draws a node's widgets once more, in its own width."""
    page.ask(PROPERTIES, True)
    for kind in PANELS:
        page.ask(ZOOM, [kind, 0.7])
        page.ask(SELECT, kind)
        page.tab.get_by_text("run_panel" if kind == "SePPOTrain" else "pairs").first.wait_for()
        assert fits(page, kind)
    page.shot(f"panel_beside_properties_{'vue' if vue else 'canvas'}")
    page.ask(PROPERTIES, False)
    both_fit(page)


def test_panels_fit_after_reload_collapse_and_undo(page):
    for kind in PANELS:
        for _ in range(2):
            page.ask(COLLAPSE, kind)
            page.drawn()
    both_fit(page)
    graph = page.ask("() => window.app.graph.serialize()")
    page.reload()
    page.ask(LOAD, graph)
    fill(page)
    both_fit(page)
    assert page.ask(CHANGE_AND_UNDO, "SePPOTrain") == 200
    page.ask(ZOOM, ["SePPOTrain", 0.7])
    fill(page)
    both_fit(page)


def test_what_a_small_panel_cannot_show_is_scrolled_to(page):
    for kind in PANELS:
        page.ask(SHRINK, [kind, [300, 300]])
        page.ask(ZOOM, [kind, 0.7])
        page.drawn()
        assert fits(page, kind, whole=False)


TWICE = f"""(kind) => {{
    {FIND}
    const drawn = document.querySelector(`[data-node-id="${{node.id}}"]`);
    return [
        ...(node.imgs ?? []),
        ...node.widgets.filter((one) => one.name === "$$canvas-image-preview"),
        ...(drawn ? [...drawn.querySelectorAll("img")].filter((one) => !one.closest(".seppo")) : []),
    ].length;
}}"""
"""Pictures that the host shows in a node beside the panel's."""


@pytest.fixture(scope="module")
def winners(base):
    draw_winners(base / "input" / FOLDER)


def test_what_training_draws_is_shown_once(open_page, checkpoint, winners, vue):
    page = open_page()
    prompt = training(checkpoint, f"shown_once_{vue}", LONG, seed=int(vue))  # not cached
    for unused in ("positive", "negative", "sample", "latents"):
        del prompt[unused]
    page.load(prompt)
    page.look_at("SePPOTrain")
    page.queue()
    until_step(page, 3)
    until_pictures(page, "run-samples", 2)
    page.drawn()
    assert page.ask(TWICE, "SePPOTrain") == 0
    panel(page).locator("[data-testid=run-stop]").click()
    until_state(page, "stopped")
