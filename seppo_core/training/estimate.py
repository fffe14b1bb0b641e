"""What a training step will keep in memory, computed on torch's meta device: no weight is copied, nothing is allocated.

A tool beside training, for tables; a run measures what its steps take (memory.py). A twin of the network
without data runs one forward and backward on inputs shaped like the real ones, and every tensor that autograd
keeps is counted while it lives; attention counts as a fused kernel keeps it (q, k, v, output).
Buffers inside one operation, the CUDA context and fragmentation are not in the number.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..adapters.lora import LoRA
from ..data import EncodedDataset
from ..denoisers import Denoiser, autograd
from .config import SePPOConfig

META = torch.device("meta")
GIB = 2**30
COPIES = 4
"""of the LoRA's size beside the LoRA: its gradient, Adam's two moments, and the reference's weights"""

Call = tuple[tuple, Mapping[str, Any]]
"""Arguments of a network's forward, by place and by name."""


def calls_of(policy: Denoiser, dataset: EncodedDataset) -> list[Call]:
    """How the network is called for one winner, of the largest shape, once or more; runs it without gradient."""
    sizes = [torch.Size(shape).numel() for shape in dataset.shapes]
    example = dataset[sizes.index(max(sizes))]
    latents = policy.scale_latents(example.latents[None])
    prepared = policy.prepare([example.cond], tuple(example.latents.shape))
    level = policy.levels(torch.full((1,), 0.5))
    with torch.no_grad(), recorded(policy.network) as calls:
        policy.residuals(latents, torch.zeros(latents.shape), level, prepared)
    return calls


def step_bytes(policy: Denoiser, calls: list[Call], config: SePPOConfig, micro_batch: int) -> int:
    """What `micro_batch` winners keep for the backward, their samples too, and what comes with the LoRA."""
    count = micro_batch * (2 if config.loss.aims.contrasts else 1)
    empty = [(on_meta(args, count), on_meta(dict(kwargs), count)) for args, kwargs in calls]
    for _, kwargs in empty:
        if "transformer_options" in kwargs:
            kwargs["transformer_options"]["optimized_attention_override"] = _fused_attention
    twin, checkpointing = meta_twin(policy.network), config.compute.gradient_checkpointing
    if policy.family == "diffusers":
        twin.to(policy.compute_dtype)  # stands for autocast, which knows no meta device
        empty = _cast(empty, policy.compute_dtype)
    lora = LoRA(twin, config.lora, config.seed, META)
    with ExitStack() as stack:
        stack.enter_context(lora.attached())
        if checkpointing and policy.family == "comfy":
            stack.enter_context(autograd.checkpointed(autograd.find_blocks(twin)))
        stack.enter_context(autograd.out_of_place())
        kept = kept_for_backward(
            twin, lambda: sum(output_of(twin(*args, **kwargs)).sum() for args, kwargs in empty)
        )
    weights = sum(p.numel() * p.element_size() for p in lora.parameters())
    return kept + COPIES * weights


def output_of(found: Any) -> Tensor:
    """The prediction, of networks that return it alone or wrapped."""
    return found if isinstance(found, Tensor) else found[0]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(_cast(item, dtype) for item in value)
    if type(value) is dict:
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value


def meta_twin(network: nn.Module) -> nn.Module:
    """A copy of the network's structure whose parameters and buffers have shape and dtype, but no data."""
    tensors = [*network.parameters(), *network.buffers()]
    twins: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device=META)
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=False)
        twins[id(tensor)] = empty
    twin = copy.deepcopy(network, twins)
    for module in twin.modules():
        vars(module).pop("forward", None)  # a wrapper around the original's
    return twin


def on_meta(value: Any, batch: int = 1) -> Any:
    """`value` with every tensor in it replaced by one without data; what was a batch of one is one of `batch`."""
    if isinstance(value, Tensor):
        repeated = value.shape[:1] == (1,) and value.ndim > 0
        shape = (batch, *value.shape[1:]) if repeated else value.shape
        return torch.empty(shape, dtype=value.dtype, device=META)
    if type(value) in (list, tuple):
        return type(value)(on_meta(item, batch) for item in value)
    if type(value) is dict:
        return {key: on_meta(item, batch) for key, item in value.items()}
    return value


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Call]]:
    """The arguments of every call of `network` in the block."""
    calls: list[Call] = []
    hook = network.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


def kept_for_backward(network: nn.Module, call: Callable[[], Tensor]) -> int:
    """Peak bytes that autograd keeps during `call` and its backward, beside the weights of `network`."""
    kept = SavedTensors(network)
    with fused_attention(), torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        call().sum().backward()
    return kept.peak


@contextmanager
def fused_attention() -> Iterator[None]:
    """Scaled dot product attention keeps what a fused kernel keeps, whichever the device would take.

    The function itself is exchanged: a mode would not reach the blocks that a backward pass runs anew.
    """
    before = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **settings: Any) -> Tensor:
        if query.device != META:  # of somebody else, on another thread
            return before(query, key, value, *args, **settings)
        return _Attention.apply(query, key, value)

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def _fused_attention(
    func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **settings: Any
) -> Tensor:
    """ComfyUI's attention functions in the same way; [B, N, heads * D] or, as settings say, [B, heads, N, D]."""
    if not settings.get("skip_reshape"):
        shape = (len(q), -1, heads, q.shape[-1] // heads)  # SD3 brings k and v so already
        q, k, v = (rearrange(x.view(shape), "b n heads d -> b heads n d") for x in (q, k, v))
    out = _Attention.apply(q, k, v)
    if settings.get("skip_output_reshape"):
        return out
    return rearrange(out, "b heads n d -> b n (heads d)")


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        same = v.shape[-1] == q.shape[-1]  # then laid out like q, as flash attention does
        out = torch.empty_like(q) if same else q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class SavedTensors:
    """Counts the bytes of distinct storages that autograd holds, and their peak; weights live anyway."""

    def __init__(self, resident: nn.Module) -> None:
        self.resident = {id(p) for p in resident.parameters()}
        self.held: dict[int, list[int]] = {}
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> "Holder | Tensor":
        base = tensor._base if tensor._base is not None else tensor
        if id(base) in self.resident or isinstance(base, nn.Parameter):
            return tensor
        return Holder(self, base, tensor)

    def unpack(self, holder: "Holder | Tensor") -> Tensor:
        return holder.tensor if isinstance(holder, Holder) else holder

    def hold(self, base: Tensor) -> None:
        entry = self.held.setdefault(id(base), [0, base.numel() * base.element_size()])
        if entry[0] == 0:
            self.now += entry[1]
            self.peak = max(self.peak, self.now)
        entry[0] += 1

    def release(self, base: Tensor) -> None:
        entry = self.held[id(base)]
        entry[0] -= 1
        if entry[0] == 0:
            self.now -= entry[1]
            del self.held[id(base)]


class Holder:
    """One saved tensor; counted until autograd lets it go."""

    def __init__(self, kept: SavedTensors, base: Tensor, tensor: Tensor) -> None:
        self.kept, self.base, self.tensor = kept, base, tensor
        kept.hold(base)

    def __del__(self) -> None:
        self.kept.release(self.base)
