"""Makes the pictures of the help pages and of the template browser, in a real page of ComfyUI.

`SEPPO_TEST_HOST=<ComfyUI> <python of its test environment> scripts/make_page_pictures.py`; scripts/hosts.py names
that Python. Needs Chromium. The upper half of a template's picture shows what the demo drew.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("hosts", "page")]

from graphs import FOLDER as WINNERS  # noqa: E402
from graphs import draw_winners, node, training  # noqa: E402
from inprocess import prepare_base  # noqa: E402
from make_workflows import CHECKPOINT, FOLDER, WORKFLOWS  # noqa: E402
from over_http import HttpHost  # noqa: E402
from pages import Page, chromium, page_of  # noqa: E402

DOCS = ROOT / "web" / "docs"
IMAGES = ROOT / "docs" / "images"
LEFT, TOP, MARGIN = 420, 130, 10
"""Where a node stands in the window, clear of the host's own bars, and how much around it is shown."""
SIDE, ROW, CELL = 480, 84, 76
"""Pixels: a template's picture is a square, of which the upper part is rows of what the demo drew."""
TRAIN, TRAINED_STEPS, PANEL = "SePPOTrain", 60, [470, 1130]
"""The node that is shown while it trains, from which step on, and its size with all of its panel."""
AS_NEW = {
    "preset": "indicator",
    "criterion": "indicator",
    "learning_rate": 0.0001,
    "rank": 16,
    "beta": 2000.0,
}
"""What a new node has, where the tests' graph has something else."""
BACKGROUND = "#202020"

NO_BADGES = {
    f"Comfy.NodeBadge.Node{what}BadgeMode": "None" for what in ("Source", "Id", "LifeCycle")
}

WRITE_CHECKPOINT = """
import sys
sys.path.insert(0, sys.argv[1])
import inprocess
from pathlib import Path
print(inprocess.start(Path(sys.argv[2]), Path(sys.argv[3])).thin_checkpoint())
"""

