"""The pack's routes on the host's server."""

from server import PromptServer

from . import run_routes
from .answers import refusal, same_origin

__all__ = ["refusal", "register", "same_origin"]


def register() -> None:
    """Add the routes to the host's server; nothing where the host runs without one."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        run_routes.register(server.routes)
