"""Optimizers and learning-rate schedules over the LoRA's weights, and their state as plain data."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .config import OptimizerConfig
from .errors import MissingPackageError

Parameters = Iterable[nn.Parameter]


def adamw(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
    )


def adafactor(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
    return torch.optim.Adafactor(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
    )


def from_pytorch_optimizer(class_name: str) -> Callable[[Parameters, OptimizerConfig], Optimizer]:
    """An optimizer of the package pytorch-optimizer (extra `optimizers`)."""

    def build(parameters: Parameters, config: OptimizerConfig) -> Optimizer:
        try:
            import pytorch_optimizer
        except ImportError:
            raise MissingPackageError(
                f"optimizer {config.name!r} needs the package pytorch-optimizer: "
                "pip install pytorch-optimizer (extra: seppo[optimizers])"
            ) from None
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
        raise MissingPackageError(
            "optimizer 'adamw_8bit' needs the package bitsandbytes: "
            "pip install bitsandbytes (extra: seppo[bits])"
        ) from None
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


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 1) of `steps`: a linear warm-up, then the schedule."""
    warm = math.ceil(config.warmup * steps)
    if step <= warm:
        return config.learning_rate * step / warm
    progress = (step - warm - 1) / max(1, steps - warm)
    return config.learning_rate * SCHEDULES[config.schedule](progress)


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
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[key, plain(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [plain(item, f"{name}.{index}") for index, item in enumerate(value)]
        return value

    return tensors, json.dumps(plain(state, "optimizer"))


def load_optimizer_state(optimizer: Optimizer, tensors: dict[str, Tensor], text: str) -> None:
    """Undo `optimizer_state` on an optimizer over the same parameters."""

    def rebuilt(value: Any) -> Any:
        if isinstance(value, dict):
            if "tensor" in value:
                return tensors[value["tensor"]].clone()
            return {key: rebuilt(item) for key, item in value["dict"]}
        if isinstance(value, list):
            return [rebuilt(item) for item in value]
        return value

    optimizer.load_state_dict(rebuilt(json.loads(text)))
