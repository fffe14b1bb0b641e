"""Training through networks written for inference: in-place arithmetic, checkpointing, frozen weights.

No framework is named here; every denoiser may use it.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ..errors import UnsupportedModelError
from ..randomness import global_rng, global_rng_kept, set_global_rng

OUT_OF_PLACE: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    torch.Tensor.add_: torch.add,
    torch.Tensor.sub_: torch.sub,
    torch.Tensor.mul_: torch.mul,
    torch.Tensor.div_: torch.div,
}
"""What `a += b`, `-=`, `*=` and `/=` call, and what makes a new tensor of the same value."""

_thread = threading.local()


class OutOfPlace(TorchFunctionMode):
    """Makes in-place arithmetic safe for gradients; values are the same to the bit.

    `a += b` rebinds `a` to a new tensor, so what autograd kept of the old one stays as it was. A
    statement `a.add_(b)` binds nothing and stays in place: autograd sees and reports a harmful one.
    `f(a, out=b)`, which autograd refuses, becomes a copy of the result into `b`. A linear layer with a
    quantised weight becomes `QuantisedLinear`.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func in OUT_OF_PLACE and args[0].is_floating_point():
            if _is_augmented_assignment(sys._getframe(1)):
                return OUT_OF_PLACE[func](*args, **kwargs).to(args[0].dtype)
        elif func is F.linear and len(args) > 1 and is_wrapper(args[1]) and args[0].requires_grad:
            return QuantisedLinear.apply(*args, *kwargs.values())
        elif isinstance(kwargs.get("out"), Tensor):
            out = kwargs.pop("out")
            return out.copy_(func(*args, **kwargs))
        return func(*args, **kwargs)


