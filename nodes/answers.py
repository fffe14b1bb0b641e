"""What all routes of the pack share: who may ask, and how they say no."""

from urllib.parse import urlsplit

from aiohttp import web


def same_origin(request: web.Request) -> bool:
    """Browsers name the page's site in every POST; what names none is no browser."""
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()


def refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
