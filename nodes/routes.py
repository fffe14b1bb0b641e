"""What the page may ask of the pack beside running graphs: to end a run after its current step, and for help."""

from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

from ..seppo_core.checkpoint import Run
from ..seppo_core.errors import SePPOError
from . import host

FOLDER = Path(__file__).parents[1]
"""The pack, under the name that the host knows it by"""


def register() -> None:
    """Add the routes to the host's server; nothing where the host runs without one."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.post("/seppo/runs/{name}/stop")(stop)
        serve_help(server)


def serve_help(server: PromptServer) -> None:
    """The page takes a pack's name up to its first dot only, as in seppo-1.0, and asks there for help pages."""
    cut = FOLDER.with_name(FOLDER.name.partition(".")[0])
    if cut != FOLDER and not cut.exists():
        server.routes.static(f"/extensions/{cut.name}/docs", FOLDER / "web" / "docs")


async def stop(request: web.Request) -> web.Response:
    """204 once the run is told; 403 for another site's page, 404 for no such run, 409 if it is not in training."""
    if not same_origin(request):
        return refusal(403, "asked by a page of another site")
    try:
        run = Run(host.run_directory(request.match_info["name"]))
    except SePPOError as error:
        return refusal(404, str(error))
    if not run.exists():
        return refusal(404, f"there is no run {run.name!r}")
    if run.owner() is None:
        return refusal(409, f"run {run.name!r} is not in training")
    try:
        run.request_stop()
    except OSError as error:
        return refusal(500, f"the run's folder cannot be written ({error.strerror})")
    return web.Response(status=204)


def same_origin(request: web.Request) -> bool:
    """Browsers name the page's site in every POST; what names none is no browser."""
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()


def refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
