"""From the loop to the page: keeps what is shown of a run in its album, and tells every open page as it comes."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import psutil
from PIL import Image
from server import PromptServer

from ..seppo_core.album import MOST_WINNERS, Album
from ..seppo_core.checkpoint import Run
from ..seppo_core.data import EncodedDataset
from ..seppo_core.report import StepReport

SECONDS_BETWEEN = 0.1
"""Pages are told at most ten times a second; what comes faster is put together."""
SMALL = 256
"""Longest side in pixels of the pictures in an album."""


_TRAINING: set[Path] = set()
"""Run directories that this process trains."""


def is_trained(run: Run) -> bool:
    """Whether somebody trains this run now; the mark of a process that was killed does not count."""
    owner = run.owner() or ""
    if not owner.isdecimal():
        return False
    if int(owner) == os.getpid():
        return run.directory.resolve() in _TRAINING
    return psutil.pid_exists(int(owner))


class Recorder:
    """Of one training in a run directory. `panel` is what the page calls the node's panel; empty without a page."""

    def __init__(self, run: Run, dataset: EncodedDataset, panel: str, steps: int) -> None:
        self.run, self.dataset, self.panel, self.steps = run, dataset, panel, steps
        self.album = Album(run.directory)
        self.captions: dict[int, str] = {}
        self.waiting: dict[str, list[Any]] = _nothing()
        self.told = 0.0
        self.began = False
        self.state = ""
        self.last_step = run.step()

    def __enter__(self) -> "Recorder":
        _TRAINING.add(self.run.directory.resolve())
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        """A run in which this training did no step keeps what is told of it, unless it simply had all of them."""
        _TRAINING.discard(self.run.directory.resolve())
        if not self.began and error is not None:
            return
        interrupted = comfy.model_management.InterruptProcessingException
        if error is not None:
            state = "cancelled" if isinstance(error, interrupted) else "failed"
        else:
            state = "finished" if self.last_step >= self.steps else "stopped"
        self.flush()
        self._tell(state)

    def _tell(self, state: str) -> None:
        """Keep and send how it stands with the run."""
        self.state = state
        self._keep_about()
        self._send("seppo.run", {"state": state})

    def _keep_about(self) -> None:
        known = self.album.about()
        captions = {str(winner): text for winner, text in self.captions.items()}
        captions = known.get("captions", {}) | captions
        about = {"panel": self.panel, "captions": captions, "state": self.state}
        if about != known:
            self.album.write_about(about)

    def step(self, report: StepReport, picture: Image.Image | None) -> None:
        """Keep what a step brought; pages are told now or with a later step."""
        if not self.began or report.step <= self.last_step:  # it begins, or went back after trouble
            self.flush()
            self.began = True
            self._tell("training")
        self.last_step = report.step
        self.waiting["rows"].append(report.metrics())
        self._map(report)
        if picture is not None:
            first = report.examples[0] if report.examples else None
            about = {"caption": report.caption, "reference_step": report.reference_step}
            if first is not None:
                about |= {"role": first.role, "margin": first.winner_margin}
            line = self.album.add_picture("sample", report.step, small(picture), **about)
            self.waiting["samples"].append(line)
        if time.monotonic() - self.told >= SECONDS_BETWEEN:
            self.flush()

    def test(self, step: int, number: int, prompt: str, picture: Image.Image) -> None:
        """Keep a picture drawn for a test prompt."""
        line = self.album.add_picture("test", step, small(picture), number=number, prompt=prompt)
        self.waiting["tests"].append(line)

    def flush(self) -> None:
        if any(self.waiting.values()):
            self.told = time.monotonic()
            self._send("seppo.step", self.waiting | {"memory": memory()})
            self.waiting = _nothing()

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
        self.album.add_examples(report.step, rows)
        told = [[row.winner, row.level, row.winner_margin] for row in rows]
        self.waiting["examples"].append([report.step, told])
        new = {row.winner for row in rows} - self.captions.keys()
        if new:
            self.captions |= {place: self.dataset.examples[place].caption for place in new}
            self.waiting["captions"] += [[place, self.captions[place]] for place in new]
            self._keep_about()

    def _send(self, event: str, data: dict[str, Any]) -> None:
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            about = {"run": self.run.name, "panel": self.panel, "steps": self.steps}
            server.send_sync(event, about | data)


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


def panel_of(workflow: Any, node_id: str) -> str:
    """The name of node `node_id`'s panel in the page's workflow, which the page keeps in the node's properties.

    Inside subgraphs an id is a path, "4:1": node 1 in the definition that node 4 is of. Empty for whatever is no
    workflow of a page: a client may send anything.
    """
    graph, (*path, wanted) = workflow, str(node_id).split(":")
    definitions = _rows(_field(workflow, "definitions"), "subgraphs")
    for step in path:
        kind = _field(_with_id(_rows(graph, "nodes"), step), "type")
        graph = _with_id(definitions, str(kind))
    node = _with_id(_rows(graph, "nodes"), wanted)
    if _field(node, "type") != "SePPOTrain":
        return ""
    return str(_field(_field(node, "properties"), "seppo_panel") or "")[:64]


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _rows(value: Any, name: str) -> list[Any]:
    rows = _field(value, name)
    return rows if isinstance(rows, list) else []


def _with_id(rows: list[Any], wanted: str) -> Any:
    return next((row for row in rows if str(_field(row, "id")) == wanted), None)
