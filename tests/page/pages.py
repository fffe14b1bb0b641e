"""The host's page in a real browser: Chromium that is installed here, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inprocess import PACK_FOLDER, version_at
from over_http import HttpHost

HOST_PATH = os.environ.get("SEPPO_TEST_HOST")
IS_NEW = bool(HOST_PATH) and version_at(Path(HOST_PATH)) >= (0, 4)
"""Whether the page has the second renderer of nodes, and what came with it, as the panel of properties."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREENSHOTS = "SEPPO_SCREENSHOTS"
"""Environment variable: a folder where pictures of the pages are kept for people to look at."""
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.ReleaseNotes.Shown": True,
}
PATIENCE = int(os.environ.get("SEPPO_PATIENCE", 90_000))
"""Milliseconds; a busy machine takes long to draw its first page."""


def find_browser() -> str | None:
    named = os.environ.get("SEPPO_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


LEAST_CONTRAST = 4.5
"""Of text with what is behind it (WCAG 2.2, 1.4.3)."""
CONTRASTS = """() => {
    const numbers = (colour) => {
        const paint = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
        paint.fillStyle = colour;
        paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => (c * a + below[i] * (255 - a)) / 255);
    const behind = (one) => one
        ? over(numbers(getComputedStyle(one).backgroundColor), behind(one.parentElement))
        : numbers(LiteGraph.NODE_DEFAULT_BGCOLOR).slice(0, 3);
    const luminance = (rgb) => rgb
        .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const one of document.querySelectorAll("[class*=seppo], [class*=seppo] *")) {
        const said = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
        if (!said || !one.checkVisibility() || one.disabled) continue;
        const back = behind(one);
        const [low, high] = [back, over(numbers(getComputedStyle(one).color), back)].map(luminance).sort((a, b) => a - b);
        found.push([said, (high + 0.05) / (low + 0.05)]);
    }
    return found;
}"""
"""What the pack's elements say, each with its contrast."""


@dataclass
class Page:
    """One open page of a host."""

    host: HttpHost
    tab: Any
    """playwright.sync_api.Page"""
    kept: Path
    """folder of its screenshots"""
    troubles: list[str] = field(default_factory=list)
    """errors that name the pack; the host's own pages have some that do not"""
    loaded: list[str] = field(default_factory=list)
    """addresses that were answered well"""

    def open(self) -> Page:
        self.tab.goto(self.host.url, timeout=PATIENCE)
        self.wait_for(
            "() => window.app?.extensionManager && window.app.graph && !window.app.loading"
        )
        self.wait_for("() => Boolean(LiteGraph.registered_node_types['SePPOTrain'])")
        self.wait_for("() => !document.getElementById('splash-loader')")
        return self

    def reload(self) -> Page:
        return self.open()

    def ask(self, script: str, argument: Any = None) -> Any:
        return self.tab.evaluate(script, argument)

    def wait_for(self, condition: str, argument: Any = None, timeout: float = PATIENCE) -> Any:
        """The first true value of a JavaScript function."""
        found = self.tab.wait_for_function(condition, arg=argument, timeout=timeout)
        return found.json_value()

    def drawn(self) -> None:
        """Wait for a whole frame: before it, elements lie where they were, and the canvas knows of no new node."""
        self.ask(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def by(self, testid: str) -> Any:
        """The elements of the pack with that data-testid."""
        return self.tab.locator(f"[data-testid='{testid}']")

    def load(self, prompt: dict[str, Any], name: str = "test") -> None:
        """Put a graph in API format on the canvas; links and widget values come with it."""
        self.ask(
            "async ([prompt, name]) => { await window.app.loadApiJson(prompt, name); }",
            [prompt, name],
        )
        self.wait_for("count => window.app.graph.nodes.length === count", len(prompt))

    def look_at(self, node_class: str) -> None:
        """Bring the first node of a class to the middle of the page, at its own size."""
        self.ask(
            """name => {
                const node = window.app.graph.nodes.find((one) => one.comfyClass === name);
                window.app.canvas.ds.scale = 1;
                window.app.canvas.centerOnNode(node);
                window.app.graph.setDirtyCanvas(true, true);
            }""",
            node_class,
        )
        self.drawn()

    def browse_templates(self, name: str) -> Any:
        """Open the pack's list in the host's template browser; the card of that template.

        Once more where the browser had not settled: it chooses a list by itself while it opens.
        """
        self.ask("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        card = self.tab.get_by_text(name).first
        for _ in range(4):
            self.tab.get_by_text(PACK_FOLDER, exact=False).first.click()
            if appears(card):
                break
        return card

    def queue(self) -> None:
        self.ask("() => window.app.queuePrompt(0, 1)")

    def is_legible(self) -> bool:
        """Whether everything that the pack's elements say stands out from what is behind it."""
        said = self.ask(CONTRASTS)
        faint = [
            f"{text!r}: {contrast:.2f}" for text, contrast in said if contrast < LEAST_CONTRAST
        ]
        assert said and not faint, faint
        return True

    def shot(self, name: str) -> Path:
        path = self.kept / f"{name}.png"
        self.tab.screenshot(path=path)
        return path


def appears(element: Any, patience: float = 8000) -> bool:
    """Whether an element can be seen within so many milliseconds."""
    from playwright.sync_api import TimeoutError

    try:
        element.wait_for(timeout=patience)
    except TimeoutError:
        return False
    return True


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that sees this machine alone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(
    browser: Any, host: HttpHost, kept: Path, name: str, vue: bool = False, light: bool = False
) -> Iterator[Page]:
    """A page with the renderer and theme asked for; at the end it is pictured, and had no error of the pack."""
    settings = SETTINGS | {
        "Comfy.VueNodes.Enabled": vue,
        "Comfy.ColorPalette": "light" if light else "dark",
    }
    host.post("/settings", settings)
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    context.route(
        lambda url: not url.startswith((host.url, "data:", "blob:")), lambda route: route.abort()
    )
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    page = Page(host, tab, kept)
    listen(tab, page.troubles.append)
    tab.on("response", lambda found: page.loaded.append(found.url) if found.ok else None)
    try:
        yield page
        page.shot(name)
        assert not page.troubles, page.troubles
    finally:
        context.close()


def listen(tab: Any, tell: Callable[[str], None]) -> None:
    """Pass on errors of the page that name the pack."""

    def about(text: str) -> None:
        if "seppo" in text.lower():
            tell(text)

    tab.on("pageerror", lambda error: about(f"{error}\n{error.stack}"))
    tab.on("console", lambda message: about(message.text) if message.type == "error" else None)
