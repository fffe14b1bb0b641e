"""The small run in processes that are forked from one that has imported torch already, to be killed."""

import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from small_run import whole_run
from writes import At, KilledAt, interrupted

LONG = os.environ.get("SEPPO_RELIABILITY") == "long"
LIMIT = 120
"""Seconds after which a process counts as stuck."""

METHODS = multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
if "forkserver" in METHODS:  # torch's optimizers import torch._dynamo at their first step
    CONTEXT.set_forkserver_preload(["pytest", "torch._dynamo", "seppo_core.data.encode"])


def work(home: Path, at: int, act: type[At], listed: Path | None) -> None:
    """The process's own part; `act` happens at its disk operation number `at` (0: never)."""
    torch.set_num_threads(1)
    operations = act(at)
    with interrupted(operations):
        whole_run(home)
    if listed:
        listed.write_text("\n".join(operations.seen))


def start(
    home: Path, at: int = 0, act: type[At] = KilledAt, listed: Path | None = None
) -> BaseProcess:
    process = CONTEXT.Process(target=work, args=(home, at, act, listed))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Its exit status; negative where a signal ended it."""
    process.join(LIMIT)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
        raise AssertionError(f"the process was stuck for {LIMIT} s")
    process.close()
    return status


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """Whether it was still running then."""
    process.join(seconds)
    running = process.exitcode is None
    if running:
        process.kill()
    finish(process)
    return running


def seconds_of(home: Path) -> float:
    """How long the small run takes in a process of its own."""
    started = time.perf_counter()
    assert finish(start(home)) == 0
    return time.perf_counter() - started
