"""Five thousand pictures are scrolled through: what is seen is asked for first, and what is gone is given up."""

from __future__ import annotations

import io
from urllib.parse import parse_qs, urlsplit

from PIL import Image

COUNT = 5000
AT_ONCE = 4
NAMES = [f"{number:05}.png" for number in range(COUNT)]
SEEN = """() => {
    const grid = document.querySelector("[data-testid=seppo-grid]").getBoundingClientRect();
    return [...document.querySelectorAll("[data-testid=seppo-cell]")]
        .filter((cell) => {
            const { top, bottom } = cell.getBoundingClientRect();
            return bottom > grid.top && top < grid.bottom;
        })
        .map((cell) => cell.dataset.address);
}"""
ON_PAGE = "() => [...document.querySelectorAll('[data-testid=seppo-cell]')].map((cell) => cell.dataset.address)"
SCROLL = """async () => {
    const grid = document.querySelector("[data-testid=seppo-grid]");
    let frames = 0;
    while (grid.scrollTop + grid.clientHeight < grid.scrollHeight - 1) {
        grid.scrollTop += 2 * grid.clientHeight;
        await new Promise((done) => requestAnimationFrame(done));
        frames += 1;
    }
    return frames;
}"""
ALL_DRAWN = """(addresses) => addresses.every((address) =>
    document.querySelector(`[data-address="${address}"] img`)?.naturalWidth > 0)"""


class Server:
    """Stands in for the routes of pictures; it answers at once, or not until `answer_all`."""

    def __init__(self, page) -> None:
        made = io.BytesIO()
        Image.new("RGB", (64, 64), (90, 80, 120)).save(made, "WEBP")
        self.picture = made.getvalue()
        self.held: list | None = None
        self.asked: list[str] = []
        self.on_their_way: set = set()
        self.given_up: list[str] = []
        rows = [
            [name, 1_760_000_000_000_000_000 - 1000 * place, 99] for place, name in enumerate(NAMES)
        ]
        told = {"edition": "one", "after": 0, "left": 0, "rows": []}
        page.tab.route("**/seppo/pictures?*", lambda route: route.fulfill(json={"pictures": rows}))
        page.tab.route("**/seppo/pictures/about?*", lambda route: route.fulfill(json=told))
        page.tab.route("**/seppo/thumbnail?*", self.small)
        page.tab.on("requestfinished", self.finished)
        page.tab.on("requestfailed", self.failed)

    def small(self, route) -> None:
        self.asked.append(address_in(route.request))
        self.on_their_way.add(route.request)
        if self.held is None:
            route.fulfill(body=self.picture, content_type="image/webp")
        else:
            self.held.append(route)

    def finished(self, request) -> None:
        self.on_their_way.discard(request)

    def failed(self, request) -> None:
        if request in self.on_their_way:
            self.on_their_way.discard(request)
            self.given_up.append(address_in(request))

    def answer_all(self) -> None:
        held, self.held = self.held, None
        for route in held:
            if route.request in self.on_their_way:
                route.fulfill(body=self.picture, content_type="image/webp")


def address_in(request) -> str:
    return parse_qs(urlsplit(request.url).query)["address"][0]


def until(page, condition) -> None:
    for _ in range(600):
        if condition():
            return
        page.drawn()
    raise AssertionError("it did not become so")


def opened(page) -> Server:
    server = Server(page)
    page.ask("() => { window.app.extensionManager.command.execute('SePPO.PickWinners'); }")
    page.by("seppo-cell").first.wait_for()
    return server


def test_what_is_seen_is_asked_for_first_and_once(open_page):
    page = open_page()
    server = opened(page)
    seen = page.ask(SEEN)
    page.wait_for(ALL_DRAWN, page.ask(ON_PAGE))
    assert 20 < len(seen) < len(server.asked)
    assert server.asked[: len(seen)] == seen
    assert len(server.asked) == len(set(server.asked)) < 120


def test_after_a_fast_scroll_the_next_requests_are_for_what_is_seen(open_page):
    page = open_page()
    server = opened(page)
    page.wait_for(ALL_DRAWN, page.ask(ON_PAGE))
    server.asked.clear()
    server.held = []  # as slow as a server can be
    frames = page.ask(SCROLL)
    page.drawn()
    seen = page.ask(SEEN)
    assert NAMES[-1] in seen[-1] and frames > 30
    until(page, lambda: len(server.on_their_way) == AT_ONCE)
    waiting = [address_in(request) for request in server.on_their_way]
    passed = [address for address in server.asked if address not in waiting]
    assert len(server.asked) <= AT_ONCE * (frames + 1)
    assert len(waiting) == AT_ONCE and set(waiting) <= set(seen), "what is on its way is seen"
    assert set(passed) <= set(server.given_up), "what was scrolled past is given up"
    before = len(server.asked) - len(waiting)
    server.answer_all()
    page.wait_for(ALL_DRAWN, seen)
    asked = server.asked[before:]
    assert asked[: len(seen)] == seen, "nothing else comes before what is seen"


def test_a_gallery_that_is_closed_asks_for_nothing_more(open_page):
    page = open_page()
    server = Server(page)
    server.held = []
    page.ask("() => { window.app.extensionManager.command.execute('SePPO.PickWinners'); }")
    page.by("seppo-cell").first.wait_for()
    until(page, lambda: len(server.asked) == AT_ONCE)
    page.by("seppo-close").click()
    page.wait_for("() => !document.querySelector('dialog.seppo-gallery')")
    until(page, lambda: server.on_their_way == set())
    assert len(server.given_up) == AT_ONCE
    server.answer_all()
    page.drawn()
    assert len(server.asked) == AT_ONCE
