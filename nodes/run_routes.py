"""What the page asks of runs: which there are, how it stands with them and with panels, all that is shown of one, its
pictures; and to end one after its step, or to let it go on."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from aiohttp import web

from ..seppo_core.errors import CheckpointError, SePPOError
from ..seppo_core.runs.pictures import LEVELS, RunPictures
from ..seppo_core.runs.run import Run
from ..seppo_core.runs.status import ACTIONS
from . import host, panels
from .recorder import tell_pages
from .refusals import refusal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RUNS_LISTED = 500
PANELS_ASKED = 50
SHOWN = (
    ("loss", "criterion"),
    ("loss", "objective"),
    ("loss", "beta"),
    ("loss", "paired"),
    ("references", "selection"),
    ("references", "reuse"),
    ("lora", "rank"),
    ("optimizer", "name"),
    ("optimizer", "learning_rate"),
    ("optimizer", "schedule"),
)
"""Settings that the list of runs shows, beside steps, batch size and seed."""


def register(routes: web.RouteTableDef) -> None:
    routes.get("/seppo/runs")(runs)
    routes.get("/seppo/runs/{name:[^/]+}")(one)
    routes.get("/seppo/runs/{name:[^/]+}/pictures/{file}")(picture)
    routes.post("/seppo/runs/{name:[^/]+}/stop")(stop)
    routes.post("/seppo/runs/{name:[^/]+}/continue")(go_on)
    routes.get("/seppo/panels")(of_panels)


def of_a_run(handler: Callable[[web.Request, Run], Awaitable[web.StreamResponse]]) -> Handler:
    """The handler gets the run that the address names; 404 if there is none."""

    @wraps(handler)
    async def found(request: web.Request) -> web.StreamResponse:
        try:
            run = await asyncio.to_thread(_existing, request.match_info["name"])
        except SePPOError as error:
            return refusal(404, str(error))
        return await handler(request, run)

    return found


def _existing(name: str) -> Run:
    """CheckpointError if there is no such run."""
    run = Run(host.run_directory(name))
    if not run.exists():
        raise CheckpointError(f"there is no run {run.name!r}")
    return run


async def runs(request: web.Request) -> web.Response:
    """Every run, newest first: name, how it stands, settings, panel."""
    return web.json_response(await asyncio.to_thread(_listed))


def _listed() -> list[dict[str, Any]]:
    found = []
    for name in host.run_names()[:RUNS_LISTED]:
        try:
            run = Run(host.run_directory(name))
            found.append(_summary(run))
        except (SePPOError, OSError, KeyError):
            continue  # of another version, damaged or just deleted: Load Run says so
    return found


def _summary(run: Run) -> dict[str, Any]:
    about, kept = run.about(), RunPictures(run.directory).about()
    config = about["config"]
    settings = {f"{part}.{key}": config.get(part, {}).get(key) for part, key in SHOWN}
    settings |= {key: config.get(key) for key in ("batch_size", "accumulation", "seed")}
    return {
        "name": run.name,
        **run.status().for_page(),
        "panel": kept.get("panel", ""),
        "base": about["base_name"],
        "winners": about.get("winners"),
        "created": about.get("created"),
        "snapshots": [step for step in run.snapshot_steps() if step],
        "settings": settings,
    }


@of_a_run
async def one(request: web.Request, run: Run) -> web.Response:
    """All that is shown of a run."""
    try:
        return web.json_response(await asyncio.to_thread(_whole, run))
    except SePPOError as error:
        return refusal(409, str(error))


def _whole(run: Run) -> dict[str, Any]:
    pictures, rows = RunPictures(run.directory), run.metrics()
    names = sorted(set().union(*rows)) if rows else []
    last = rows[-1]["step"] if rows else 0
    return _summary(run) | {
        "metrics": {name: [row.get(name) for row in rows] for name in names},
        "samples": pictures.pictures("sample", last),
        "tests": pictures.pictures("test", last),
        "cells": pictures.cells(last),
        "last": last,
        "levels": LEVELS,
        "captions": pictures.about().get("captions", {}),
    }


@of_a_run
async def picture(request: web.Request, run: Run) -> web.StreamResponse:
    """A picture of the run; the browser asks each time whether it is still the same."""
    path = RunPictures(run.directory).picture_path(request.match_info["file"])
    if path is None:
        return refusal(404, "there is no such picture")
    return web.FileResponse(path, headers={"Cache-Control": "no-cache"})


def asked(action: str, obey: Callable[[Run], None]) -> Handler:
    """A route that asks something of a run: 204 once it is told, and every page of how it stands then.

    404 for no such run, 409 where the run's state does not let it be asked for.
    """

    @of_a_run
    async def ask(request: web.Request, run: Run) -> web.StreamResponse:
        status = await asyncio.to_thread(run.status)
        if action not in ACTIONS.get(status.state, ()):
            return refusal(409, f"run {run.name!r} is not in a state for that: {status.text}")
        try:
            obey(run)
        except OSError as error:
            return refusal(500, f"the run's folder cannot be written ({error.strerror})")
        await asyncio.to_thread(tell_pages, run)
        return web.Response(status=204)

    return ask


stop = asked("stop", Run.request_stop)
go_on = asked("continue", Run.ask_to_go_on)


async def of_panels(request: web.Request) -> web.Response:
    """How it stands with each panel that is asked for."""
    names = request.query.getall("panel", [])[:PANELS_ASKED]
    return web.json_response(
        {name: await asyncio.to_thread(panels.standing, name) for name in names if name}
    )
