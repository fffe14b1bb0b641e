"""What the page's gallery asks: lists of pictures, what they tell, small copies, and named sets of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web

from ..seppo_core.errors import ConfigError, DatasetError, SePPOError
from ..seppo_core.gallery.index import Index
from ..seppo_core.gallery.places import located
from ..seppo_core.gallery.sets import PictureSet, change_set, changes_from, read_set, set_names
from ..seppo_core.gallery.thumbnails import SIDES, thumbnail, thumbnail_name, tidy
from ..seppo_core.identity import digest_value
from . import host, pick
from .refusals import refusal

MAX_BODY = 4_000_000
READING = 0.2
"""Seconds that one question may spend on reading pictures that are new."""
DRAWING = asyncio.Semaphore(2)
"""Small copies made at once; a graph that runs needs the processor, too."""

ONE_SET = "/seppo/sets/{name:[^/]+}"
"""By itself aiohttp takes no braces in a name."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def register(routes: web.RouteTableDef) -> None:
    for path, handler in GETS.items():
        routes.get(path)(answering(handler))
    routes.post(ONE_SET)(answering(change))


def answering(handler: Handler) -> Handler:
    """Our errors as answers: 400 for what was asked wrongly, 415 for what is in the files."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ConfigError as error:
            return refusal(400, str(error))
        except SePPOError as error:
            return refusal(415, str(error))
        except OSError as error:
            return refusal(500, f"the disk refuses ({error.strerror or type(error).__name__})")

    return answer


async def pictures(request: web.Request) -> web.Response:
    """Every picture of a folder as [name, time in ns, size], newest first."""
    index = index_of(request)
    await asyncio.to_thread(tidied, thumbnails_root())
    return await in_thread(lambda: {"pictures": index.pictures()})


async def about(request: web.Request) -> web.Response:
    """What pictures tell that the page was not told yet, and how many are still to be read."""
    index = index_of(request)
    edition, after = request.query.get("edition", ""), number(request, "after", 0)
    return await in_thread(lambda: index.answer(edition, after, READING).__dict__)


async def small(request: web.Request) -> web.StreamResponse:
    """A picture as WebP with a longest side of 256 or 1024; 304 for what the page still has.

    Who names a `version`, which has to change with the file, need not ask again.
    """
    side = number(request, "size", min(SIDES))
    path = await asyncio.to_thread(asked_picture, request.query.get("address", ""))
    tag = f'"{await asyncio.to_thread(thumbnail_name, path, side)}"'
    lasting = "max-age=604800, immutable" if "version" in request.query else "no-cache"
    headers = {"ETag": tag, "Cache-Control": f"private, {lasting}"}
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=headers)
    async with DRAWING:
        if request.transport is None:  # the page scrolled on while this one waited
            return web.Response(status=503)
        data = await asyncio.to_thread(thumbnail, path, side, thumbnails_root())
    return web.Response(body=data, content_type="image/webp", headers=headers)


async def sets(request: web.Request) -> web.Response:
    """The names of all sets, the one changed last first."""
    return await in_thread(lambda: {"sets": set_names(pick.sets_root())})


async def one_set(request: web.Request) -> web.Response:
    """What a set holds; nothing for one that is not there yet."""
    file = pick.set_file(request.match_info["name"])
    return await in_thread(lambda: content(read_set(file)))


async def change(request: web.Request) -> web.Response:
    """Apply one change or several, see `sets.changes_from`; the whole set as it became, once it is on the disk."""
    file = pick.set_file(request.match_info["name"])
    body = await asked(request)

    def apply() -> dict[str, Any]:
        changes = changes_from(body)
        for address in (address for one in changes for address in one.brings):
            asked_picture(address)
        return content(change_set(file, *changes))

    return await in_thread(apply)


GETS: dict[str, Handler] = {
    "/seppo/pictures": pictures,
    "/seppo/pictures/about": about,
    "/seppo/thumbnail": small,
    "/seppo/sets": sets,
    ONE_SET: one_set,
}


async def in_thread(work: Callable[[], dict[str, Any]]) -> web.Response:
    """What `work` gives as JSON; neither it nor the writing of the JSON holds up the server."""
    text = await asyncio.to_thread(lambda: json.dumps(work()))
    return web.Response(text=text, content_type="application/json")


def content(chosen: PictureSet) -> dict[str, Any]:
    return {"marked": chosen.marked, "choices": chosen.choices}


async def asked(request: web.Request) -> Any:
    """The JSON that was sent; ConfigError if it is none or too long."""
    body = bytearray()
    async for block in request.content.iter_any():
        body += block
        if len(body) > MAX_BODY:
            raise ConfigError(f"a change has up to {MAX_BODY:,} bytes; send it in parts")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ConfigError("expected a change as JSON in UTF-8") from None


def asked_picture(address: str) -> Path:
    """The file of a picture; ConfigError names the address that leads to none."""
    try:
        return located(pick.roots(), address)
    except DatasetError as error:
        raise ConfigError(f"{host.quoted(address)} {error}") from None


def number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise ConfigError(f"{name} must be a whole number, got {host.quoted(text)}")
    return int(text)


def index_of(request: web.Request) -> Index:
    place, roots = request.query.get("root", "output"), pick.roots()
    if place not in roots:
        raise ConfigError(f"unknown root {host.quoted(place)}; choose from {list(roots)}")
    return index_at(roots[place].resolve())


@cache
def index_at(root: Path) -> Index:
    file = host.cache_root() / "gallery" / f"{digest_value(str(root))[:16]}.jsonl"
    return Index(root, file)


def thumbnails_root() -> Path:
    return host.cache_root() / "thumbnails"


@cache
def tidied(folder: Path) -> int:
    """Once for each start of the host."""
    return tidy(folder)
