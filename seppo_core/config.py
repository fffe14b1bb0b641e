"""All settings of a run: frozen, checked once, one JSON file. Nothing behind this module validates again."""

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .lora import MODULES
from .loss import CRITERIA
from .optim import OPTIMIZERS, SCHEDULES
from .references import SELECTIONS


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def _choice(name: str, value: str, choices: typing.Iterable[str]) -> None:
    known = sorted(choices)
    _require(value in known, f"{name}: unknown {value!r}; choose from {known}")


OBJECTIVES = ("preference", "winner_error")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class LossConfig:
    objective: str = "preference"
    """`preference`: the SePPO loss; `winner_error`: the winner's denoising error alone (SFT)."""
    beta: float = 2000.0
    """Strength of the pull towards the reference; larger keeps the policy closer."""
    criterion: str = "indicator"
    loser_weight: float = 0.5
    """In [0, 1]: the role of every sample under criterion `constant`, the chance to lose under `random`."""
    paired: bool = False
    """The dataset's losing images stand where the reference samples stand (DPO)."""

    def __post_init__(self) -> None:
        _choice("loss.objective", self.objective, OBJECTIVES)
        _choice("loss.criterion", self.criterion, CRITERIA)
        _require(self.beta > 0, f"loss.beta must be positive, got {self.beta}")
        _require(
            0 <= self.loser_weight <= 1,
            f"loss.loser_weight must lie in [0, 1], got {self.loser_weight}",
        )


@dataclass(frozen=True)
class ReferenceConfig:
    selection: str = "random"
    snapshot_every: int = 30
    """Optimizer steps between snapshots; one joins at the end of the window it falls in."""
    capacity: int = 8
    reuse: int = 1
    """R: a window of R optimizer steps works on one batch, whose samples are drawn once."""
    sampler: str = "dpmpp_2m"
    scheduler: str = "normal"
    sampling_steps: int = 12
    guidance_scale: float = 1.0
    """CFG of the drawn samples; 1 needs no negative conditioning and half the time."""
    batch_size: int = 4
    """How many samples are drawn at once."""

    def __post_init__(self) -> None:
        _choice("references.selection", self.selection, SELECTIONS)
        for name in ("snapshot_every", "capacity", "reuse", "sampling_steps", "batch_size"):
            value = getattr(self, name)
            _require(value >= 1, f"references.{name} must be at least 1, got {value}")
        _require(
            self.guidance_scale >= 0,
            f"references.guidance_scale must not be negative, got {self.guidance_scale}",
        )


@dataclass(frozen=True)
class LoRAConfig:
    rank: int = 16
    alpha: float = 0.0
    """The path is scaled by alpha / rank; 0 means alpha = rank."""
    modules: str = "linear"
    """Which layers get a path: a row of `lora.MODULES`."""
    pattern: str = ""
    """Regular expression that a layer's name must contain as well; empty takes all."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, f"lora.rank must be at least 1, got {self.rank}")
        _require(self.alpha >= 0, f"lora.alpha must not be negative, got {self.alpha}")
        _choice("lora.modules", self.modules, MODULES)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"lora.pattern {self.pattern!r} is not a regular expression: {error}"
            ) from None

    @property
    def scale(self) -> float:
        return (self.alpha or self.rank) / self.rank


@dataclass(frozen=True)
class OptimizerConfig:
    name: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    clip: float = 1.0
    """Gradient norm above which the gradient is scaled down; 0 turns clipping off."""

    def __post_init__(self) -> None:
        _choice("optimizer.name", self.name, OPTIMIZERS)
        _choice("optimizer.schedule", self.schedule, SCHEDULES)
        for name in ("learning_rate", "weight_decay", "clip"):
            value = getattr(self, name)
            _require(value >= 0, f"optimizer.{name} must not be negative, got {value}")
        _require(
            self.name != "prodigy" or self.learning_rate >= 0.1,
            "optimizer 'prodigy' finds its own rate; optimizer.learning_rate multiplies it and should "
            f"be 1.0, got {self.learning_rate}",
        )
        _require(0 <= self.warmup < 1, f"optimizer.warmup must lie in [0, 1), got {self.warmup}")


@dataclass(frozen=True)
class ComputeConfig:
    precision: str = "auto"
    """Arithmetic of the network's forwards; errors, loss and LoRA weights are float32 always."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        _choice("compute.precision", self.precision, PRECISIONS)


