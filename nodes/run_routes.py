"""What the page asks of runs: which there are, all that is shown of one, its pictures; and to end one after its step."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from aiohttp import web

from ..seppo_core.album import LEVELS, Album
from ..seppo_core.checkpoint import Run
from ..seppo_core.errors import CheckpointError, SePPOError
from . import host
from .answers import refusal
from .recorder import is_trained

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RUNS_LISTED = 500
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
    """Every run, newest first: name, steps, whether it trains, settings, panel."""
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
    about, kept = run.about(), Album(run.directory).about()
    config = about["config"]
    settings = {f"{part}.{key}": config.get(part, {}).get(key) for part, key in SHOWN}
    settings |= {key: config.get(key) for key in ("batch_size", "accumulation", "seed")}
    training, state = is_trained(run), kept.get("state", "")
    if state == "training" and not training:
        state = "stopped"  # its process was killed
    return {
        "name": run.name,
        "step": run.step(),
        "steps": config["steps"],
        "training": training,
        "state": state,
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
    album, rows = Album(run.directory), run.metrics()
    names = sorted(set().union(*rows)) if rows else []
    last = rows[-1]["step"] if rows else 0
    return _summary(run) | {
        "metrics": {name: [row.get(name) for row in rows] for name in names},
        "samples": album.pictures("sample", last),
        "tests": album.pictures("test", last),
        "cells": album.cells(last),
        "last": last,
        "levels": LEVELS,
        "captions": album.about().get("captions", {}),
    }


@of_a_run
async def picture(request: web.Request, run: Run) -> web.StreamResponse:
    """A picture of the run's album; the browser asks each time whether it is still the same."""
    path = Album(run.directory).picture_path(request.match_info["file"])
    if path is None:
        return refusal(404, "there is no such picture")
    return web.FileResponse(path, headers={"Cache-Control": "no-cache"})


@of_a_run
async def stop(request: web.Request, run: Run) -> web.Response:
    """204 once the run is told; 404 for no such run, 409 if it is not in training."""
    if not is_trained(run):
        return refusal(409, f"run {run.name!r} is not in training")
    try:
        run.request_stop()
    except OSError as error:
        return refusal(500, f"the run's folder cannot be written ({error.strerror})")
    return web.Response(status=204)
