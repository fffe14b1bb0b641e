"""Winners that are marked in the gallery: its routes over HTTP, and the node that puts a set into the graph."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from folders import draw, sets_of
from graphs import cached, node
from hostile import attacks, tidied, watch
from inprocess import GraphError
from test_confinement import laid_bait

FOLDER = "gallery"


class Answer:
    def __init__(self, found: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = found.status, found.headers, found.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def ask(http_host):
    """One request as it is given, whatever comes back: ask("/seppo/sets") or with data or headers."""
    place = urlsplit(http_host.url).netloc

    def send(path: str, data: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(place, timeout=60)
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    return send


@pytest.fixture
def pictures(base) -> Iterator[list[str]]:
    """Addresses of three captioned pictures, the newest first."""
    with tidied(base):
        for age, name in enumerate("abc"):
            path = base / "output" / FOLDER / f"{name}.png"
            draw(path, f"a {name}", seed=age)
            os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
        yield [f"output/{FOLDER}/{name}.png" for name in "abc"]


@pytest.fixture
def sets(base) -> Iterator[Path]:
    with sets_of(base) as folder:
        yield folder


def picking(name: str, **widgets: Any) -> dict[str, Any]:
    return {"1": node("SePPOPickWinners", set_name=name, caption="", **widgets)}


def small(address: str, **query: Any) -> str:
    return "/seppo/thumbnail?" + urlencode({"address": address, **query})


# Lists and what pictures tell


def test_pictures_of_a_folder_are_listed_newest_first(ask, pictures):
    found = ask("/seppo/pictures?root=output").json["pictures"]
    names = [name for name, _, _ in found if name.startswith(FOLDER)]
    assert names == [f"{FOLDER}/{name}.png" for name in "abc"]
    assert ask("/api/seppo/pictures?root=input").status == 200


def test_what_pictures_tell_comes_in_parts_until_nothing_is_left(ask, pictures):
    ask("/seppo/pictures?root=output")
    rows, after, edition, left = {}, 0, "", 1
    while left:
        query = urlencode({"root": "output", "after": after, "edition": edition})
        answer = ask(f"/seppo/pictures/about?{query}").json
        rows |= {row["name"]: row for row in answer["rows"]}
        after, edition, left = answer["after"], answer["edition"], answer["left"]
    row = rows[f"{FOLDER}/a.png"]
    assert (row["width"], row["height"]) == (64, 64) and "carries no text" in row["reason"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/seppo/pictures?root=temp",
            "/seppo/pictures?root=..",
            "/seppo/pictures/about?root=/etc",
        ),
        *("/seppo/pictures/about?after=-1", "/seppo/pictures/about?after=x", "/seppo/thumbnail"),
        "/seppo/pictures/about?after=9999999999999",
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_reason(ask, path):
    answer = ask(path)
    assert answer.status == 400 and answer.json["error"]


# Small copies


def test_a_thumbnail_is_sent_once_and_then_confirmed(ask, pictures):
    first = ask(small(pictures[0], size=256))
    assert (first.status, first.headers["Content-Type"]) == (200, "image/webp")
    assert first.body[:4] == b"RIFF" and first.headers["Cache-Control"] == "private, no-cache"
    again = ask(small(pictures[0]), headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert "immutable" in ask(small(pictures[0], version="1")).headers["Cache-Control"]
    assert ask(small(pictures[0], size=999_999)).status == 400


@pytest.mark.parametrize("is_there", [True, False])
def test_a_thumbnail_whose_page_left_while_it_waited_is_not_made(
    host, base, pictures, monkeypatch, is_there
):
    routes, turn = host.module("nodes.gallery_routes"), asyncio.Semaphore(1)
    monkeypatch.setattr(routes, "DRAWING", turn)
    made = lambda: {*(base / "output/seppo/.cache/thumbnails").glob("*/*.webp")}  # noqa: E731

    async def wait_and_leave() -> None:
        connection = SimpleNamespace(transport=object())
        request = make_mocked_request("GET", small(pictures[0], size=1024))
        monkeypatch.setattr(request, "_protocol", connection)
        async with turn:
            answer = asyncio.create_task(routes.small(request))
            while not turn._waiters:
                await asyncio.sleep(0.01)
            connection.transport = object() if is_there else None
        await answer

    before = made()
    asyncio.run(wait_and_leave())
    assert len(made() - before) == is_there


def test_a_changed_picture_has_another_thumbnail(ask, base, pictures):
    first = ask(small(pictures[0]))
    draw(base / pictures[0], "a fox", seed=9)
    second = ask(small(pictures[0]), headers={"If-None-Match": first.headers["ETag"]})
    assert second.status == 200 and second.body != first.body


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_broken_picture_is_told_with_its_reason(ask, base, pictures, content):
    (base / pictures[0]).write_bytes(content)
    answer = ask(small(pictures[0]))
    assert answer.status == 415 and answer.json["error"].startswith("a.png: ")


# Sets


def test_a_set_is_marked_unmarked_and_listed(ask, pictures, sets):
    a, b, c = pictures
    assert ask("/seppo/sets/mine").json == {"marked": [], "choices": []}
    assert ask("/seppo/sets/mine", {"add": [a, b]}).json["marked"] == [a, b]
    assert ask("/seppo/sets/mine", {"remove": [a]}).json["marked"] == [b]
    became = ask("/seppo/sets/mine", {"choose": [[c, b]]}).json
    assert became == {"marked": [b, c], "choices": [[c, b]]}
    assert ask("/seppo/sets").json["sets"][0] == "mine"
    assert ask("/seppo/sets/mine").json == became


@pytest.mark.parametrize("name", ["100 % \u00fcn\u00ef", "a{b}c", "\u5b9f\u9a13", "run", "a.b"])
def test_sets_may_have_any_plain_name(ask, pictures, sets, name):
    path = f"/seppo/sets/{quote(name, safe='')}"
    assert ask(path, {"add": pictures[:1]}).json["marked"] == pictures[:1]
    assert ask("/seppo/sets").json["sets"] == [name]


def test_a_set_is_never_taken_for_a_run(ask, pictures, sets, host):
    ask("/seppo/sets/run", {"add": pictures})
    assert ".sets" not in host.module("nodes.host").run_names()


def test_another_sites_page_changes_nothing(ask, pictures, sets):
    foreign = {"Origin": "http://elsewhere.example"}
    assert ask("/seppo/sets/mine", {"add": pictures}, foreign).status == 403
    assert not list(sets.glob("*.set.json"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "as JSON"),
        (b"[" * 100_000, "as JSON"),
        (b"\xff\xfe", "as JSON"),
        (b"null", "JSON object"),
        (b'{"add": "x"}', "list of addresses"),
        (b'{"add": ["temp/a.png"]}', "is no address"),
        (b'{"add": ["output/none.png"]}', "no such file"),
        (b'{"choose": [["output/none.png", "output/no.png"]]}', "no such file"),
        (b'{"else": []}', "nothing else"),
        (b'{"add": ["' + b"x" * 5_000_000 + b'"]}', "send it in parts"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(ask, sets, data, reason):
    answer = ask("/seppo/sets/mine", data)
    assert answer.status == 400 and reason in answer.json["error"]
    assert not list(sets.glob("*.set.json"))


def test_two_pages_that_mark_at_once_lose_nothing(ask, base, pictures, sets):
    for number in range(40):
        draw(base / "output" / FOLDER / "many" / f"{number}.png", None, seed=number)

    def mark(numbers: range) -> None:
        for number in numbers:
            ask("/seppo/sets/mine", {"add": [f"output/{FOLDER}/many/{number}.png"]})

    threads = [threading.Thread(target=mark, args=(range(i, 40, 4),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ask("/seppo/sets/mine").json["marked"]) == 40


def test_no_text_that_the_routes_take_leads_out_of_the_hosts_folders(ask, host, sets):
    with tidied(host.base):
        bait = laid_bait(host)
        before = bait.state()
        for text in attacks(bait):
            word = quote(text.encode("utf-8", "surrogatepass"), safe="")
            picture = f"output/{text}.png"
            answers = [
                ask(f"/seppo/thumbnail?address={word}"),
                ask(f"/seppo/thumbnail?address=output%2F{word}%2Fa.png"),
                ask(f"/seppo/pictures?root={word}"),
                ask("/seppo/sets/mine", {"add": [picture, f"output/{text}/a.png"]}),
            ]
            assert {answer.status for answer in answers} <= {400, 200} and (
                answers[0].status == answers[1].status == answers[3].status == 400
            ), text
            assert ask(f"/seppo/sets/{word}", {"add": ["output/x.png"]}).status in (400, 404, 405)
        assert bait.state() == before
        assert not list(sets.glob("*.set.json"))


# The node


def test_a_set_becomes_winners_a_sheet_and_a_report(host, ask, pictures, sets):
    ask("/seppo/sets/mine", {"add": [pictures[2], pictures[0]]})
    winners, sheet, report = host.run_graph(picking("mine"), wanted=["1"])["1"]
    assert [(w.name, w.caption) for w in winners] == [(pictures[2], "a c"), (pictures[0], "a a")]
    assert sheet.shape[0] == 1 and "set 'mine': 2 winning images" in report


def test_the_better_of_each_pair_brings_its_losing_image(host, ask, pictures, sets):
    a, b, c = pictures
    ask("/seppo/sets/mine", {"choose": [[a, b], [c, a]]})
    (winner,) = host.run_graph(picking("mine"), wanted=["1"])["1"][0]
    assert (winner.name, winner.losing.name) == (c, a)


def test_a_set_without_marks_says_how_to_fill_it(host, ask, pictures, sets):
    with pytest.raises(GraphError, match="holds no pictures yet: press 'Open the gallery'"):
        host.run_graph(picking("favourites"), wanted=["1"])
    ask("/seppo/sets/mine", {"add": pictures})
    with pytest.raises(GraphError, match="take a set that is there: 'mine'"):
        host.run_graph(picking("favourites"), wanted=["1"])
    with pytest.raises(GraphError, match="is not a usable name"):
        host.run_graph(picking("../mine"), wanted=["1"])


def test_pictures_that_are_gone_are_named_in_the_report(host, ask, base, pictures, sets):
    ask("/seppo/sets/mine", {"add": pictures})
    (base / pictures[1]).unlink()
    winners, _, report = host.run_graph(picking("mine"), wanted=["1"])["1"]
    assert len(winners) == 2 and f"{pictures[1]}: there is no such file any more" in report
    with pytest.raises(GraphError, match="1 cannot be used"):
        host.run_graph(picking("mine", strict=True), wanted=["1"])
    for address in pictures:
        (base / address).unlink(missing_ok=True)
    with pytest.raises(GraphError, match="set 'mine': no usable image"):
        host.run_graph(picking("mine"), wanted=["1"])


def test_the_node_runs_again_only_when_its_set_changed(http_host, ask, base, pictures, sets):
    ask("/seppo/sets/mine", {"add": pictures[:2]})
    graph = picking("mine") | {"2": node("PreviewImage", images=["1", 1])}

    def was_cached() -> bool:
        return "1" in cached(http_host.finish(http_host.queue(graph)))

    assert [was_cached(), was_cached()] == [False, True]
    ask("/seppo/sets/mine", {"add": pictures[2:]})
    assert [was_cached(), was_cached()] == [False, True]
    (base / pictures[0]).with_suffix(".txt").write_text("another caption", "utf-8")
    assert [was_cached(), was_cached()] == [False, True]


def test_the_watched_node_opens_nothing_beside_its_set(host, ask, base, pictures, sets):
    ask("/seppo/sets/mine", {"add": pictures})
    (file,) = sets.glob("mine.set.json")
    values = json.loads(file.read_text("utf-8"))
    (base / "outside").mkdir(exist_ok=True)
    draw(base / "outside" / "a.png", "BAIT")
    values["by_hand"] += ["output/../outside/a.png", str(base / "outside" / "a.png")]
    file.write_text(json.dumps(values), "utf-8")
    with watch(base / "outside") as touched:
        winners, _, report = host.run_graph(picking("mine"), wanted=["1"])["1"]
    assert not touched and len(winners) == 3 and "BAIT" not in report
