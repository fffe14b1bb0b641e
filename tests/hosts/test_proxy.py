"""Behind a reverse proxy: what the host takes from a page, the pack's routes take as well, and no more."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

SITE = "comfy.example.org"
OURS = ("/seppo/sets/proxied", "/seppo/runs/none/stop")
PROXIES = {
    "drops the port, as nginx with $host": ("10.1.1.29", "http://10.1.1.29:7777"),
    "names its upstream": ("comfyui:8188", f"https://{SITE}"),
    "adds a port, as nginx with $server_port": (f"{SITE}:443", f"https://{SITE}"),
    "passes the name on": (SITE, f"https://{SITE}"),
    "names the loopback, as nginx does by itself": ("", f"https://{SITE}"),
}
"""What it does to Host -> Host as the server gets it (empty: the server's own), and the page's origin."""


@contextmanager
def proxy(upstream: str, host: str) -> Iterator[str]:
    """A reverse proxy that passes POSTs on with `host` as their Host; its address."""
    target = urlsplit(upstream).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = dict(self.headers.items()) | {"Host": host or target}
            connection = http.client.HTTPConnection(target, timeout=30)
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.read())
            connection.close()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def status(url: str, **headers: str) -> int:
    data = json.dumps({"add": []}).encode()
    headers = {"Content-Type": "application/json"} | headers
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as got:
            return got.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("way", PROXIES)
def test_behind_a_proxy_the_pack_refuses_exactly_what_the_host_refuses(http_host, way):
    host, origin = PROXIES[way]
    with proxy(http_host.url, host) as address:
        taken = status(f"{address}/interrupt", Origin=origin) == 200
        said = [status(f"{address}{route}", Origin=origin) for route in OURS]
    assert taken == bool(host)  # the host compares names on the loopback alone
    assert said == ([200, 404] if taken else [403, 403])


def test_pages_of_other_sites_are_refused_on_the_loopback(http_host):
    for route in ("/interrupt", *OURS):
        assert status(http_host.url + route, Origin="https://evil.example") == 403
