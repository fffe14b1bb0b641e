"""Attention with a gradient for training forwards, whatever kernel a host samples with.

No framework is named here: a host hands every call of its attention to an override of this form.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..devices import is_out_of_memory
from ..randomness import global_rng_kept

Attention = Callable[..., Tensor]
"""(q, k, v, heads, mask, ...) as the host calls it"""
Override = Callable[..., Tensor]
"""(the attention that the host would call, q, k, v, heads, mask, ...)"""

log = logging.getLogger(__name__)


class WithGradient:
    """An override that calls the first attention that has a gradient, for both policy and reference.

    What is tried, in this order: the MODEL's own override, around the host's attention or around `plain`;
    then the host's attention; then `plain`. A way is judged once for each kind of call, on the very tensors
    of the first such call, which is the reference's; so policy and reference always go the same way.
    """

    def __init__(self, plain: Attention, own: Override | None) -> None:
        self.plain, self.own = plain, own
        self._ways: dict[Any, Callable[..., Tensor]] = {}
        self._told: set[str] = set()

    def __call__(
        self, chosen: Attention, q: Tensor, k: Tensor, v: Tensor, *args: Any, **settings: Any
    ) -> Tensor:
        masked = settings.get("mask") is not None or any(isinstance(arg, Tensor) for arg in args)
        kind = (chosen, q.shape, k.shape, v.shape, q.dtype, q.device, masked)
        if kind not in self._ways:
            self._ways[kind] = self._way(chosen, (q, k, v), args, settings)
        return self._ways[kind](q, k, v, *args, **settings)

    def _way(
        self, chosen: Attention, qkv: tuple[Tensor, ...], args: tuple, settings: dict[str, Any]
    ) -> Callable[..., Tensor]:
        ways = [("", self.plain)]
        if chosen is not self.plain:
            ways.insert(0, (_name(chosen), chosen))
        if self.own is not None:
            wrapped = [
                (f"{_name(self.own)}, which a node chose,", _around(self.own, w)) for _, w in ways
            ]
            ways = wrapped + ways
        for name, way in ways[:-1]:
            if has_gradient(way, qkv, args, settings):
                return way
            if name not in self._told:
                self._told.add(name)
                log.warning("%s has no gradient: training goes by another attention", name)
        return self.plain


def _around(own: Override, attention: Attention) -> Attention:
    return lambda *args, **settings: own(attention, *args, **settings)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def has_gradient(
    attention: Attention, qkv: tuple[Tensor, ...], args: tuple, settings: dict[str, Any]
) -> bool:
    """Whether all of q, k and v get a gradient; the tensors stay as they are, and nothing is drawn."""

    def detached(
        tensor: Tensor,
    ) -> Tensor:  # an output that its own graph held would never be freed
        return tensor.detach()

    # A checkpoint around this call must not count what is saved here.
    hooks = torch.autograd.graph.saved_tensors_hooks(detached, lambda tensor: tensor)
    with global_rng_kept(), torch.enable_grad(), hooks:
        inputs = [tensor.detach().requires_grad_() for tensor in qkv]
        try:
            out = attention(*[one.clone() for one in inputs], *args, **dict(settings))
            found = torch.autograd.grad(out.sum(), inputs, allow_unused=True)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return False
    return all(gradient is not None for gradient in found)
