"""Makes the pictures of the help pages and of the template browser, in a real page of ComfyUI.

`SEPPO_TEST_HOST=<ComfyUI> <python of its test environment> scripts/make_page_pictures.py`; scripts/hosts.py names
that Python. Needs Chromium. The upper half of a template's picture shows what the demo drew.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("hosts", "page")]

from inprocess import prepare_base  # noqa: E402
from make_workflows import CHECKPOINT, FOLDER, WORKFLOWS  # noqa: E402
from over_http import HttpHost  # noqa: E402
from pages import Page, chromium, page_of  # noqa: E402

DOCS = ROOT / "web" / "docs"
IMAGES = ROOT / "docs" / "images"
LEFT, TOP, MARGIN = 420, 130, 10
"""Where a node stands in the window, clear of the host's own bars, and how much around it is shown."""
SIDE, PICTURES, CELL = 480, 252, 76
"""Pixels: a template's picture is a square, of which the upper part is for what the demo drew."""
BACKGROUND = "#202020"

NO_BADGES = {
    f"Comfy.NodeBadge.Node{what}BadgeMode": "None" for what in ("Source", "Id", "LifeCycle")
}

SHOW_NODE = """
async ([kind, left, top]) => {
  const { app, LiteGraph } = window;
  app.graph.clear();
  const node = LiteGraph.createNode(kind);
  node.pos = [0, 0];
  app.graph.add(node);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, 330), height]);
  const box = app.canvasEl.getBoundingClientRect();
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [left - box.left, top - box.top];
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 400));
  const [x, y, w, h] = node.getBounding();
  return { x: left + x, y: top + y, width: w, height: h };
}
"""
SHOW_GRAPH = """
async ([graph, name, width, height]) => {
  const { app } = window;
  await app.loadGraphData(graph, true, true, name);
  const boxes = app.graph.groups.map((group) => [...group.pos, ...group.size]);
  const [right, bottom] = [0, 1].map((axis) => Math.max(...boxes.map((box) => box[axis] + box[axis + 2])));
  const scale = Math.min(width / right, height / bottom);
  const box = app.canvasEl.getBoundingClientRect();
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [(80 - box.left) / scale, (100 - box.top) / scale];
  app.canvas.deselectAll();
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 600));
  return { x: 80, y: 100, width: right * scale, height: bottom * scale };
}
"""


@contextmanager
def page() -> Iterator[Page]:
    """A page of a host that has a file of the checkpoint's name, so that nothing is reported missing."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        base = prepare_base(Path(folder).resolve())
        checkpoint = base / "models" / "checkpoints" / CHECKPOINT
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        server = HttpHost.start(Path(os.environ["SEPPO_TEST_HOST"]).expanduser(), base)
        try:
            server.post("/settings", NO_BADGES)
            with page_of(browser, server, base) as shown:
                yield shown.open()
        finally:
            server.stop()


def shot(shown: Page, box: dict[str, float]) -> Image.Image:
    return Image.open(io.BytesIO(shown.tab.screenshot(clip=box))).convert("RGB")


def picture_of_node(shown: Page, kind: str) -> Image.Image:
    box = shown.ask(SHOW_NODE, [kind, LEFT, TOP])
    return shot(
        shown,
        {
            "x": box["x"] - MARGIN,
            "y": box["y"] - MARGIN,
            "width": box["width"] + 2 * MARGIN,
            "height": box["height"] + 2 * MARGIN,
        },
    )


def demo_cells(row: int, columns: range) -> list[Image.Image]:
    """Pictures of the demo: even rows by the base model, odd ones the same captions by the aligned model."""
    sheet = Image.open(IMAGES / "demo_before_after.png").convert("RGB")
    side = sheet.width // 12
    boxes = [(x * side, row * side, (x + 1) * side, (row + 1) * side) for x in columns]
    return [sheet.crop(box).resize((CELL, CELL), Image.LANCZOS) for box in boxes]


def aligned(first: int) -> Image.Image:
    return gallery([demo_cells(row, range(first, first + 6)) for row in (1, 3, 5)])


def before_and_after() -> Image.Image:
    """The base model's pictures on the left, the aligned model's of the same captions on the right."""
    rows = [(0, 1), (2, 3), (4, 5)]
    return gallery(
        [[*demo_cells(a, range(3)), *demo_cells(b, range(3))] for a, b in rows], parted=True
    )


def gallery(rows: list[list[Image.Image]], parted: bool = False) -> Image.Image:
    made = Image.new("RGB", (SIDE, PICTURES), BACKGROUND)
    across, down = SIDE // len(rows[0]), PICTURES // len(rows)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            shift = (4 if 2 * x >= len(row) else 0) if parted else 2
            at = (x * across + shift, y * down + (down - CELL) // 2)
            made.paste(cell, at)
    return made


def anchor() -> Image.Image:
    sheet = Image.open(IMAGES / "anchor_preview.png").convert("RGB")
    return sheet.resize((SIDE, round(sheet.height * SIDE / sheet.width)), Image.LANCZOS)


UPPER = {
    "align_sd15_from_folder": lambda: aligned(0),
    "align_from_own_pictures": lambda: aligned(6),
    "align_and_compare": before_and_after,
    "anchor_preview": anchor,
    "continue_from_run": lambda: aligned(3),
}
"""Workflow -> what stands above its graph."""


def picture_of_workflow(shown: Page, name: str) -> Image.Image:
    graph: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    lower = shot(shown, shown.ask(SHOW_GRAPH, [graph, name, 1360, 800]))
    lower = lower.resize((SIDE, round(lower.height * SIDE / lower.width)), Image.LANCZOS)
    upper = UPPER[name]()
    made = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    free = SIDE - upper.height - lower.height
    made.paste(upper, (0, max(0, free // 3)))
    made.paste(lower, (0, SIDE - lower.height - max(0, free // 3)))
    return made


def main() -> None:
    with page() as shown:
        kinds = shown.ask(
            "() => Object.keys(LiteGraph.registered_node_types).filter((kind) => kind.startsWith('SePPO'))"
        )
        for kind in kinds:
            path = DOCS / kind / "node.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture_of_node(shown, kind).save(path, quality=80, method=6)
            print(path, path.stat().st_size)
        for name in WORKFLOWS:
            path = FOLDER / f"{name}.jpg"
            picture_of_workflow(shown, name).save(path, quality=78, optimize=True)
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