SHOW_NODE = """
async ([kind, left, top, properties, size]) => {
  const { app, LiteGraph } = window;
  app.graph.clear();
  const node = LiteGraph.createNode(kind);
  node.id = window.shown = (window.shown ?? 1000) + 1; // the page gives an id's values to the next node that has it
  Object.assign(node.properties, properties);
  node.pos = [0, 0];
  app.graph.add(node);
  const [width, height] = node.computeSize();
  node.setSize(size ?? [Math.max(width, 330), height]);
  const box = app.canvasEl.getBoundingClientRect();
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [left - box.left, top - box.top];
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, size ? 4000 : 400)); // a panel waits for news of its run
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
def page() -> Iterator[tuple[Page, str]]:
    """A page, and the name of a small checkpoint to train.

    The host has a file of the templates' checkpoint's name, so that nothing is reported missing.
    """
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        base = prepare_base(Path(folder).resolve())
        draw_winners(base / "input" / WINNERS)
        host = Path(os.environ["SEPPO_TEST_HOST"]).expanduser()
        small = small_checkpoint(host, base)
        (base / "models" / "checkpoints" / CHECKPOINT).touch()
        server = HttpHost.start(host, base)
        try:
            server.post("/settings", NO_BADGES)
            with page_of(browser, server, base, "last") as shown:
                shown.tab.set_viewport_size({"width": 1500, "height": 1500})
                yield shown.open(), small
        finally:
            server.stop()


def small_checkpoint(host: Path, base: Path) -> str:
    """Written by a host of its own, for there can be one in a process."""
    command = [sys.executable, "-c", WRITE_CHECKPOINT, ROOT / "tests" / "hosts", host, base]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def shot(shown: Page, box: dict[str, float]) -> Image.Image:
    return Image.open(io.BytesIO(shown.tab.screenshot(clip=box))).convert("RGB")


def picture_of_node(
    shown: Page,
    kind: str,
    properties: dict[str, str] | None = None,
    size: list[int] | None = None,
) -> Image.Image:
    """A new node alone, at its own size unless another one is given."""
    box = shown.ask(SHOW_NODE, [kind, LEFT, TOP, properties or {}, size])
    return shot(
        shown,
        {
            "x": box["x"] - MARGIN,
            "y": box["y"] - MARGIN,
            "width": box["width"] + 2 * MARGIN,
            "height": box["height"] + 2 * MARGIN,
        },
    )


def picture_of_training(shown: Page, checkpoint: str) -> Image.Image:
    """SePPO Train with its panel, while it trains a model so small that it draws nothing but noise.

    The node that trains also has the host's line of text; a new one with its panel does not.
    """
    graph = training(checkpoint, "my_run", 200, **AS_NEW)
    for unused in ("positive", "negative", "sample", "latents"):
        del graph[unused]
    graph["tests"] = node(
        "SePPOTestPrompts",
        clip=["base", 1],
        latent=["size", 0],
        prompts="a crimson disc\na green disc",
        every=20,
        seed=0,
        sampling_steps=2,
        guidance=1.0,
        sampler="euler",
        scheduler="normal",
    )
    graph["train"]["inputs"]["tests"] = ["tests", 0]
    shown.load(graph)
    shown.queue()
    shown.wait_for(
        "step => Number(document.querySelector('[data-testid=run-state]')?.dataset.step) >= step",
        TRAINED_STEPS,
    )
    trains = "() => window.app.graph.nodes.find((node) => node.type === 'SePPOTrain').properties"
    picture = picture_of_node(shown, TRAIN, shown.ask(trains), PANEL)
    shown.by("run-cancel").click()
    shown.wait_for(
        "() => document.querySelector('[data-testid=run-state]').dataset.state === 'cancelled'"
    )
    return picture


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


def compared(row: int, first: int) -> Image.Image:
    """Each caption twice, as SePPO Compare lays it out: the base above, the aligned model below."""
    return gallery([demo_cells(one, range(first, first + 6)) for one in (row, row + 1)])


def gallery(rows: list[list[Image.Image]], parted: bool = False) -> Image.Image:
    made = Image.new("RGB", (SIDE, ROW * len(rows)), BACKGROUND)
    across, down = SIDE // len(rows[0]), ROW
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
    "align_guided": lambda: aligned(5),
    "align_from_own_pictures": lambda: aligned(6),
    "align_and_compare": before_and_after,
    "anchor_preview": anchor,
    "continue_from_run": lambda: aligned(3),
    "score_and_compare": lambda: compared(0, 4),
    "pick_align_compare": lambda: compared(2, 0),
}
"""Workflow -> what stands above its graph."""


def picture_of_workflow(shown: Page, name: str) -> Image.Image:
    graph: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    lower = shot(shown, shown.ask(SHOW_GRAPH, [graph, name, 1360, 800]))
    upper = UPPER[name]()
    scale = min(SIDE / lower.width, (SIDE - upper.height) / lower.height)
    lower = lower.resize((round(lower.width * scale), round(lower.height * scale)), Image.LANCZOS)
    made = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    free = SIDE - upper.height - lower.height
    made.paste(upper, (0, max(0, free // 3)))
    made.paste(lower, ((SIDE - lower.width) // 2, SIDE - lower.height - max(0, free // 3)))
    return made


def main() -> None:
    with page() as (shown, checkpoint):
        pictures = {TRAIN: picture_of_training(shown, checkpoint)}
        kinds = shown.ask(
            "() => Object.keys(LiteGraph.registered_node_types).filter((kind) => kind.startsWith('SePPO'))"
        )
        for kind in kinds:
            path = DOCS / kind / "node.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = pictures.get(kind) or picture_of_node(shown, kind)
            picture.save(path, quality=80, method=6)
            print(path, path.stat().st_size)
        for name in WORKFLOWS:
            path = FOLDER / f"{name}.jpg"
            picture_of_workflow(shown, name).save(path, quality=78, optimize=True)
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