NON_FINITE = ("roll back", "stop")
DRIFT = ("warn", "stop", "roll back", "off")
OUT_OF_MEMORY = ("stop", "split")


@dataclass(frozen=True)
class GuardConfig:
    """What becomes of a run in which something goes wrong."""

    non_finite: str = "roll back"
    """After `patience` steps in a row whose loss or gradient is NaN or infinite: `roll back` to the last
    checkpoint with half the learning rate, or `stop`. No such step is ever applied."""
    patience: int = 3
    drift: str = "warn"
    """When the winner margin stays above zero, or rises on held-out winners. `stop` keeps what was trained."""
    drift_window: int = 50
    """Optimizer steps whose mean winner margin counts."""
    out_of_memory: str = "stop"
    """`split` repeats the step in smaller micro-batches: the same mathematics, slower."""

    def __post_init__(self) -> None:
        _choice("guard.non_finite", self.non_finite, NON_FINITE)
        _choice("guard.drift", self.drift, DRIFT)
        _choice("guard.out_of_memory", self.out_of_memory, OUT_OF_MEMORY)
        _require(self.patience >= 1, f"guard.patience must be at least 1, got {self.patience}")
        _require(
            self.drift_window >= 2,
            f"guard.drift_window must be at least 2, got {self.drift_window}",
        )


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
        _require(
            self.checkpoint_every >= 1,
            f"run.checkpoint_every must be at least 1, got {self.checkpoint_every}",
        )
        _require(
            self.preview_every >= 0,
            f"run.preview_every must not be negative, got {self.preview_every}",
        )
        _require(
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
            _require(value >= 1, f"{name} must be at least 1, got {value}")
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")

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
    _choice("preset", name, PRESETS)
    merged = dict(settings)
    for section, values in PRESETS[name].items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


def from_dict(cls: type, values: dict[str, Any], path: str = "") -> Any:
    """Build the frozen dataclass `cls` from plain JSON values, naming what does not fit by its path."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path.rstrip('.') or 'configuration'}: expected a JSON object, got {values!r}"
        )
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        names = ", ".join(path + name for name in unknown)
        raise ConfigError(f"unknown setting {names}; known here: {sorted(hints)}")
    return cls(**{key: _convert(hints[key], value, path + key) for key, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path + ".")
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
        return _convert(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    plain = typing.get_origin(hint) or hint
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {plain.__name__}, got {value!r}")
    return value


MAX_JSON_BYTES = 4 * 2**20
MAX_JSON_DEPTH = 50
"""Of a configuration, a run.json or a manifest; what we write has some kilobytes and four levels."""


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ConfigError names the file, and the place if one does not parse."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise ConfigError(f"{path}: over {MAX_JSON_BYTES // 2**20} MB; is it the right file?")
        values = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object at the top")
    if _deeper_than(MAX_JSON_DEPTH, values):
        raise ConfigError(f"{path}: nested more than {MAX_JSON_DEPTH} levels deep")
    return values


def _deeper_than(limit: int, values: Any) -> bool:
    level = [values]
    for _ in range(limit):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        if not inner:
            return False
        level = [value for values in inner for value in values]
    return any(isinstance(value, dict | list) for value in level)


def override(values: dict[str, Any], assignment: str) -> None:
    """Apply one `section.name=value` in place; the value is JSON, or a bare string."""
    key, found, text = assignment.partition("=")
    if not found or not key:
        raise ConfigError(f"--set {assignment}: expected section.name=value")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {assignment}: {section} is not a section")
    values[name] = value
