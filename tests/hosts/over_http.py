"""ComfyUI as a server of its own, spoken to over HTTP as its page does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path


@dataclass
class HttpHost:
    url: str
    process: subprocess.Popen
    log: Path

    @classmethod
    def start(cls, path: Path, base: Path, timeout: float = 180) -> HttpHost:
        """Start `main.py` on a free port; returns once it answers. Raises with the log's end."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "main.py", "--port", str(port), "--base-directory", str(base)]
        if os.environ.get("SEPPO_TEST_DEVICE", "cpu") == "cpu":
            command.append("--cpu")
        log = base / "server.log"
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(command, cwd=path, stdout=out, stderr=out)
        host = cls(f"http://127.0.0.1:{port}", process, log)
        host.until(host.answers, timeout, "the server answers")
        return host

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> object:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict | None = None) -> object:
        """The JSON answer, None if empty; an HTTP error's body becomes the error's message."""
        request = urllib.request.Request(
            self.url + path,
            json.dumps(data or {}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"POST {path}: {error.code} {error.read().decode()}") from error
        return json.loads(body) if body else None

    def ask(self, run: str, what: str, origin: str = "") -> int:
        """Ask something of a run (stop, cancel, continue) as a page of `origin` does; the answer's status."""
        headers = {"Origin": origin} if origin else {}
        path = f"{self.url}/seppo/runs/{run}/{what}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(path, b"", headers), timeout=30
            ) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            assert "Traceback" not in error.read().decode()
            return error.code

    def queue(self, prompt: dict) -> str:
        """Queue a graph in API format; its prompt id."""
        return self.post("/prompt", {"prompt": prompt, "client_id": "test"})["prompt_id"]

    def finish(self, prompt_id: str, timeout: float = 300) -> dict:
        """The history entry of a queued graph once it has ended, whether well or not."""
        return self.until(
            lambda: self.get(f"/history/{prompt_id}").get(prompt_id), timeout, "the graph ended"
        )

    def run_graph(self, prompt: dict, timeout: float = 300) -> dict:
        """Queue and wait; node id -> what the page is shown. Raises unless it succeeded."""
        entry = self.finish(self.queue(prompt), timeout)
        if entry["status"]["status_str"] != "success":
            raise AssertionError(f"{entry['status']['messages']}\n{self.log_end()}")
        return entry["outputs"]

    def interrupt(self) -> None:
        self.post("/interrupt")

    def running(self) -> list:
        return self.get("/queue")["queue_running"]

    def answers(self) -> bool:
        try:
            return bool(self.get("/system_stats"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def until(self, condition, timeout: float, what: str):
        """The first true value of `condition()`; raises if the server dies or time runs out."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended before {what}\n{self.log_end()}")
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s: {what}\n{self.log_end()}")
            time.sleep(0.5)
        return value

    def log_end(self, lines: int = 60) -> str:
        text = self.log.read_text("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])
