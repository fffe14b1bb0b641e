"""How the pack's routes say no. Who may ask is the host's to say: it refuses pages of other sites before us."""

from aiohttp import web


def refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
