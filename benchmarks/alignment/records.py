"""What was run and what came out: one line of JSON a run, appended as each ends, so that nothing is run twice."""

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .modes import Settings

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "alignment"


@dataclass(frozen=True)
class Job:
    """One training run, or none (mode `base`), and its measurement."""

    split: str
    """`tuning` or `final`"""
    mode: str
    seed: int
    steps: int
    settings: Settings


@dataclass(frozen=True)
class Record:
    job: Job
    scores: dict[str, float]
    """what measure.Panel.score says at the end"""
    front: list[dict[str, float]] = field(default_factory=list)
    """the same with the LoRA at a `strength`, of world.LOOKS pictures a caption"""
    curve: list[dict[str, float]] = field(default_factory=list)
    """the same after a `step` before the end; of the first seed alone"""
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    """name -> a value for each step"""
    steps_done: int = 0
    """fewer than the job's where loss or gradient was not finite three times in a row"""
    evaluations: int = 0
    """forwards of one sample through the network; one with a backward counts three"""
    seconds: float = 0.0
    settings_of: str = ""
    """the world whose search found the settings; empty for its own"""
    commit: str = ""
    machine: str = ""
    base: str = ""
    """the first digits of the sha256 of the base's weights"""
    away_from_base: list[dict[str, float]] = field(default_factory=list)
    """as `front`, drawn with the base as the negative of guidance; of runs that were drawn both ways"""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read(path: Path) -> list[Record]:
    """The records of a world; a last line that was cut off is left out."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            values: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        job = values.pop("job")
        settings = Settings(**job.pop("settings"))
        found.append(Record(Job(**job, settings=settings), **values))
    return found


def search_in(path: Path) -> list[Record]:
    """What the search for settings ran."""
    return [record for record in read(path) if record.job.split == "tuning"]


def final_runs(done: Sequence[Record], mode: str) -> dict[int, Record]:
    """seed -> record; of the settings used last, should a search have gone on after runs with others."""
    runs = [r for r in done if r.job.split == "final" and r.job.mode == mode]
    return {r.job.seed: r for r in runs if _same_settings(r.job, runs[-1].job)}


def _same_settings(a: Job, b: Job) -> bool:
    """But for the weight of losers, which is measured for each seed where a mode takes another's."""
    return replace(a.settings, loser_weight=b.settings.loser_weight) == b.settings


def append(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + record.line())


def commit() -> str:
    """Of the tree that runs, marked if anything but results was changed; empty outside a clone."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("-changed" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def machine() -> str:
    return f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
