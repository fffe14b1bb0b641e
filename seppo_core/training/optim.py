"""Optimizers and learning-rate schedules over the LoRA's weights, and their state as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import MissingPackageError
from ..files import flatten, unflatten
from ..settings import Section, require, setting

Parameters = Sequence[nn.Parameter]

KERNELS = ("fused", "foreach")
"""Settings of torch's optimizers that say how a step is computed, not which."""
MATURE_FUSED = (2, 8)
"""the torch from which transformers takes the fused AdamW by default (huggingface/transformers#37358)"""


def adamw(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
    kernel = "fused" if has_fused_adamw(parameters[0].device) else "foreach"
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, **{kernel: True}
    )


def has_fused_adamw(device: torch.device) -> bool:
    """Whether to step AdamW in one kernel there."""
    return device.type in ("cpu", "cuda") and torch.__version__ >= MATURE_FUSED


def adafactor(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
    """Adafactor with steps of the size of the learning rate.

    As published, steps scale with the weights' own size, from 1e-3 up: LoRA's `up` starts at zero and would
    hardly move. A floor of 1 takes that scaling off.
    """
    require_installed(config.name)
    return torch.optim.Adafactor(
        parameters,
        lr=config.learning_rate,
        eps=(None, 1.0),
        weight_decay=config.weight_decay,
        foreach=True,
    )


def from_pytorch_optimizer(class_name: str) -> Callable[[Parameters, OptimizerConfig], Optimizer]:
    """An optimizer of the package pytorch-optimizer (extra `optimizers`)."""

    def build(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
        try:
            import pytorch_optimizer
        except ImportError:
            raise missing_package(config.name) from None
        optimizer_class = getattr(pytorch_optimizer, class_name)
        return optimizer_class(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )

    return build


def adamw_8bit(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
    """AdamW with 8-bit state from bitsandbytes (extra `bits`)."""
    try:
        import bitsandbytes
    except ImportError:
        raise missing_package(config.name) from None
    return bitsandbytes.optim.AdamW8bit(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )


OPTIMIZERS: dict[str, Callable[[Parameters, OptimizerConfig], Optimizer]] = {
    "adamw": adamw,
    "adafactor": adafactor,
    "lion": from_pytorch_optimizer("Lion"),
    "prodigy": from_pytorch_optimizer("Prodigy"),
    "adamw_schedule_free": from_pytorch_optimizer("ScheduleFreeAdamW"),
    "adamw_8bit": adamw_8bit,
}
AVERAGED = ("adamw_schedule_free",)
"""Those whose snapshots hold averages, which may lie many steps from the weights that they train."""


PACKAGES = {
    "pytorch_optimizer": ("pytorch-optimizer", "optimizers"),
    "bitsandbytes": ("bitsandbytes", "bits"),
}
"""What is imported -> the package that brings it, and our extra."""
NEEDED = {
    **dict.fromkeys(("lion", "prodigy", "adamw_schedule_free"), "pytorch_optimizer"),
    "adamw_8bit": "bitsandbytes",
}


def missing_package(name: str) -> MissingPackageError:
    package, extra = PACKAGES[NEEDED[name]]
    return MissingPackageError(
        f"optimizer {name!r} needs the package {package}: pip install {package} (extra: seppo[{extra}])"
    )


def require_installed(name: str) -> None:
    """MissingPackageError if what this optimizer needs is not installed; nothing is loaded."""
    if name in NEEDED and find_spec(NEEDED[name]) is None:
        raise missing_package(name)
    if name == "adafactor" and not hasattr(torch.optim, "Adafactor"):
        raise MissingPackageError(
            f"optimizer 'adafactor' needs torch 2.5 or later, this is {torch.__version__}; use 'adamw'"
        )


def constant(progress: float) -> float:
    return 1.0


def linear(progress: float) -> float:
    return 1.0 - progress


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}
"""Factor of the learning rate after the warm-up, for progress in [0, 1)."""


def warmup_steps(config: OptimizerConfig, steps: int) -> int:
    return math.ceil(config.warmup * steps)


def learning_rate(config: OptimizerConfig, step: int, steps: int, warm: int | None = None) -> float:
    """The rate of optimizer step `step` (from 1) of `steps`: a linear warm-up, then the schedule.

    `warm`: steps of the warm-up, of a run that began with another number of steps.
    """
    warm = warmup_steps(config, steps) if warm is None else warm
    if step <= warm:
        return config.learning_rate * step / warm
    progress = (step - warm - 1) / max(1, steps - warm)
    return config.learning_rate * SCHEDULES[config.schedule](progress)


@dataclass(frozen=True)
class OptimizerConfig(Section, section="optimizer"):
    name: str = setting(
        "adamw",
        "adamw and adafactor are built in. lion, prodigy (set the learning rate to 1) and adamw_schedule_free "
        "need the package pytorch-optimizer, adamw_8bit needs bitsandbytes.",
        choices=OPTIMIZERS,
        widget="optimizer",
    )
    learning_rate: float = setting(
        1e-4,
        "How far each step moves the LoRA. 0.0001 is a careful start; prodigy wants 1.",
        least=0,
        most_shown=10.0,
        step=0.000001,
    )
    schedule: str = setting(
        "constant", "How the learning rate goes on after the warm-up.", choices=SCHEDULES
    )
    warmup: float = setting(
        0.1,
        "Share of the steps over which the learning rate rises from zero.",
        least=0,
        below=1,
        most_shown=0.9,
        step=0.01,
    )
    weight_decay: float = setting(
        0.0,
        "Pull of the LoRA's weights towards zero. 0 is fine.",
        least=0,
        most_shown=1.0,
        step=0.001,
    )
    clip: float = setting(
        1.0,
        "Gradients longer than this are shortened to it; 0 turns that off.",
        least=0,
        most_shown=1000.0,
        step=0.1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.name != "prodigy" or self.learning_rate >= 0.1,
            "optimizer 'prodigy' finds its own rate; optimizer.learning_rate multiplies it and should "
            f"be 1.0, got {self.learning_rate}",
        )


def make_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """The optimizer of `config.name`; MissingPackageError names the extra that brings it."""
    return OPTIMIZERS[config.name](parameters, config)


@contextmanager
def evaluation_weights(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters are those to use and save: schedule-free methods train on others.

    Afterwards they are what they were to the bit (the method's own way back rounds).
    """
    to_evaluation = getattr(optimizer, "eval", None)
    if to_evaluation is None:
        yield
        return
    trained = [parameter.detach().clone() for parameter in parameters]
    to_evaluation()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], str]:
    """The state as tensors on the CPU and JSON for the rest."""
    tensors: dict[str, Tensor] = {}
    tree = flatten(optimizer.state_dict(), tensors)
    return tensors, json.dumps(tree)


def load_optimizer_state(optimizer: Optimizer, tensors: dict[str, Tensor], text: str) -> None:
    """Undo `optimizer_state` on an optimizer over the same parameters; it takes the tensors over.

    It keeps its own kernels: the state may come from another device or another torch.
    """
    state = unflatten(json.loads(text), tensors)
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        group |= {kernel: own[kernel] for kernel in KERNELS if kernel in own}
    optimizer.load_state_dict(state)
