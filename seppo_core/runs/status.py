"""How it stands with a run: one word and one sentence, the same on node, panel, list and terminal.

What happens is recorded in the run directory (`Record`); what follows from it, and from who holds the lock,
is judged in one place (`judged`). docs/reliability.md has the states and what leads from
one to the next.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_json

NONE = "none"
WAITING = "waiting"
ENCODING = "encoding"
TRAINING = "training"
STOPPED = "stopped"
CANCELLED = "cancelled"
FAILED = "failed"
DONE = "done"
ELSEWHERE = "elsewhere"

WORDS = {
    NONE: "No run yet",
    WAITING: "waiting",
    ENCODING: "encoding winners",
    TRAINING: "training",
    STOPPED: "stopped",
    CANCELLED: "cancelled",
    FAILED: "failed",
    DONE: "done",
    ELSEWHERE: "another process has it",
}
GO_ON = "press Run to go on"
ADVICE = {
    STOPPED: "press Continue to go on",
    CANCELLED: GO_ON,
    FAILED: GO_ON,
    ELSEWHERE: "wait for it, or stop it",
}
ACTIONS = {
    ENCODING: ("cancel",),
    TRAINING: ("stop", "cancel"),
    ELSEWHERE: ("stop",),
    STOPPED: ("continue",),
}
"""What a user can ask for in a state, beside Run."""

LAST_STEP = "ends after this step"
PROCESS_ENDED = "its process ended"
LONGEST_REASON = 300


@dataclass(frozen=True)
class Status:
    """A state, and what its sentence says of it."""

    state: str
    step: int = 0
    steps: int = 0
    """0 as long as no run is there"""
    note: str = ""

    @property
    def brief(self) -> str:
        """What is, without what to do: `stopped at step 6 of 13`."""
        place = f" at step {self.step} of {self.steps}" if self.steps else ""
        note = f" ({self.note})" if self.note else ""
        return f"{WORDS[self.state]}{place}{note}"

    @property
    def text(self) -> str:
        advice = ADVICE.get(self.state, "")
        if self.state == WAITING and self.steps:
            advice = GO_ON
        return f"{self.brief}: {advice}" if advice else self.brief

    @property
    def actions(self) -> list[str]:
        asked = self.state in (TRAINING, ELSEWHERE) and self.note.endswith(LAST_STEP)
        can_stop = self.steps and not asked
        return [name for name in ACTIONS.get(self.state, ()) if can_stop or name != "stop"]

    @property
    def trains(self) -> bool:
        return self.state in (TRAINING, ELSEWHERE)

    def for_page(self) -> dict[str, Any]:
        """What the page is told; it makes up no words of its own."""
        return {
            "state": self.state,
            "text": self.text,
            "step": self.step,
            "steps": self.steps,
            "actions": self.actions,
            "training": self.trains,
        }


@dataclass(frozen=True)
class Record:
    """What became of a run when it was trained last, or was asked of it since."""

    state: str = ""
    """STOPPED, WAITING (asked to go on), CANCELLED, FAILED or DONE; empty where none was ever kept"""
    reason: str = ""
    """of a fault, or of a run that ended by itself before its last step"""
    continued: int = 0
    """how often the run, once stopped, was asked to go on"""

    @classmethod
    def read(cls, path: Path) -> "Record":
        """An empty one if the file is missing or damaged: it is only told of."""
        try:
            found = cls(**json.loads(path.read_text("utf-8", errors="replace")))
        except (OSError, ValueError, TypeError, RecursionError):
            return cls()
        whole = found.state in WORDS and isinstance(found.reason, str)
        return found if whole and type(found.continued) is int else cls()

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


@dataclass(frozen=True)
class Facts:
    """What there is to see of a run from outside."""

    record: Record
    step: int
    steps: int
    stop: bool
    """whether the STOP file is there"""
    owner: str | None
    """process id of who holds the lock"""
    mine: bool
    """whether that is this process"""
    left: bool = False
    """whether somebody had it who ended without a word: it was killed, or the power was cut"""


def judged(facts: Facts) -> Status:
    """The state of a run."""
    place = (facts.step, facts.steps)
    if facts.owner is not None:
        notes = [] if facts.mine else [f"process {facts.owner}"]
        notes += [LAST_STEP] if facts.stop else []
        return Status(TRAINING if facts.mine else ELSEWHERE, *place, ", ".join(notes))
    record = facts.record
    if facts.step >= facts.steps:
        return Status(DONE, *place)
    if facts.stop and facts.step:
        return Status(STOPPED, *place)
    if facts.left:
        return Status(FAILED, *place, PROCESS_ENDED)
    if record.state == STOPPED:
        return Status(STOPPED, *place, record.reason)
    if record.state == CANCELLED:
        return Status(CANCELLED, *place)
    if record.state in ("", DONE, WAITING):  # none: of a version that kept no record
        return Status(WAITING, *place)
    return Status(FAILED, *place, record.reason or PROCESS_ENDED)


def was_cancelled(error: BaseException) -> bool:
    """Whether this is a user's wish and no fault: ComfyUI and Python call what they raise then an interrupt."""
    return not isinstance(error, Exception) or "Interrupt" in type(error).__name__


def reason_of(error: BaseException) -> str:
    """A fault in one line."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:LONGEST_REASON]
