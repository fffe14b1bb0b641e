"""The whole way in one page: template, gallery, training, reload, stop and keep, compare, score. Its pictures are shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs import LONG
from inprocess import PACK
from picking import press_opener, told
from PIL import Image
from running import panel, points, until_pictures, until_state, until_step
from scorers import make_clip

TEMPLATE = "pick_align_compare"
FOLDER = "liked"
OFFERED = 40
SET = """([kind, values]) => {
    for (const node of window.app.graph.nodes.filter((one) => one.comfyClass === kind))
        for (const [name, value] of Object.entries(values))
            node.widgets.find((widget) => widget.name === name).value = value;
}"""
SMALL = {
    "SePPOEncodeWinners": {"resolution": 64},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "SePPOTestPrompts": {"every": 2, "sampling_steps": 2},
    "SePPOTrain": {"steps": LONG, "learning_rate": 0.003},
    "SePPOCompare": {"seeds": 1, "steps": 2, "width": 128, "height": 128},
}
"""What makes the template quick on a thin model."""
COMPARED = """() => {
    const images = [...document.querySelectorAll("[data-testid=pairs] img")];
    return images.length === 2 && images.every((image) => image.naturalWidth === 128);
}"""
LOOKED_AT = """(name) => {
    const image = document.querySelector("[data-testid=seppo-details] img");
    return image?.alt === name && image.naturalWidth > 0;
}"""
UNMUTE = """() => {
    for (const node of window.app.graph.nodes) node.mode = 0;
}"""
SCORES = """() => {
    const shown = window.app.graph.nodes.find((node) => node.title === "Scores");
    return shown.widgets?.map((widget) => String(widget.value)).find((text) => text.includes("images wins"));
}"""


@pytest.fixture(scope="module")
def pictures(base) -> Iterator[list[str]]:
    """The demo's winners, as if ComfyUI had drawn them, while this module runs; their addresses."""
    found = sorted((PACK / "demo" / "winners").glob("*.png"))[:OFFERED]
    folder = base / "output" / FOLDER
    folder.mkdir(parents=True)
    for number, path in enumerate(found):
        picture = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
        prompt = path.with_suffix(".txt").read_text("utf-8").strip()
        picture.save(folder / path.name, pnginfo=told(prompt, number))
    yield [f"output/{FOLDER}/{path.name}" for path in found]
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def scorer(base):
    make_clip(base / "models" / "seppo_scorers" / "PickScore_v1")


def load_template(page) -> None:
    """As a user does it: in the host's template browser, by a click on its card."""
    page.browse_templates(TEMPLATE).click()
    page.wait_for(
        "() => window.app.graph.nodes.some((node) => node.comfyClass === 'SePPOPickWinners')"
    )


def pick(page, sets: Path, addresses: list[str], vue: bool) -> None:
    page.look_at("SePPOPickWinners")
    press_opener(page, vue)
    page.by("seppo-cell").first.wait_for()
    for address in addresses:
        page.by("seppo-words").fill(Path(address).stem.replace("-", " "))
        page.tab.locator(f"[data-testid='seppo-cell'][data-address='{address}']").click()
    page.by("seppo-words").fill("")
    for _ in range(100):
        saved = [json.loads(path.read_text("utf-8"))["by_hand"] for path in sets.glob("*.set.json")]
        if saved and sorted(saved[0]) == sorted(addresses):
            break
        page.tab.wait_for_timeout(100)
    assert [sorted(one) for one in saved] == [sorted(addresses)]
    page.tab.locator(f"[data-testid='seppo-cell'][data-address='{address}']").hover()
    page.wait_for(LOOKED_AT, address.removeprefix("output/"))


def test_from_the_template_to_the_scores(open_page, base, checkpoint, pictures, sets, vue, light):
    page = open_page(light=light)
    look = f"{'vue' if vue else 'canvas'}_{'light' if light else 'dark'}"
    name = f"story_{look}"
    load_template(page)
    page.ask(SET, ["CheckpointLoaderSimple", {"ckpt_name": checkpoint}])
    for kind, values in SMALL.items():
        page.ask(SET, [kind, values])
    page.ask(SET, ["SePPOTrain", {"run_name": name}])

    pick(page, sets, pictures[-8::3], vue)
    assert page.is_legible()
    page.shot(f"story_1_pick_{look}")
    page.by("seppo-close").click()

    page.look_at("SePPOTrain")
    page.queue()
    until_step(page, 4)
    until_pictures(page, "run-samples", 1)
    assert points(page, "loss") >= 4
    page.shot(f"story_2_train_{look}")

    graph = page.ask("() => window.app.graph.serialize()")
    page.reload()
    page.ask("graph => window.app.loadGraphData(graph)", graph)
    page.look_at("SePPOTrain")
    until_step(page, 6)
    until_pictures(page, "run-tests", 2)
    assert points(page, "loss") >= 6
    assert page.is_legible()
    page.shot(f"story_3_after_reload_{look}")
    panel(page).locator("[data-testid=run-stop]").click()
    until_state(page, "stopped")
    kept = page.host.get(f"/seppo/runs/{name}")["last"]
    assert 6 <= kept < LONG

    page.look_at("SePPOCompare")
    page.wait_for(COMPARED)
    page.by("pair-slider").fill("30")
    assert page.is_legible()
    page.shot(f"story_4_compare_{look}")

    page.ask(UNMUTE)
    page.look_at("SePPOScore")
    page.queue()
    report = page.wait_for(SCORES)
    assert "of 2 pictures" in report
    page.shot(f"story_5_score_{look}")
    assert page.host.get(f"/seppo/runs/{name}")["last"] == kept, "scoring trains no further"
    assert any((base / "output" / "loras").glob("SePPO_*.safetensors"))
