"""Winners are picked in the gallery: thousands of pictures, marks that outlive the page, pairs of one prompt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from graphs import node
from picking import (
    BY_SET,
    COUNT,
    DAY,
    NEWEST,
    PROMPTS,
    WIDGET,
    address_of,
    cell,
    count,
    draw_pictures,
    marked_on_disk,
    name_of,
    opened,
    press_opener,
    wait_for_count,
)
from PIL import Image


@pytest.fixture(scope="module")
def pictures(base) -> Path:
    draw_pictures(base / "output")
    (base / "input" / "broken.png").write_bytes(b"no picture")
    return base / "output"


def test_pictures_are_marked_by_click_range_and_keyboard(open_page, pictures, sets, light):
    page = opened(open_page(light=light))
    assert count(page) == "0 marked of 1,500"
    cell(page, 1).click()
    cell(page, 4).click(modifiers=["Shift"])
    marked_on_disk(page, sets, "favourites", [1, 2, 3, 4])
    cell(page, 2).click()
    cell(page, 3).click(modifiers=["Control"])
    marked_on_disk(page, sets, "favourites", [1, 4])
    page.tab.keyboard.press("Home")
    page.tab.keyboard.press("Space")
    page.tab.keyboard.press("End")
    page.tab.keyboard.press("Enter")
    marked_on_disk(page, sets, "favourites", [0, 1, 4, COUNT - 1])
    assert cell(page, COUNT - 1).get_attribute("aria-selected") == "true"
    page.tab.keyboard.press("Home")
    page.tab.keyboard.press("ArrowRight")
    page.wait_for("() => document.querySelector('.seppo-details img')?.naturalWidth > 0")
    assert page.is_legible()
    page.shot(f"gallery_{'light' if light else 'dark'}")
    wait_for_count(page, "4 marked of 1,500")


SHOWN_WITH_ITS_WORDS = """async (address) => {
    document.querySelector(`[data-testid='seppo-cell'][data-address='${address}']`).click();
    const words = () => document.querySelector("[data-testid=seppo-details] dl").textContent;
    while (!words().includes(address)) await new Promise((tick) => setTimeout(tick));
    return document.querySelector("[data-testid=seppo-details] img")?.alt ?? "none yet";
}"""


def test_no_picture_stands_above_the_words_of_another(open_page, pictures, sets):
    page = opened(open_page())
    cell(page, 1).click()
    page.wait_for("() => document.querySelector('.seppo-details img')?.naturalWidth > 0")
    assert page.ask(SHOWN_WITH_ITS_WORDS, address_of(2)) == "none yet"
    page.wait_for("name => document.querySelector('.seppo-details img')?.alt === name", name_of(2))


def test_only_what_is_seen_is_on_the_page(open_page, pictures, sets):
    page = opened(open_page())
    few = page.ask("() => document.querySelectorAll('dialog img').length")
    page.tab.keyboard.press("PageDown")
    page.tab.keyboard.press("End")
    cell(page, COUNT - 1).wait_for()
    page.wait_for(
        "address => document.querySelector(`[data-address='${address}'] img`)?.naturalWidth > 0",
        address_of(COUNT - 1),
    )
    assert 20 < few < 120
    assert page.ask("() => document.querySelectorAll('dialog img').length") < 120


HOLD_THE_SET = """
() => {
  const fetched = window.fetch;
  const late = new Promise((done) => (window.letTheSetCome = done));
  window.fetch = async (address, ...rest) => {
    if (String(address?.url ?? address).includes("/seppo/sets/favourites")) await late;
    return fetched(address, ...rest);
  };
}
"""


def test_a_picture_that_is_seen_can_be_marked_however_late_its_set_comes(open_page, pictures, sets):
    page = open_page()
    page.ask(HOLD_THE_SET)
    page.ask("() => { window.app.extensionManager.command.execute('SePPO.PickWinners'); }")
    page.wait_for("() => document.querySelector('dialog[open]')")
    page.ask("() => window.letTheSetCome()")
    cell(page, 0).click()
    marked_on_disk(page, sets, "favourites", [0])


def test_marks_outlive_the_page(open_page, pictures, sets):
    page = opened(open_page())
    cell(page, 3).click()
    cell(page, 5).click()
    page = opened(page.reload())
    assert cell(page, 3).get_attribute("aria-selected") == "true"
    assert count(page) == "2 marked of 1,500"
    marked_on_disk(page, sets, "favourites", [3, 5])


def test_two_pages_that_mark_in_one_set_lose_nothing(open_page, pictures, sets):
    first, second = opened(open_page()), opened(open_page())
    for number in range(4):
        cell(first, number).click()
        cell(second, number + 4).click()
    marked_on_disk(first, sets, "favourites", list(range(8)))


def test_pictures_are_found_by_prompt_model_date_and_folder(open_page, pictures, sets):
    page = opened(open_page())
    page.by("seppo-words").fill("fox SNOW")
    wait_for_count(page, "0 marked of 1,500, 498 shown")
    page.by("seppo-model").select_option("model0.safetensors")
    wait_for_count(page, "0 marked of 1,500, 249 shown")
    page.by("seppo-folder").select_option("day 1")
    shown = [number for number in range(500, 1000) if number % 6 == 0]
    wait_for_count(page, f"0 marked of 1,500, {len(shown)} shown")
    cell(page, shown[0]).click()
    cell(page, shown[2]).click(modifiers=["Shift"])
    marked_on_disk(page, sets, "favourites", shown[:3])
    page.by("seppo-words").fill("")
    page.by("seppo-model").select_option("")
    page.by("seppo-folder").select_option("")
    day = page.ask("time => new Date(time * 1000).toLocaleDateString('sv')", NEWEST - 10 * DAY)
    page.by("seppo-from").fill(day)
    page.by("seppo-to").fill(day)
    wait_for_count(page, "3 marked of 1,500, 24 shown")
    page.by("seppo-from").fill("")
    page.by("seppo-to").fill("")
    page.by("seppo-only").check()
    wait_for_count(page, "3 marked of 1,500, 3 shown")


def test_a_picture_tells_how_it_was_made(open_page, pictures, sets):
    page = opened(open_page())
    page.tab.keyboard.press("ArrowRight")
    about = page.by("seppo-details")
    about.get_by_text(PROMPTS[1]).wait_for()
    text = about.inner_text()
    for part in ("blurry", "model1.safetensors", "7.5", "20", "euler, normal", "48 x 48"):
        assert part in text
    assert address_of(1) in text


def test_what_cannot_be_shown_says_why(open_page, pictures, sets):
    page = opened(open_page())
    page.by("seppo-root").select_option("input")
    page.tab.locator("[data-address='input/broken.png']").get_by_text("not a PNG").wait_for()


def test_the_better_of_two_is_taken(open_page, pictures, sets):
    page = opened(open_page())
    page.by("seppo-words").fill("pair")
    wait_for_count(page, "0 marked of 1,500, 6 shown")
    page.by("seppo-grid").focus()
    page.tab.keyboard.press("a")
    page.by("seppo-side-2").wait_for()
    assert page.by("seppo-pair-prompt").text_content() == f"pair {(COUNT - 1) // 2}"
    sides = [page.by(f"seppo-side-{side}").get_attribute("data-address") for side in (1, 2)]
    assert sorted(sides) == [address_of(COUNT - 2), address_of(COUNT - 1)]
    page.wait_for(
        "() => [...document.querySelectorAll('.seppo-side img')].every(i => i.naturalWidth)"
    )
    page.shot("gallery_pairs")
    page.tab.keyboard.press("1")
    wait_for_count(page, "1 marked")
    assert page.by("seppo-pair-prompt").text_content() == f"pair {(COUNT - 3) // 2}"
    page.tab.keyboard.press("0")
    better = page.by("seppo-side-2").get_attribute("data-address")
    page.tab.keyboard.press("ArrowRight")
    page.tab.get_by_text("Nothing is left to compare").wait_for()
    wait_for_count(page, "2 marked")
    page.tab.keyboard.press("u")
    wait_for_count(page, "1 marked")
    page.by("seppo-side-1").wait_for()
    page.tab.keyboard.press("Escape")
    assert page.by("seppo-pairs").count() == 0 and page.by("seppo-grid").count() == 1
    stored = json.loads((sets / "favourites.set.json").read_text("utf-8"))
    assert stored == {"by_hand": [], "choices": [sides]} and better not in sides


def test_the_last_change_can_be_taken_back(open_page, pictures, sets):
    page = opened(open_page())
    cell(page, 0).click()
    cell(page, 4).click(modifiers=["Shift"])
    marked_on_disk(page, sets, "favourites", [0, 1, 2, 3, 4])
    page.tab.keyboard.press("u")
    marked_on_disk(page, sets, "favourites", [0])
    cell(page, 0).click()
    marked_on_disk(page, sets, "favourites", [])
    page.by("seppo-undo").click()
    marked_on_disk(page, sets, "favourites", [0])


def test_the_mark_of_a_picture_that_is_gone_can_be_taken_away(open_page, pictures, sets):
    page = open_page()
    lost = pictures / "lost.png"
    Image.new("RGB", (48, 48)).save(lost)
    opened(page)
    page.tab.locator("[data-address='output/lost.png']").click()
    wait_for_count(page, "1 marked of 1,501")
    marked_on_disk(page, sets, "favourites", ["output/lost.png"])
    lost.unlink()
    page.by("seppo-refresh").click()
    wait_for_count(page, "1 marked of 1,500")
    page.by("seppo-only").check()
    gone = page.tab.locator("[data-address='output/lost.png']")
    gone.get_by_text("there is no such file any more").wait_for()
    gone.click()
    wait_for_count(page, "0 marked of 1,500, 0 shown")
    page.troubles.clear()  # the browser's own line about the picture that is gone


def test_pictures_that_a_graph_made_meanwhile_appear(open_page, pictures, sets, vue):
    page = opened(open_page())
    graph = {
        "1": node("EmptyImage", width=48, height=48, batch_size=1, color=int(vue)),  # not cached
        "2": node("SaveImage", images=["1", 0], filename_prefix="meanwhile"),
    }
    page.load(graph)
    page.queue()
    wait_for_count(page, "0 marked of 1,501")
    for path in pictures.glob("meanwhile*"):
        path.unlink()


def test_a_mark_that_the_server_refuses_is_taken_back_and_told(open_page, pictures, sets):
    page = opened(open_page())
    kept = pictures / name_of(6)
    data, status = kept.read_bytes(), kept.stat()
    kept.unlink()
    try:
        cell(page, 6).click()
        page.by("seppo-trouble").get_by_text("no such file").wait_for()
        page.wait_for(
            "address => document.querySelector(`[data-address='${address}']`).ariaSelected === 'false'",
            address_of(6),
        )
    finally:
        kept.write_bytes(data)
        os.utime(kept, ns=(status.st_mtime_ns, status.st_mtime_ns))
    page.troubles.clear()  # the browser's own line about the answer


def test_keys_do_not_reach_the_graph_and_nothing_stays_behind(open_page, pictures, sets):
    page = open_page()
    page.load({"1": node("SePPOPickWinners", set_name="mine", caption="")})
    page.ask("() => window.app.canvas.selectNodes(window.app.graph.nodes)")
    opened(page)
    page.ask("() => document.activeElement.blur()")
    for key in ("Delete", "Backspace", "Control+a"):
        page.tab.keyboard.press(key)
    assert page.ask("() => window.app.graph.nodes.length") == 1
    page.tab.keyboard.press("Escape")
    page.wait_for("() => !document.querySelector('dialog.seppo-gallery')")
    opened(page)
    page.by("seppo-close").click()
    page.wait_for("() => !document.querySelector('dialog.seppo-gallery')")


def test_the_node_opens_the_gallery_and_loads_what_was_marked(
    open_page, pictures, sets, server, vue
):
    page = open_page()
    graph = {
        "1": node("SePPOPickWinners", set_name="mine", caption=""),
        "2": node("PreviewImage", images=["1", 1]),
    }
    page.load(graph)
    press_opener(page, vue)
    page.by("seppo-cell").first.wait_for()
    assert page.ask(BY_SET) == "mine"
    page.by("seppo-set").fill("the best")
    page.by("seppo-set").press("Enter")
    page.by("seppo-grid").focus()
    page.wait_for(f"name => ({WIDGET})() === name", "the best")
    for number in (2, 0, 7):
        cell(page, number).click()
    marked_on_disk(page, sets, "the best", [2, 0, 7])
    page.tab.keyboard.press("Escape")
    if vue:
        page.wait_for(
            "() => [...document.querySelectorAll('[data-node-id] input')].some(i => i.value === 'the best')"
        )
    page.shot(f"gallery_node_{'vue' if vue else 'canvas'}")
    sent = page.ask("async () => (await window.app.graphToPrompt()).output")
    (picked,) = (one for one in sent.values() if one["class_type"] == "SePPOPickWinners")
    assert picked["inputs"]["set_name"] == "the best"
    before = set(server.get("/history"))
    page.queue()
    new = lambda: set(server.get("/history")) - before  # noqa: E731
    entry = server.finish(server.until(new, 60, "the graph is in the history").pop())
    assert entry["status"]["status_str"] == "success"
    report = {
        "1": graph["1"] | {"inputs": picked["inputs"]},
        "2": node("PreviewAny", source=["1", 2]),
    }
    (text,) = server.run_graph(report)["2"]["text"]
    assert "set 'the best': 3 winning images, 3 different captions" in text


def test_another_set_for_the_node_can_be_undone(open_page, pictures, sets, vue):
    page = open_page()
    page.load({"1": node("SePPOPickWinners", set_name="mine", caption="")})
    press_opener(page, vue)
    page.by("seppo-cell").first.wait_for()
    page.by("seppo-set").fill("others")
    page.by("seppo-set").press("Enter")
    page.wait_for(f"name => ({WIDGET})() === name", "others")
    page.by("seppo-close").click()
    page.ask("() => window.app.extensionManager.command.execute('Comfy.Undo')")
    page.wait_for(f"name => ({WIDGET})() === name", "mine")


def test_a_name_that_no_set_can_have_is_told(open_page, pictures, sets, vue):
    page = open_page()
    page.load({"1": node("SePPOPickWinners", set_name="../mine", caption="")})
    press_opener(page, vue)
    trouble = page.by("seppo-trouble")
    trouble.get_by_text("is not a usable name").wait_for()
    cell(page, 0).click()
    trouble.get_by_text("Give the set a name first").wait_for()
    page.by("seppo-set").fill("mine")
    page.by("seppo-set").press("Enter")
    page.wait_for(f"name => ({WIDGET})() === name", "mine")
    cell(page, 0).click()
    marked_on_disk(page, sets, "mine", [0])
    page.troubles.clear()  # the browser's own line about the refusal
