"""What is compared: one row a mode. All modes share network, winners, steps, batches and the search for settings."""

from dataclasses import asdict, dataclass, field
from typing import Any

from demo import studio
from seppo_core import SePPOConfig
from seppo_core.settings import from_dict

STEPS = 60
WINNERS_PER_STEP = 12
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
BETA, OTHER_BETAS = 200.0, (50.0, 1000.0)
GUIDANCE, OTHER_GUIDANCES = 2.0, (1.5, 3.0)
FINER = (0.55, 1.8)
"""Factors of the best learning rate tried in the place of other betas, where a mode reads no beta."""
FURTHER, MOST_FURTHER = 0.3, 2
"""Where the best learning rate is the lowest tried, this part of it is tried, too (the highest: over this part of it), so often."""


@dataclass(frozen=True)
class Settings:
    """What is searched for, for each mode."""

    learning_rate: float
    beta: float = BETA
    loser_weight: float = 0.5
    guidance: float = 0.0
    """of the objective `guided`; 0 where the mode reads none"""


@dataclass(frozen=True)
class Mode:
    """A way to train; `loss` and `references` are laid over the common settings."""

    loss: dict[str, Any]
    references: dict[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    rate_of: str = ""
    """the mode whose measured share of losing samples is this one's `loser_weight`"""
    settings_of: str = ""
    """the mode whose settings this one takes, without a search of its own"""
    as_trained: bool = False
    """whether its settings are chosen by what it draws away from the base at strength 1, not at any strength"""

    @property
    def reads_beta(self) -> bool:
        return self.loss.get("objective", "preference") == "preference"

    @property
    def reads_guidance(self) -> bool:
        return self.loss.get("objective") == "guided"

    def config(self, settings: Settings, seed: int, steps: int = 0) -> SePPOConfig:
        """The whole configuration of a run."""
        values = studio.settings(steps or self.steps, seed).as_dict()
        values["batch_size"] = WINNERS_PER_STEP
        values["references"] |= {"snapshot_every": 10, "batch_size": WINNERS_PER_STEP}
        values["references"] |= self.references
        found = asdict(settings)
        read = ["beta", "loser_weight", *(["guidance"] if self.reads_guidance else [])]
        values["loss"] |= {name: found[name] for name in read}
        values["loss"] |= self.loss
        values["optimizer"]["learning_rate"] = settings.learning_rate
        values["guard"] |= {"drift": "off", "non_finite": "stop"}
        return from_dict(SePPOConfig, values)


def _drawn(
    selection: str,
    criterion: str,
    rate_of: str = "",
    settings_of: str = "",
    **loss: Any,
) -> Mode:
    return Mode(
        {"criterion": criterion, **loss},
        {"selection": selection},
        rate_of=rate_of,
        settings_of=settings_of,
    )


SFT = {"objective": "winner_error"}
PAIRS = {"criterion": "none", "paired": True}
PLAINLY_DRAWN = {"reuse": 1, "sampling_steps": 50, "guidance_scale": 2.0}

IDEAS: dict[str, Mode] = {
    "random + constant, a fifth": _drawn(
        "random", "constant", settings_of="random + constant", loser_weight=0.2
    ),
    "random + indicator, reuse 4": Mode(
        {"criterion": "indicator"},
        {"reuse": 4, "sampling_steps": 12},
        steps=STEPS + 4,  # a little under what the others cost
        settings_of="random + indicator",
    ),
    "random + constant, a fifth, reuse 8": Mode(
        {"criterion": "constant", "loser_weight": 0.2},
        {"selection": "random", "reuse": 8},
        steps=STEPS + 20,  # what the samples saved
        settings_of="random + constant, a fifth",
    ),
    "initial + indicator": _drawn("initial", "indicator", settings_of="random + indicator"),
}
"""Each changes one thing of a mode and takes the settings found for that one."""

TAKEN_OUT: dict[str, str] = {
    "random + none, winner safe": "random + none",
    "initial + none, winner safe": "initial + none",
    "random + none, winner kept": "random + none",
    "random + none, loser capped": "random + none",
    "random + sign, soft": "random + sign",
    "random + sample sign": "random + sign",
    "random + sample indicator": "random + indicator",
    "random + indicator, anchor of 4": "random + indicator",
    "random + judge": "random + constant",
    "random + nearest": "random + constant",
    "random + level": "random + indicator",
    "random + constant, moving beta": "random + constant",
}
"""Ideas whose code is gone, and the mode that each changed; their runs lie in records.RESULTS/tried."""

MODES: dict[str, Mode] = {
    "sft": Mode(SFT),
    "dpo on pairs": Mode(PAIRS, {"selection": "initial"}),
    "initial + none": _drawn("initial", "none"),
    "latest + none": _drawn("latest", "none"),
    "random + none": _drawn("random", "none"),
    "random + sign": _drawn("random", "sign"),
    "random + indicator": _drawn("random", "indicator"),
    "random + constant": _drawn("random", "constant"),
    "latest + sign": _drawn("latest", "sign"),
    "latest + indicator": _drawn("latest", "indicator"),
    "latest + constant": _drawn("latest", "constant"),
    "random + coin": _drawn("random", "random", rate_of="random + indicator"),
    "sft, equal evaluations": Mode(SFT, steps=4 * STEPS),
    "dpo on pairs, equal evaluations": Mode(PAIRS, {"selection": "initial"}, steps=STEPS * 3 // 2),
    "random + indicator, plainly drawn": Mode(
        {"criterion": "indicator"},
        {"selection": "random", **PLAINLY_DRAWN},
        settings_of="random + indicator",
    ),
    "initial + none, plainly drawn": Mode(
        {"criterion": "none"},
        {"selection": "initial", **PLAINLY_DRAWN},
        settings_of="initial + none",
    ),
    **IDEAS,
}
"""`latest + none` is SPIN-Diffusion's choice, `random + sign` the paper's. Modes with other than STEPS steps take as
many as cost what the modes that draw samples cost in evaluations of the network. `plainly drawn` shows what reuse and
few sampler steps save: DDIM 50 with guidance, new samples each step. `initial + none, plainly drawn` is, but for the LoRA, DPO as it is
usually written where there are no pairs: the base draws the losers and is the reference."""

BASELINES = ("sft", "dpo on pairs")
"""Modes that have a longer twin of equal cost."""
DEARER = ("random + indicator, plainly drawn", "initial + none, plainly drawn")
"""Modes that cost more evaluations than the others of as many steps."""
EVERY = MODES | {
    "guided": Mode(
        {"objective": "guided"}, {"selection": "initial"}, steps=3 * STEPS, as_trained=True
    )
}
"""With what docs/benchmarks.md does not have: it is measured with `--both-ways` alone."""

BOTH_WAYS = ("guided", "sft, equal evaluations", "random + indicator", "random + constant")
"""Drawn with the base as the negative, too."""
SHORT = ("sft", "dpo on pairs", "random + sign", "random + indicator")
