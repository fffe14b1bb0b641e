"""All settings of a run: the sections, each beside the table it chooses from, put together; and the presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..adapters.lora import LoRAConfig
from ..denoisers import ComputeConfig
from ..method.objectives import LossConfig
from ..method.references import ReferenceConfig
from ..settings import choice, from_dict, require
from .guard import GuardConfig
from .optim import OptimizerConfig


@dataclass(frozen=True)
class RunConfig:
    directory: str = ""
    """The run directory; empty keeps the run in memory."""
    checkpoint_every: int = 50
    """Optimizer steps between checkpoints of the whole state."""
    preview_every: int = 10
    """Optimizer steps between reports that carry latents to look at; 0 never."""
    held_out_every: int = 20
    """Optimizer steps between measurements of the margin on held-out winners; the last step has one, too.
    0 never."""
    initial_weights: str = ""
    """LoRA file (safetensors, any key format we write) the policy starts from; empty starts from the base."""

    def __post_init__(self) -> None:
        require(
            self.checkpoint_every >= 1,
            f"run.checkpoint_every must be at least 1, got {self.checkpoint_every}",
        )
        require(
            self.preview_every >= 0,
            f"run.preview_every must not be negative, got {self.preview_every}",
        )
        require(
            self.held_out_every >= 0,
            f"run.held_out_every must not be negative, got {self.held_out_every}",
        )


@dataclass(frozen=True)
class SePPOConfig:
    steps: int = 200
    batch_size: int = 1
    """Winners that go through the network at once."""
    accumulation: int = 1
    """Micro-batches of `batch_size` winners per optimizer step."""
    seed: int = 0
    loss: LossConfig = field(default_factory=LossConfig)
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")

    @property
    def winners_per_step(self) -> int:
        return self.batch_size * self.accumulation

    @property
    def draws_samples(self) -> bool:
        """Whether reference samples are drawn (not for SFT, not on pairs)."""
        return self.loss.objective == "preference" and not self.loss.paired

    @property
    def window(self) -> int:
        """Optimizer steps that share one reference, one batch and its drawn samples."""
        return self.references.reuse if self.draws_samples else 1

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
