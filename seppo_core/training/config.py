"""All settings of a run: the sections, each beside the table it chooses from, put together; and the presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..adapters.lora import LoRAConfig
from ..denoisers import ComputeConfig
from ..method.levels import LevelConfig
from ..method.objectives import LossConfig
from ..method.references import ReferenceConfig
from ..settings import Section, choice, from_dict, setting
from .guard import GuardConfig
from .optim import OptimizerConfig


@dataclass(frozen=True)
class RunConfig(Section, section="run"):
    directory: str = ""
    """The run directory; empty keeps the run in memory."""
    checkpoint_every: int = setting(
        50,
        "Optimizer steps between saves of the whole run, from which it can go on.",
        least=1,
        most_shown=100_000,
    )
    preview_every: int = setting(
        10, "Optimizer steps between preview pictures; 0 shows none.", least=0, most_shown=100_000
    )
    held_out_every: int = setting(
        20,
        "Optimizer steps between measurements on held-out winners; 0 measures never.",
        least=0,
        most_shown=100_000,
        optional=True,
    )
    """The last step has one, too."""
    initial_weights: str = ""
    """LoRA file (safetensors, any key format we write) the policy starts from; empty starts from the base."""


@dataclass(frozen=True)
class SePPOConfig(Section):
    steps: int = setting(
        200, "Optimizer steps. More steps move the model further.", least=1, most_shown=1_000_000
    )
    batch_size: int = setting(
        1, "Winners per batch. Larger is steadier and needs more memory.", least=1, most_shown=64
    )
    accumulation: int = setting(
        1,
        "Batches per optimizer step: a larger batch in the same memory, for more time.",
        least=1,
        most_shown=1024,
    )
    seed: int = setting(
        0, "The same seed and settings give the same LoRA.", least=0, most_shown=2**63 - 1
    )
    loss: LossConfig = field(default_factory=LossConfig)
    levels: LevelConfig = field(default_factory=LevelConfig)
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def winners_per_step(self) -> int:
        return self.batch_size * self.accumulation

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps that share one reference batch."""
        return self.references.reuse if self.loss.draws_samples else 1

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "seppo": {
        "loss": {"objective": "preference", "criterion": "sign", "paired": False},
        "references": {"selection": "random"},
    },
    "indicator": {
        "loss": {"objective": "preference", "criterion": "indicator", "paired": False},
        "references": {"selection": "random"},
    },
    "spin": {
        "loss": {"objective": "preference", "criterion": "none", "paired": False},
        "references": {"selection": "latest"},
    },
    "sft": {"loss": {"objective": "winner_error", "paired": False}},
    "guided": {
        "loss": {"objective": "guided", "paired": False},
        "references": {"selection": "initial"},
    },
    "dpo": {
        "loss": {"objective": "preference", "criterion": "none", "paired": True},
        "references": {"selection": "initial"},
    },
    "custom": {},
}
"""What each preset sets over the other settings (METHOD.md names the papers behind them)."""


def apply_preset(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` (nested as SePPOConfig) with the preset's own choices laid over them."""
    choice("preset", name, PRESETS)
    merged = dict(settings)
    for section, values in PRESETS[name].items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


def preset_of(config: SePPOConfig) -> str:
    """The first preset whose own choices are all in `config`; `custom` if there is none."""
    settings = config.as_dict()
    for name, sections in PRESETS.items():
        if all(settings[part] | values == settings[part] for part, values in sections.items()):
            return name
    return "custom"


def config_of(about: Mapping[str, Any]) -> SePPOConfig:
    """The settings that a run.json holds."""
    return from_dict(SePPOConfig, about["config"])
