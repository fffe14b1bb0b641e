"""How it stands with the panel of a node: what the host's queue says until its run says more.

Nothing is kept of it here, so nothing can be out of date: after a reload, on another page and after a crash the
answer comes from the queue and from the run directories.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from comfy_execution.progress import NodeState, get_progress_state
from server import PromptServer

from ..seppo_core.errors import SePPOError
from ..seppo_core.runs.pictures import RunPictures
from ..seppo_core.runs.run import Run
from ..seppo_core.runs.status import ELSEWHERE, ENCODING, NONE, TRAINING, WAITING, Status
from . import host
from .workflow import ancestors, field, panel_of

TRAIN, ENCODE = "SePPOTrain", "SePPOEncodeWinners"

_RECORDED: dict[str, Run] = {}
"""The run that each panel showed last, of those that this process had to do with."""


def shows(panel: str, run: Run) -> None:
    """From now on this is the run of that panel."""
    if panel:
        _RECORDED[panel] = run


def standing(panel: str) -> dict[str, Any]:
    """What the page is told of a panel: the run that it is to show, if any, how it stands, and whether to ask again soon."""
    run, status = found(panel)
    passing = status.state == ELSEWHERE or (run is None and status.state != NONE)
    return {"run": run.name if run else None, "passing": passing, **status.for_page()}


def found(panel: str) -> tuple[Run | None, Status]:
    running, pending = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    for _, prompt_id, prompt, extra, outputs, *_ in running:
        for node_id in nodes_of(panel, prompt, extra, outputs):
            status = turn(prompt_id, prompt, node_id)
            if status is not None and status.state == TRAINING:
                return known(panel, status)
            if status is not None:
                return None, status
    ordered = sorted(pending, key=lambda item: item[0])
    for place, (_, _, prompt, extra, outputs, *_) in enumerate(ordered):
        if any(nodes_of(panel, prompt, extra, outputs)):
            ahead = place + len(running)
            return None, Status(WAITING, note=f"in the queue, {ahead} before it" if ahead else "")
    return known(panel, Status(NONE))


def nodes_of(
    panel: str, prompt: dict[str, Any], extra: dict[str, Any], outputs: Iterable[str]
) -> Iterator[str]:
    """Ids of the training nodes that have this panel, among the `outputs` of a queued graph and what they need.

    Others are refused, or not asked for this time.
    """
    workflow = field(field(extra, "extra_pnginfo"), "workflow")
    for node_id, node in prompt.items():
        if node.get("class_type") != TRAIN or panel_of(workflow, node_id) != panel:
            continue
        if any(node_id in (output, *ancestors(prompt, output)) for output in outputs):
            yield node_id


def turn(prompt_id: str, prompt: dict[str, Any], node_id: str) -> Status | None:
    """How far a graph that is being run has come towards this node; None once the node has had its turn."""
    progress = get_progress_state()
    at = dict(progress.nodes) if progress.prompt_id == prompt_id else {}
    mine = at.get(node_id)
    if mine is not None and mine["state"] is NodeState.Finished:
        return None
    if mine is not None and mine["state"] is NodeState.Running:
        return Status(TRAINING, note="getting ready")
    encoders = [n for n in ancestors(prompt, node_id) if prompt[n].get("class_type") == ENCODE]
    begun = [at[encoder] for encoder in encoders if encoder in at]
    for one in begun:
        if one["state"] is NodeState.Running:
            done = one["value"] / (one["max"] or 1)
            return Status(ENCODING, note=f"{done:.0%}" if done else "")
    if any(one["state"] is NodeState.Finished for one in begun):
        return Status(TRAINING, note="getting ready")
    return Status(WAITING, note="for the nodes before it")


def known(panel: str, otherwise: Status) -> tuple[Run | None, Status]:
    """The newest run of a panel and how it stands with it."""
    run = _RECORDED.get(panel)
    if run is None or not run.exists():
        run = newest(panel)
    if run is None:
        return None, otherwise
    try:
        status = run.status()
    except SePPOError:  # damaged meanwhile: Load Run says so
        return None, otherwise
    if otherwise.state == TRAINING and not status.trains:
        return None, otherwise  # it is still the one before
    return run, status


def newest(panel: str) -> Run | None:
    """Of the runs that this panel showed the one that it showed last."""
    shown: dict[Run, RunPictures] = {}
    for name in host.run_names():
        with suppress(SePPOError):  # a folder that is no run of ours, or has links out of it
            run = Run(host.run_directory(name))
            shown[run] = RunPictures(run.directory)
    mine = [run for run, pictures in shown.items() if pictures.about().get("panel") == panel]
    return max(mine, key=lambda run: shown[run].touched(), default=None)
