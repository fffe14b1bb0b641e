"""From the loop to the page: keeps what is shown of a run in its folder, and tells every open page as it comes."""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import comfy.model_management
from PIL import Image
from server import PromptServer

from ..seppo_core.data import EncodedDataset
from ..seppo_core.errors import SePPOError
from ..seppo_core.runs.pictures import MOST_WINNERS, RunPictures
from ..seppo_core.runs.report import StepReport
from ..seppo_core.runs.run import Run
from ..seppo_core.runs.status import FAILED, LAST_STEP, TRAINING, Status, reason_of, was_cancelled
from . import host, panels

SECONDS_BETWEEN = 0.1
"""Pages are told at most ten times a second; what comes faster is put together."""
SMALL = 256
"""Longest side in pixels of the pictures that are kept."""


class Recorder:
    """Of what a node does with a run. `panel` is what the page calls the node's panel; empty without a page."""

    def __init__(
        self, run: Run, dataset: EncodedDataset, panel: str, steps: int, node_id: str = ""
    ) -> None:
        self.run, self.dataset, self.panel = run, dataset, panel
        self.steps, self.node_id = steps, node_id
        self.pictures = RunPictures(run.directory)
        self.captions: dict[int, str] = {}
        self.waiting: dict[str, list[Any]] = _nothing()
        self.sent_at = 0.0
        self.began = False
        self.last_step = run.step()

    def __enter__(self) -> "Recorder":
        panels.shows(self.panel, self.run)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        """The node and every page are told how it stands now; what the node was told before no longer holds."""
        if self.began and error is not None and not was_cancelled(error):
            self.run.tell(FAILED, reason_of(error))  # the loop itself was only closed
        self.flush()
        text = ""  # where it never began
        with suppress(SePPOError, OSError):  # which would hide the fault
            if self.run.exists():
                self._keep_about()
                text = tell_pages(self.run).text
        host.progress_text(text, self.node_id)

    def _keep_about(self) -> None:
        known = self.pictures.about()
        captions = {str(winner): text for winner, text in self.captions.items()}
        captions = known.get("captions", {}) | captions
        about = {"panel": self.panel or known.get("panel", ""), "captions": captions}
        if self.panel or about != known:  # whose panel shows it last is told by the file's time
            self.pictures.write_about(about)

    def step(self, report: StepReport, picture: Image.Image | None) -> None:
        """Keep what a step brought; pages are told now or with a later step."""
        if not self.began or report.step <= self.last_step:  # it begins, or went back after trouble
            self.flush()
            self.began = True
            self.last_step = report.step
            self._keep_about()
            self._send("seppo.run", self._training())
        self.last_step = report.step
        self.waiting["rows"].append(report.metrics())
        self._map(report)
        if picture is not None:
            first = report.examples[0] if report.examples else None
            about = {"caption": report.caption, "reference_step": report.reference_step}
            if first is not None:
                about |= {"role": first.role, "margin": first.winner_margin}
            line = self.pictures.add_picture("sample", report.step, small(picture), **about)
            self.waiting["samples"].append(line)
        if time.monotonic() - self.sent_at >= SECONDS_BETWEEN:
            self.flush()

    def test(self, step: int, number: int, prompt: str, picture: Image.Image) -> None:
        """Keep a picture drawn for a test prompt."""
        line = self.pictures.add_picture("test", step, small(picture), number=number, prompt=prompt)
        self.waiting["tests"].append(line)

    def flush(self) -> None:
        if any(self.waiting.values()):
            self.sent_at = time.monotonic()
            self._send("seppo.step", self._training(), self.waiting | {"memory": memory()})
            self.waiting = _nothing()

    def _training(self) -> Status:
        note = LAST_STEP if self.run.stop_requested() else ""
        return Status(TRAINING, self.last_step, self.steps, note)

    def _map(self, report: StepReport) -> None:
        """What the map of winners and levels shows of a step: the first winners, each counted once."""
        places = [self.dataset.order[example.winner] for example in report.examples]
        rows = [
            replace(example, winner=place)
            for example, place in zip(report.examples, places, strict=True)
            if place < MOST_WINNERS
        ]
        if not rows:
            return
        self.pictures.add_examples(report.step, rows)
        cells = [[row.winner, row.level, row.winner_margin] for row in rows]
        self.waiting["examples"].append([report.step, cells])
        new = {row.winner for row in rows} - self.captions.keys()
        if new:
            self.captions |= {place: self.dataset.examples[place].caption for place in new}
            self.waiting["captions"] += [[place, self.captions[place]] for place in new]
            self._keep_about()

    def _send(self, event: str, status: Status, data: dict[str, Any] | None = None) -> None:
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            about = {"run": self.run.name, "panel": self.panel}
            server.send_sync(event, about | status.for_page() | (data or {}))


def tell_pages(run: Run) -> Status:
    """Tell every open page how it stands with a run."""
    status, server = run.status(), getattr(PromptServer, "instance", None)
    if server is not None:
        panel = RunPictures(run.directory).about().get("panel", "")
        server.send_sync("seppo.run", {"run": run.name, "panel": panel} | status.for_page())
    return status


def _nothing() -> dict[str, list[Any]]:
    return {"rows": [], "examples": [], "samples": [], "tests": [], "captions": []}


def memory() -> dict[str, float]:
    """Bytes of the device that the host computes on: in use, and in all."""
    device = comfy.model_management.get_torch_device()
    total = comfy.model_management.get_total_memory(device)
    return {"used": total - comfy.model_management.get_free_memory(device), "total": total}


def small(picture: Image.Image) -> Image.Image:
    """At most SMALL pixels long; a smaller one stays as it is."""
    if max(picture.size) <= SMALL:
        return picture
    picture = picture.copy()
    picture.thumbnail((SMALL, SMALL))
    return picture
