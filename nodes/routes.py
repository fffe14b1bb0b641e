"""The pack's routes on the host's server."""

from pathlib import Path

from server import PromptServer

from . import gallery_routes, queued, run_routes

FOLDER = Path(__file__).parents[1]
"""The pack, under the name that the host knows it by"""


def register() -> None:
    """Add the routes to the host's server, and listen to what is queued; nothing where the host runs without one."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        run_routes.register(server.routes)
        gallery_routes.register(server.routes)
        serve_help(server)
        queued.listen(server)


def serve_help(server: PromptServer) -> None:
    """The page takes a pack's name up to its first dot only, as in seppo-1.0, and asks there for help pages."""
    cut = FOLDER.with_name(FOLDER.name.partition(".")[0])
    if cut != FOLDER and not cut.exists():
        server.routes.static(f"/extensions/{cut.name}/docs", FOLDER / "web" / "docs")
