"""The pack's routes on the host's server."""

from server import PromptServer

from . import gallery_routes, run_routes


def register() -> None:
    """Add the routes to the host's server; nothing where the host runs without one."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        run_routes.register(server.routes)
        gallery_routes.register(server.routes)
