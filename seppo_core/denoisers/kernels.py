"""The host's kernels: those with a gradient while a step is trained, those it samples with while samples are drawn."""

import functools
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..adapters.lora import is_linear
from .attention import Attention, Override, WithGradient

OVERRIDE = "optimized_attention_override"
"""Where in `transformer_options` the host looks for what takes its attention's calls."""

ATTENTIONS = ("optimized_attention", "optimized_attention_masked")
"""What every module of the host calls the attention that the user's flags chose."""


class Kernels:
    """Switches between the two, and puts back what was there.

    Of the host it is given its modules of attention, of operations and of devices.
    """

    def __init__(self, network: nn.Module, attention: Any, ops: Any, management: Any) -> None:
        self.attention, self.ops, self.management = attention, ops, management
        self._layers = [m for name, m in network.named_modules() if is_linear(name, m)]
        self._float8: Callable[..., Any] = ops.fp8_linear
        self._override: Override | None = None

    @contextmanager
    def training(self) -> Iterator[None]:
        """Attention that is called without options (PixArt, HunyuanDiT) goes by kernels with a gradient, too."""
        override = WithGradient(self.attention.attention_pytorch, None)
        with self._heard(), self._switched(override, _none, training=True):
            yield

    @contextmanager
    def sampling(self) -> Iterator[None]:
        with self._switched(None, self._float8, training=False):
            yield

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Every module's attention asks here first."""
        chosen = {getattr(self.attention, name) for name in ATTENTIONS}
        routed = {function: self._routed(function) for function in chosen}
        try:
            _swap(routed)
            yield
        finally:  # in modules, too, that were imported meanwhile
            _swap({call: function for function, call in routed.items()})

    def _routed(self, attention: Attention) -> Attention:
        @functools.wraps(attention)
        def call(*args: Any, **settings: Any) -> Tensor:
            options = settings.get("transformer_options") or {}
            if self._override is not None and OVERRIDE not in options:
                settings["transformer_options"] = {**options, OVERRIDE: self._override}
            return attention(*args, **settings)

        return call

    @contextmanager
    def _switched(
        self, override: Override | None, float8: Callable[..., Any], training: bool
    ) -> Iterator[None]:
        """2026 hosts ask `in_training`, some layers whether they train. A product in float8 has no gradient:
        layers that get none cast the weight.
        """
        host = getattr(self.management, "in_training", None)
        modes, before = [layer.training for layer in self._layers], self.ops.fp8_linear
        overriding, self._override = self._override, override

        def switch(in_training: Any, product: Callable[..., Any], states: Sequence[bool]) -> None:
            if host is not None:
                self.management.in_training = in_training
            self.ops.fp8_linear = product
            for layer, state in zip(self._layers, states, strict=True):
                layer.training = state

        try:
            switch(training, float8, [training] * len(modes))
            yield
        finally:
            self._override = overriding
            switch(host, before, modes)


def _swap(functions: Mapping[Attention, Attention]) -> None:
    """Put the others in the place of these attentions, in every module that has one."""
    for module in list(sys.modules.values()):
        for name in ATTENTIONS:
            found = getattr(module, "__dict__", {}).get(name)
            if isinstance(found, Hashable) and found in functions:
                setattr(module, name, functions[found])


def _none(layer: nn.Module, x: Tensor) -> None:
    """In place of the host's product in float8, which gives nothing for layers that it does not fit."""
