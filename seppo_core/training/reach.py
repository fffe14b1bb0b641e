"""Whether the gradient reaches every layer of a LoRA: a kernel that autograd does not know leaves layers untrained.

Asked once, after the first backward pass. Layers whose output the prediction does not use (the last block's
text stream of SD3 and Flux) get none either, rightly: a layer is reached if it has a gradient, or if other
weights in it change nothing.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..adapters.lora import LoRA, Slot
from ..errors import UnsupportedModelError
from ..files import first_line
from ..randomness import normal

NO_GRADIENT = re.compile(r"autograd (formula|kernel)|derivative for|does not require grad")
"""What torch says where a backward pass meets a kernel without one, or nothing that needs one."""

REMEDY = (
    "Start ComfyUI without flags for fast kernels (--use-sage-attention, --use-flash-attention, --fast), take "
    "nodes that patch attention or other kernels out of the way to SePPO Train, or leave these layers out "
    "with the pattern in SePPO Optimizer Settings"
)


@contextmanager
def explained() -> Iterator[None]:
    """UnsupportedModelError where torch refuses a backward pass for want of a gradient."""
    try:
        yield
    except RuntimeError as error:
        if not NO_GRADIENT.search(str(error)):
            raise
        raise UnsupportedModelError(
            f"a part of the network that the LoRA needs has no gradient ({first_line(error)}). {REMEDY}"
        ) from error


def require_reach(lora: LoRA, errors: Callable[[], Tensor], zeros_tell: bool) -> None:
    """UnsupportedModelError, naming them, if layers shape the errors [B] without having got a gradient.

    `errors` runs the network with the active weights on the same inputs. `zeros_tell`: whether a gradient of
    nothing but zeros is none; float16 may have rounded it to that.
    """
    silent = _silent(lora, zeros_tell)
    if (
        silent
    ):  # the loss may have asked for next to nothing, which rounds to zero; the errors do not
        to_errors = set(_silent_to_errors(lora, errors, zeros_tell))
        silent = [name for name in silent if name in to_errors]
    if not silent:
        return
    with torch.no_grad():
        before = errors()
        rounding = (
            10 * (errors() - before).abs().max()
        )  # nothing, where nothing is drawn on the way

        def shape_errors(names: Sequence[str]) -> bool:
            with lora.using(_changed(lora, names)):
                return not bool((errors() - before).abs().max() <= rounding)  # NaN is a change, too

        if not shape_errors(silent):
            return
        deaf = [name for kind in _kinds(silent) if shape_errors(kind) for name in kind] or silent
    raise UnsupportedModelError(
        f"{len(deaf)} of the LoRA's {len(lora.paths)} layers change what the network predicts and get no "
        f"gradient, so they would stay untrained: {_listed(deaf)}. A kernel behind them has none. {REMEDY}"
    )


def _silent(lora: LoRA, zeros_tell: bool) -> list[str]:
    """Layers of which neither half has a gradient. While `up` is zero `down` rightly has none but zeros."""
    largest = {
        name: torch.stack([weight.grad.abs().amax() for weight in pair if weight.grad is not None])
        for name, pair in lora.policy.items()
        if any(weight.grad is not None for weight in pair)
    }
    if not zeros_tell or not largest:
        return [name for name in lora.policy if name not in largest]
    heard = torch.stack([values.amax() for values in largest.values()]).cpu() != 0
    reached = {name for name, one in zip(largest, heard.tolist(), strict=True) if one}
    return [name for name in lora.policy if name not in reached]


def _silent_to_errors(lora: LoRA, errors: Callable[[], Tensor], zeros_tell: bool) -> list[str]:
    """`_silent` for the gradient of the errors themselves; the step's stays as it is."""
    parameters = lora.parameters()
    kept = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        with explained():
            errors().sum().backward()
        return _silent(lora, zeros_tell)
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def _changed(lora: LoRA, names: Sequence[str]) -> Slot:
    """The policy's weights, with others in the last part of these layers."""
    changed = Slot(lora.policy.items())
    for name in names:
        *others, last = changed[name]
        changed[name] = *others, last + normal(tuple(last.shape), "reach", name).to(last)
    return changed


def _kinds(names: Sequence[str]) -> list[list[str]]:
    """Names that differ in numbers alone, together."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return list(kinds.values())


def _listed(names: Sequence[str]) -> str:
    shown = [kind[0] for kind in _kinds(names)][:6]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
