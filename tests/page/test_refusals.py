"""What the pack's nodes say is the first thing that a user reads, when a graph is queued and when it runs."""

from __future__ import annotations

import pytest
from graphs import node
from pages import IS_NEW

TOAST = ".p-toast-message"


def loading(folder: str) -> dict:
    """Load Winners, looked at by a node of the host."""
    return {
        "1": node("SePPOLoadWinners", folder=folder, caption="", location="input"),
        "2": node("PreviewImage", images=["1", 1]),
    }


def said(page, words: str) -> str:
    """The pack's message with these words: before all else, or in the older host's dialog, which has them as well."""
    toast = page.tab.locator(TOAST, has_text=words)
    toast.wait_for()
    if not IS_NEW:
        page.tab.locator(".p-dialog", has_text=words).wait_for()
        return toast.inner_text()
    page.drawn()
    box = toast.bounding_box()
    assert 0 <= box["x"] <= box["x"] + box["width"] <= page.tab.viewport_size["width"]
    seen = page.ask(
        "([x, y]) => Boolean(document.elementFromPoint(x, y)?.closest('.p-toast-message'))",
        [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
    )
    assert seen, "something lies above it"
    return toast.inner_text()


@pytest.fixture
def folders(base):
    (base / "input" / "portraits").mkdir(parents=True, exist_ok=True)
    return base / "input"


def test_a_refusal_and_a_failure_are_shown_in_the_packs_own_words(open_page, folders):
    page = open_page()
    page.load(loading("portrait"), "refused")
    page.queue()
    text = said(page, "there is no folder 'portrait'")
    assert "SePPO Load Winning Images" in text and "There are: 'portraits'" in text
    page.shot("refused")
    page.load(loading("portraits"), "failing")
    page.queue()
    text = said(page, "portraits: no usable image. Give at least one picture.")
    assert "SePPO Load Winning Images" in text and "seppo_core" not in text
    page.tab.locator(TOAST, has_text="there is no folder").wait_for(state="detached")
    page.shot("failed")
