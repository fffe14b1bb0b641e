"""Watches a run: loss and gradient that are no longer finite, and drift away from the winners."""

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..settings import Section, setting

RISES = 3
"""Measurements on held-out winners that each came out above the one before."""

CERTAIN = 2.0
"""Standard errors by which a mean margin has to lie above zero: about 1 in 40 by chance."""

MOST_ROLLBACKS = 3
"""After so many the next one ends the run: half the learning rate did not help three times."""


NON_FINITE = ("roll back", "stop")
DRIFT = ("warn", "stop", "roll back", "off")
OUT_OF_MEMORY = ("stop", "split")


@dataclass(frozen=True)
class GuardConfig(Section, section="guard"):
    """What becomes of a run in which something goes wrong."""

    out_of_memory: str = setting(
        "stop",
        "When memory runs out: stop, with what to change; or split the batch into smaller parts and go on, "
        "slower, with the same result.",
        choices=OUT_OF_MEMORY,
        optional=True,
    )
    non_finite: str = setting(
        "roll back",
        "When the loss is NaN or infinite some steps in a row, none of which is applied: go back to the "
        "last checkpoint with half the learning rate, or stop.",
        choices=NON_FINITE,
        optional=True,
        advanced=True,
    )
    patience: int = setting(
        3,
        "How many such steps in a row it takes.",
        least=1,
        most_shown=1000,
        optional=True,
        advanced=True,
    )
    drift: str = setting(
        "warn",
        "When the model gets worse on its winners (their margin stays above zero) or on held-out ones: warn, "
        "stop and keep what was trained, go back to the last checkpoint with half the learning rate, or do nothing.",
        choices=DRIFT,
        optional=True,
    )
    drift_window: int = setting(
        50,
        "Optimizer steps over which the winners' margin is averaged for that.",
        least=2,
        most_shown=100_000,
        optional=True,
        advanced=True,
    )


@dataclass(frozen=True)
class Alarm:
    """Something is wrong with the run."""

    action: str
    """what the configuration asks for: warn, stop or roll back"""
    reason: str
    finite: bool
    """False if steps cannot be applied at all"""


class Guard:
    """Judges a run by the lines of metrics.jsonl alone, so that a continued run is judged in the same way."""

    def __init__(self, config: GuardConfig, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self.config = config
        self.bad_steps = 0
        self.margins: deque[float] = deque(maxlen=config.drift_window)
        self.held_out: deque[float] = deque(maxlen=RISES + 1)
        self.quiet_until = 0
        for line in lines:
            self.judge(line)

    def judge(self, line: Mapping[str, Any]) -> Alarm | None:
        """Take one step's line in; an alarm if it calls for something to be done."""
        if line["loss"] is None:
            self.bad_steps += 1
            if self.bad_steps < self.config.patience:
                return None
            reason = f"loss or gradient was not finite in {self.bad_steps} steps in a row"
            return Alarm(self.config.non_finite, reason, finite=False)
        self.bad_steps = 0
        for name, seen in (("winner_margin", self.margins), ("held_out_margin", self.held_out)):
            if line[name] is not None:
                seen.append(line[name])
        reason = "" if self.config.drift == "off" else self._drift()
        if not reason or line["step"] < self.quiet_until:
            return None
        self.quiet_until = line["step"] + self.config.drift_window
        return Alarm(self.config.drift, reason, finite=True)

    def _drift(self) -> str:
        """What speaks for drift; empty if nothing does."""
        margins, rising = list(self.margins), list(self.held_out)
        if len(margins) == self.config.drift_window:
            mean, deviation = statistics.fmean(margins), statistics.stdev(margins)
            if mean > CERTAIN * deviation / len(margins) ** 0.5:
                return (
                    f"the winner margin was {mean:+.1e} on average over {len(margins)} steps: the model "
                    "explains its winners worse than its references do"
                )
        if len(rising) == RISES + 1 and all(
            a < b for a, b in zip(rising, rising[1:], strict=False)
        ):
            return (
                f"the margin on held-out winners rose {RISES} times in a row, to {rising[-1]:+.1e}: the "
                "model gets worse on what it was not trained on"
            )
        return ""