class QuantisedLinear(torch.autograd.Function):
    """linear(x, weight, bias) with a frozen quantised weight: forward as its kernels have it, for the gradient dequantised.

    Kernels of quantised weights know the forward alone, or round the gradient as they round activations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight.dequantize().to(gradient.dtype), None, None


def is_wrapper(tensor: Any) -> bool:
    """Whether a tensor wraps others, as quantised weights do (torch's protocol of such classes)."""
    return hasattr(tensor, "__tensor_flatten__")


def _is_augmented_assignment(frame: FrameType) -> bool:
    """Whether the instruction that `frame` is at is `a += b` or the like, not a call."""
    from dis import opname

    code, at = frame.f_code.co_code, frame.f_lasti
    if (
        opname[code[at]] == "BINARY_OP"
    ):  # Python 3.11 and later: the argument tells += (13) to ^= (25)
        return 13 <= code[at + 1] <= 25
    return opname[code[at]].startswith("INPLACE_")


@contextmanager
def out_of_place() -> Iterator[None]:
    """`OutOfPlace` on this thread, where gradients are enabled and it is not yet entered."""
    if not torch.is_grad_enabled() or getattr(_thread, "entered", False):
        yield
        return
    _thread.entered = True
    try:
        with OutOfPlace():
            yield
    finally:
        _thread.entered = False


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: what lies in its lists and is no single layer.

    A block is divided further where the blocks inside hold most of its weights, as in a
    stack of transformer blocks between two projections.
    """
    found = [block for container in _containers(network) for block in _divided(container)]
    return list({id(block): block for block in found}.values())


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)


def _containers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if _is_container(child):
            yield child
        else:
            yield from _containers(child)


def _divided(module: nn.Module) -> list[nn.Module]:
    if _is_container(module):
        return [block for child in module.children() for block in _divided(child)]
    inner = [block for container in _containers(module) for block in _divided(container)]
    if sum(map(_size, inner)) > _size(module) / 2:
        return inner
    return [module] if any(True for _ in module.children()) else []


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@contextmanager
def checkpointed(blocks: list[nn.Module]) -> Iterator[None]:
    """Blocks forget their activations and compute them again in the backward pass."""
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _forgetful(block.forward)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward


def _forgetful(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Blocks write into option dictionaries, and a tensor changed in place would be computed from anew.
        again = [dict(value) if isinstance(value, dict) else value for value in args]
        again_named = {k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()}
        versions = [(t, t._version) for t in _tensors((args, kwargs)) if not t.is_inference()]
        drawn_from = global_rng()  # all that patches of a block may draw from, not torch's alone
        computed = False

        def compute() -> Any:
            nonlocal computed
            with out_of_place():  # the recomputation may run on another thread, which has no modes
                if not computed:
                    computed = True
                    return forward(*args, **kwargs)
                _require_unchanged(versions, forward)
                with global_rng_kept():
                    set_global_rng(drawn_from)
                    return forward(*again, **again_named)

        return checkpoint(compute, use_reentrant=False, preserve_rng_state=False)

    return run


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _require_unchanged(versions: list[tuple[Tensor, int]], forward: Callable[..., Any]) -> None:
    if any(tensor._version != version for tensor, version in versions):
        owner = type(getattr(forward, "__self__", forward)).__name__
        raise UnsupportedModelError(
            f"gradient checkpointing: an input of {owner} was changed in place after the block read it, "
            "so its gradient would be wrong; turn compute.gradient_checkpointing off"
        )


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No weight of `network` takes part in the gradient."""
    trainable = [name for name, weight in network.named_parameters() if weight.requires_grad]
    network.requires_grad_(False)
    try:
        yield
    finally:
        weights = dict(network.named_parameters())
        for name in trainable:
            weights[name].requires_grad_(True)


def copy_casts(network: nn.Module, casts: Callable[[nn.Module], bool]) -> None:
    """Layers that a host `casts`, by lists of functions, hand autograd copies; the others none.

    Where a host casts offloaded weights into one buffer, the next layer's would overwrite what autograd
    keeps of this one. So without gradient checkpointing the copies of all offloaded weights lie on the
    device until the backward pass, as if nothing were offloaded; with it, those of one block at a time.
    """
    for layer in network.modules():
        for name in (
            "weight_function",
            "bias_function",
        ):  # LayerNorm's backward keeps its bias, too
            functions = getattr(layer, name, None)
            if isinstance(functions, list):
                wanted = [f for f in functions if f is not _copied_for_autograd]
                wanted += [_copied_for_autograd] if casts(layer) else []
                if wanted != functions:
                    setattr(layer, name, wanted)


def _copied_for_autograd(weight: Tensor) -> Tensor:
    return weight.clone() if torch.is_grad_enabled() else weight


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Every module is in evaluation mode, so nothing is dropped at random."""
    states = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in states:
            module.training = training


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Modules that torch.compile was put around, or into, run as they were written.

    Compiled code knows nothing of hooks that were added after it was traced, and is traced anew for each
    set of weights.
    """
    with ExitStack() as undo:
        for module in list(network.modules()):
            if module._compiled_call_impl is not None:
                undo.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                module._compiled_call_impl = None
            for name, child in list(module._modules.items()):
                if isinstance(original := getattr(child, "_orig_mod", None), nn.Module):
                    undo.callback(module._modules.__setitem__, name, child)
                    module._modules[name] = original
        yield


@contextmanager
def cast_weights(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Weights that autocast to `dtype` would cast anew in every forward lie on `device` in it, with the same result.

    Afterwards they are what they were, on the CPU.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    weights = list(dict.fromkeys(p for m in layers for p in m.parameters(recurse=False)))
    before = [weight.data.cpu() for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.to(device, dtype)
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.data = value


class InferenceTensors:
    """Swaps the tensors that a host made under inference mode for ones that autograd keeps, and back again.

    Both lie on the same memory: nothing is copied, and page locks and mapped files stay what they are. The
    way back matters: of quantised weights, which wrap tensors, a host under inference mode can only handle
    those made there. Others it can neither move nor patch.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._places: dict[tuple[int, str], dict[str, Any]] = {}

    def leave(self) -> None:
        """Call it outside inference mode, again whenever the host may have put others in."""
        for tensors, name, tensor in _tensors_of(self._network):
            if tensor.is_inference():
                self._places[id(tensors), name] = tensors
        self._remake(inference=True)

    def restore(self) -> None:
        """Every place that held an inference tensor holds one, also where the host has moved it since."""
        with torch.inference_mode():
            self._remake(inference=False)

    def _remake(self, inference: bool) -> None:
        remake(
            (tensors, name)
            for (_, name), tensors in self._places.items()
            if isinstance(tensors.get(name), Tensor) and tensors[name].is_inference() == inference
        )


def remake_wrappers(network: nn.Module) -> None:
    """Make those wrappers of tensors inference tensors that a host unloaded outside inference mode."""
    remake(
        (tensors, name)
        for tensors, name, tensor in _tensors_of(network)
        if is_wrapper(tensor) and not tensor.is_inference()
    )


def remake(places: Iterable[tuple[dict[str, Any], str]]) -> None:
    """Swap the tensor in each place for `remade`; shared ones stay shared."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the old one, so that its id stays its own
    for tensors, name in places:
        tensor = tensors[name]
        if id(tensor) not in made:
            made[id(tensor)] = tensor, remade(tensor)
        tensors[name] = made[id(tensor)][1]


def remade(tensor: Tensor) -> Tensor:
    """Another tensor of the same class on the same memory: an inference tensor under inference mode alone."""
    if is_wrapper(tensor):
        names, context = tensor.__tensor_flatten__()
        inner = {name: remade(getattr(tensor, name)) for name in names}
        made = type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
        if isinstance(tensor, nn.Parameter):
            made._is_param = True  # nn.Parameter(made) would copy the scales of a quantised weight
        return made.requires_grad_(tensor.requires_grad)
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    made.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    made = made.as_subclass(type(tensor))
    made.__dict__.update(tensor.__dict__)
    return made.requires_grad_(tensor.requires_grad)


def _tensors_of(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Where a network keeps tensors, plain attributes among them: (mapping, name, tensor)."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers, vars(module)):
            for name, tensor in tensors.items():
                if isinstance(tensor, Tensor):
                    yield tensors, name, tensor
