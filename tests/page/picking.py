"""A gallery of many pictures in the host's page: how tests draw them, open it, mark some and look at its sets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from graphs import node
from PIL import Image, PngImagePlugin

COUNT = 1500
PROMPTS = ("a red fox in the snow", "a blue bird", "an old harbour at dawn")
NEWEST = 1_760_000_000
DAY = 86_400
BY_SET = "() => document.querySelector('[data-testid=seppo-set]').value"


def told(prompt: str, seed: int) -> PngImagePlugin.PngInfo:
    """What ComfyUI writes into a picture that it saves."""
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name=f"model{seed % 2}.safetensors"),
        "2": node("CLIPTextEncode", clip=["1", 1], text=prompt),
        "3": node("CLIPTextEncode", clip=["1", 1], text="blurry"),
        "4": node("EmptyLatentImage", width=48, height=48, batch_size=1),
        "5": node(
            "KSampler",
            **{"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]},
            **{"latent_image": ["4", 0], "seed": seed, "steps": 20, "cfg": 7.5},
            **{"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="x"),
    }
    about = PngImagePlugin.PngInfo()
    about.add_text("prompt", json.dumps(graph))
    return about


def name_of(number: int) -> str:
    """Number 0 is the newest."""
    return f"day {number // 500}/{number:05}.png"


def address_of(number: int) -> str:
    return f"output/{name_of(number)}"


def draw_pictures(output: Path) -> None:
    """1,500 pictures, an hour apart; the last six are pairs of a prompt that no other has."""
    for number in range(COUNT):
        path = output / name_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = np.random.default_rng(number).integers(0, 255, 3, dtype=np.uint8)
        prompt = PROMPTS[number % 3] if number < COUNT - 6 else f"pair {number // 2}"
        Image.fromarray(np.tile(shade, (48, 48, 1))).save(path, pnginfo=told(prompt, number))
        when = NEWEST - number * 3600
        os.utime(path, (when, when))


def marks(sets: Path, name: str) -> list[str]:
    path = sets / f"{name}.set.json"
    return json.loads(path.read_text("utf-8"))["by_hand"] if path.exists() else []


def opened(page, name: str = "favourites"):
    """The gallery, opened by its command, with the set of this name and all prompts read."""
    page.ask("() => { window.app.extensionManager.command.execute('SePPO.PickWinners'); }")
    page.by("seppo-cell").first.wait_for()
    all_read(page)
    if page.ask(BY_SET) != name:
        page.by("seppo-set").fill(name)
        page.by("seppo-set").press("Enter")
        page.wait_for(
            "() => document.querySelector('[data-testid=seppo-trouble]').textContent === ''"
        )
    page.by("seppo-grid").focus()
    return page


def all_read(page) -> None:
    page.wait_for(
        """() => {
            const [count, progress] = ["seppo-count", "seppo-progress"].map(
                (id) => document.querySelector(`[data-testid=${id}]`).textContent);
            return /marked of [1-9]/.test(count) && progress === "";
        }"""
    )


def cell(page, number: int):
    return page.tab.locator(f"[data-testid='seppo-cell'][data-address='{address_of(number)}']")


def marked_on_disk(page, sets: Path, name: str, expected: list[int | str]) -> None:
    """Every mark is saved at once: wait for the file, not for a button. Numbers of pictures, or addresses."""
    wanted = sorted(address_of(one) if isinstance(one, int) else one for one in expected)
    for _ in range(100):
        if sorted(marks(sets, name)) == wanted:
            return
        page.tab.wait_for_timeout(100)
    assert sorted(marks(sets, name)) == wanted


def count(page) -> str:
    return page.by("seppo-count").text_content()


def wait_for_count(page, text: str) -> None:
    page.wait_for(
        "text => document.querySelector('[data-testid=seppo-count]').textContent.startsWith(text)",
        text,
    )


OPENED = """async () => {
    for (let waited = 0; waited < 5000; waited += 100) {
        if (document.querySelector("[data-testid=seppo-root]")) return true;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return false;
}"""


def press_opener(page, vue: bool) -> None:
    """Click the node's button where it is drawn."""
    if vue:
        page.tab.get_by_role("button", name="Open the gallery").click()
        return
    place = """() => {
        const { canvas, graph } = window.app;
        const node = graph.nodes.find((one) => one.comfyClass === "SePPOPickWinners");
        const widget = node.widgets.find((one) => one.name === "Open the gallery");
        const { scale, offset } = canvas.ds;
        const { left, top } = canvas.canvas.getBoundingClientRect();
        const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
        return widget.last_y && [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale];
    }"""
    for _ in range(5):  # the host may still be moving its view to the graph
        page.ask("() => window.app.canvas.setDirty(true, true)")
        page.drawn()
        page.tab.mouse.click(*page.wait_for(place))
        if page.ask(OPENED):
            return


WIDGET = """() => window.app.graph.nodes.find((one) => one.comfyClass === "SePPOPickWinners")
    .widgets.find((widget) => widget.name === "set_name").value"""
