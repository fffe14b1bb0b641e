"""Panels with everything in them that they can show, and whether they fit their node: boxes are compared."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

STEPS = 60
SEND = """([name, detail]) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent(name, { detail }))"""
FIND = "const node = window.app.graph.nodes.find((one) => one.comfyClass === kind);"
BOXES = f"""([kind, panel]) => {{
    {FIND}
    const box = document.querySelector(`[data-testid=${{panel}}]`);
    const edges = (one) => {{
        const {{ left, top, right, bottom }} = one.getBoundingClientRect();
        return [left, top, right, bottom];
    }};
    const {{ ds, canvas }} = window.app.canvas;
    const [left, top] = edges(canvas);
    const [x, y] = [node.pos[0] + ds.offset[0], node.pos[1] + ds.offset[1]].map((one) => one * ds.scale);
    const drawn = document.querySelector(`[data-node-id="${{node.id}}"]`);
    return {{
        scale: ds.scale,
        node: drawn ? edges(drawn) : [left + x, top + y, left + x + node.size[0] * ds.scale, top + y + node.size[1] * ds.scale],
        panel: edges(box),
        parts: [...box.children].filter((one) => one.checkVisibility()).map(edges),
        beyond: [box.scrollWidth - box.clientWidth, box.scrollHeight - box.clientHeight],
    }};
}}"""
PANELS = {"SePPOTrain": "run-panel", "SePPOCompare": "pairs"}


def picture(route: Any) -> None:
    made = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 80, 120)).save(made, "WEBP")
    route.fulfill(body=made.getvalue(), content_type="image/webp")


def run_of(panel: str) -> dict[str, Any]:
    """A run as the server tells it, with samples, test prompts and a map of eight winners."""
    count = range(1, STEPS + 1)
    shown = {
        "samples": [
            {
                "step": step,
                "file": f"sample_{step:08}_000.webp",
                "caption": "a fox",
                "role": step % 3 - 1,
            }
            for step in count
        ],
        "tests": [
            {
                "step": step,
                "file": f"test_{step:08}_{number:03}.webp",
                "number": number,
                "prompt": text,
            }
            for step in (0, 20, 40)
            for number, text in enumerate(("a crimson disc", "a green disc"))
        ],
    }
    metrics = {
        "step": [*count],
        "loss": [1 / step for step in count],
        "winner_margin": [-step / STEPS for step in count],
        "sample_margin_losing": [step / STEPS for step in count],
        "sample_margin_winning": [-step / STEPS for step in count],
        "flip_rate": [0.5] * STEPS,
        "seconds": [0.1] * STEPS,
    }
    cells = {
        f"{winner},{level}": [4, (winner + level) % 4] for winner in range(8) for level in range(8)
    }
    about = {
        "name": "whole",
        "panel": panel,
        "step": STEPS,
        "steps": 200,
        "state": "training",
        "training": True,
        "text": f"training, step {STEPS} of 200",
        "actions": ["stop", "cancel"],
    }
    return (
        about
        | shown
        | {"metrics": metrics, "cells": cells, "captions": {}, "levels": 8, "last": STEPS}
    )


def fill(page: Any) -> None:
    """Fill the panels of Train and Compare on this page, as the server would; its own line of text comes, too."""
    page.tab.route("**/seppo/runs/whole/pictures/*", picture)
    page.tab.route("**/api/view?filename=pair*", picture)
    panel, train = page.ask(
        f"(kind) => {{ {FIND} return [node.properties.seppo_panel, String(node.id)]; }}",
        "SePPOTrain",
    )
    run = run_of(panel)
    page.tab.route("**/seppo/runs/whole", lambda route: route.fulfill(json=run))
    standing = {name: run[name] for name in ("panel", "state", "step", "steps", "text", "actions")}
    page.ask(SEND, ["seppo.run", standing | {"run": "whole"}])
    page.ask(
        SEND, ["progress_text", {"nodeId": train, "text": "step 60/200  loss 0.3\na second line"}]
    )
    page.wait_for(
        "step => document.querySelector('[data-testid=run-panel] [data-testid=run-state]')?.dataset.step == step",
        STEPS,
    )
    file = {"filename": "pair.webp", "subfolder": "", "type": "temp"}
    pairs = [
        {"prompt": "a fox", "seed": seed, "base": file, "aligned": file, "scores": {}}
        for seed in (1, 2)
    ]
    page.ask(
        f"([kind, output]) => {{ {FIND} node.onExecuted(output); }}",
        ["SePPOCompare", {"seppo_pairs": pairs}],
    )


def at_rest(page: Any, code: str, given: Any) -> Any:
    """What the page answers once it has answered the same in ten frames in a row."""
    said, same = None, 0
    while same < 10:
        page.drawn()
        before, said = said, page.ask(code, given)
        same = same + 1 if said == before else 0
    return said


def fits(page: Any, kind: str, whole: bool = True) -> bool:
    """Whether a node's panel lies inside the node, as wide as it; if `whole`, with everything to be seen."""
    page.wait_for(f"([kind, panel]) => ({BOXES})([kind, panel]).panel[2] > 0", [kind, PANELS[kind]])
    found = at_rest(
        page, BOXES, [kind, PANELS[kind]]
    )  # the host lays a node out in frames of its own
    node, panel, slack = found["node"], found["panel"], 2
    assert inside(panel, node, slack), found
    assert panel[2] - panel[0] >= (node[2] - node[0]) - 40 * found["scale"], found
    assert found["beyond"][0] <= slack, found
    if whole:
        assert found["beyond"][1] <= slack, found
        assert all(inside(part, panel, slack) for part in found["parts"]), found
    return True


def inside(inner: list[float], outer: list[float], slack: float) -> bool:
    return (
        inner[0] >= outer[0] - slack
        and inner[1] >= outer[1] - slack
        and inner[2] <= outer[2] + slack
        and inner[3] <= outer[3] + slack
    )
