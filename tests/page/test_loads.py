"""The page takes the pack's front end: every module loads, in both renderers and themes."""

from __future__ import annotations

from inprocess import PACK

MODULES = sorted(path.relative_to(PACK / "web").as_posix() for path in (PACK / "web").rglob("*.js"))


def test_every_module_loads_without_an_error(open_page, light):
    page = open_page(light=light)
    missing = [module for module in MODULES if not any(module in url for url in page.loaded)]
    assert missing == []


def test_the_nodes_have_widgets_with_their_defaults(open_page):
    page = open_page()
    steps = page.ask(
        """() => {
            const node = LiteGraph.createNode("SePPOTrain");
            window.app.graph.add(node);
            return node.widgets.find((widget) => widget.name === "steps").value;
        }"""
    )
    assert steps == 200
