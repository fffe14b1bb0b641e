"""Small weights beside a frozen network's layers, which switch by one assignment.

A path is a forward hook on its layer; that of LoRA gives output + (alpha / rank) * up(down(input)). The layer's own
weights are never read, so they may be stored in any format and are never copied. Which weights the paths use is
the *active slot*: the policy's trainable ones, a snapshot's, or none (the bare base).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..randomness import generator
from ..settings import Section, setting

ConvNd = nn.modules.conv._ConvNd
CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def is_linear(name: str, module: nn.Module) -> bool:
    """Linear layers, also those of hosts that do not derive theirs from nn.Linear."""
    return (
        not isinstance(module, nn.Bilinear)
        and hasattr(module, "in_features")
        and hasattr(module, "out_features")
    )


def is_attention(name: str, module: nn.Module) -> bool:
    """Linear layers inside a module that names itself attention."""
    words = ("attn", "attention")
    return is_linear(name, module) and any(word in name.lower() for word in words)


def is_convolution(name: str, module: nn.Module) -> bool:
    """Plain convolutions; grouped, transposed and non-zero-padded ones have no low-rank form here."""
    return (
        isinstance(module, ConvNd)
        and not module.transposed
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def is_any(name: str, module: nn.Module) -> bool:
    return is_linear(name, module) or is_convolution(name, module)


MODULES: dict[str, Callable[[str, nn.Module], bool]] = {
    "linear": is_linear,
    "attention": is_attention,
    "all": is_any,
}


class Path(Protocol):
    """The small weights beside one layer, in parts that files keep by name.

    The first part's length is the rank that files tell. The last one has the layer's outputs first and is zero at
    the start, so that the policy begins as the base.
    """

    parts: tuple[str, ...]
    name: str
    module: nn.Module

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the parts, in their order."""

    def initial(self, seed: int) -> tuple[Tensor, ...]:
        """The parts as they start, float32, on the CPU; the same for the same seed and layer."""

    def ready(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """The parts as calls take them; asked once for weights that do not learn."""

    def __call__(self, x: Tensor, output: Tensor, scale: float, *ready: Tensor) -> Tensor:
        """The layer's output for input `x`, with what the weights make of it."""


@dataclass(frozen=True)
class LowRankPath:
    """LoRA: output + scale * up(down(input))."""

    parts = ("down", "up")

    name: str
    module: nn.Module
    down_shape: tuple[int, ...]
    """[rank, in], with kernel sizes for convolutions"""
    up_shape: tuple[int, ...]
    """[out, rank], with ones for convolutions"""

    @classmethod
    def of(cls, name: str, module: nn.Module, config: LoRAConfig) -> LowRankPath:
        rank = config.rank
        if isinstance(module, ConvNd):
            kernel = tuple(module.kernel_size)
            ones = (1,) * len(kernel)
            down = (rank, module.in_channels, *kernel)
            return cls(name, module, down, (module.out_channels, rank, *ones))
        return cls(name, module, (rank, module.in_features), (module.out_features, rank))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.down_shape, self.up_shape

    def initial(self, seed: int) -> tuple[Tensor, ...]:
        """`down` uniform in +-1/sqrt(fan_in), drawn per layer from (seed, layer name); `up` zero."""
        fan_in = torch.Size(self.down_shape[1:]).numel()
        uniform = torch.rand(self.down_shape, generator=generator(seed, "lora", self.name))
        return (uniform * 2 - 1) / fan_in**0.5, torch.zeros(self.up_shape)

    def ready(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """Matrices transposed: [in, rank] and [rank, out]."""
        down, up = weights
        return (down.t(), up.t()) if down.dim() == 2 else (down, up)

    def __call__(self, x: Tensor, output: Tensor, scale: float, down: Tensor, up: Tensor) -> Tensor:
        """The layer's output with the path's added; `down` and `up` come as `ready` gives them.

        Without gradients the output of a linear layer is added to in place, where nobody else can hold it.
        """
        if len(self.down_shape) > 2:
            module = self.module
            convolve = CONVOLUTIONS[len(self.down_shape) - 2]
            hidden = convolve(x, down, None, module.stride, module.padding, module.dilation)
            return output + convolve(hidden * scale, up).to(output.dtype)
        # One matrix and one kernel whatever grad mode says: torch folds x of another layout only for weights
        # that require gradients, so policy and reference would round in different kernels and tie no more.
        hidden = torch.mm(x.reshape(-1, x.shape[-1]), down)
        learning, width, dtype = torch.is_grad_enabled(), output.shape[-1], output.dtype
        if up.dtype != dtype:  # a `to` with nothing to do costs more than asking
            up = up.to(dtype)
        # Unlike addmm_, torch.addmm takes the dtype that autocast says, which may not be the output's.
        if learning and hidden.dtype == dtype:
            added = torch.addmm(output.reshape(-1, width), hidden, up, alpha=scale)
            return added.view(output.shape)
        if learning or not self._is_ours(x, output):
            output = output.clone(memory_format=torch.contiguous_format)
        if hidden.dtype != dtype:
            hidden = hidden.to(dtype)
        output.view(-1, width).addmm_(hidden, up, alpha=scale)
        return output

    def _is_ours(self, x: Tensor, output: Tensor) -> bool:
        """Whether the output may be written to: whole rows, not the input, and no other hook to have kept it."""
        return output is not x and output.is_contiguous() and len(self.module._forward_hooks) == 1


ADAPTERS: dict[str, type[Path]] = {"lora": LowRankPath}
"""How small weights compute; `of` makes one for a layer."""


@dataclass(frozen=True)
class LoRAConfig(Section, section="lora"):
    adapter: str = setting("lora", choices=ADAPTERS)
    """What kind of small weights: a row of ADAPTERS."""
    rank: int = setting(
        16,
        "Size of the LoRA. Larger can learn more, and makes larger files.",
        least=1,
        most_shown=1024,
    )
    alpha: float = setting(
        0.0,
        "LoRA alpha; its strength is alpha / rank. 0 means alpha = rank.",
        least=0,
        most_shown=1024.0,
        step=0.5,
    )
    modules: str = setting(
        "linear",
        "Which layers learn: all linear ones, those of attention only, or all including convolutions.",
        choices=MODULES,
    )
    pattern: str = setting(
        "", "Only layers whose name contains this regular expression learn. Empty: all."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"lora.pattern {self.pattern!r} is not a regular expression: {error}"
            ) from None

    @property
    def scale(self) -> float:
        return (self.alpha or self.rank) / self.rank


class Slot(dict[str, tuple[Tensor, ...]]):
    """Weights for every path: layer name -> its parts, float32, wherever they are kept."""

    def __init__(self, weights: Iterable[tuple[str, tuple[Tensor, ...]]]) -> None:
        super().__init__(weights)
        self._ready: dict[str, tuple[Tensor, ...]] = {}

    def of(self, path: Path, x: Tensor) -> tuple[Tensor, ...]:
        """A layer's, with the dtype and device of its input, as its path takes them.

        A snapshot's are made ready once; those of weights that learn belong to their graph.
        """
        ready = self._ready.get(path.name)
        if ready is not None and _suits(ready[0], x):
            return ready
        weights = self[path.name]
        learning = weights[0].requires_grad
        if not _suits(weights[0], x):
            weights = tuple(weight.to(x) for weight in weights)
        ready = path.ready(*weights)
        if not learning:
            self._ready[path.name] = ready
        return ready

    def scaled(self, strength: float) -> Slot:
        """The same with the last part of each layer times `strength`, as LoRAs are loaded stronger."""
        return Slot((name, (*parts[:-1], parts[-1] * strength)) for name, parts in self.items())

    def stay_on(self, device: torch.device) -> None:
        """Bring the weights there as they are, for who needs them in every step."""
        for name, weights in self.items():
            self[name] = tuple(weight.to(device) for weight in weights)


def _suits(weight: Tensor, x: Tensor) -> bool:
    return weight.dtype == x.dtype and weight.device == x.device


def uncompiled_name(name: str) -> str:
    """A layer's or weight's name without what torch.compile adds to it."""
    return name.replace("_orig_mod.", "")


def find_paths(network: nn.Module, config: LoRAConfig) -> list[Path]:
    """Paths for every layer the settings choose, in the network's own order."""
    chosen, make = MODULES[config.modules], ADAPTERS[config.adapter].of
    names = ((uncompiled_name(name), module) for name, module in network.named_modules())
    paths = [
        make(name, module, config)
        for name, module in names
        if chosen(name, module) and re.search(config.pattern, name)
    ]
    if not paths:
        raise UnsupportedModelError(
            f"lora.modules={config.modules!r} with pattern {config.pattern!r} matches no layer of "
            f"{type(network).__name__}; widen lora.modules or empty lora.pattern"
        )
    return paths


def check_fit(weights: Mapping[str, Tensor], paths: list[Path]) -> None:
    """CheckpointError, naming the first layer, unless `weights` are those of exactly these paths."""
    shapes = {
        f"{path.name}.{part}": shape
        for path in paths
        for part, shape in zip(path.parts, path.shapes, strict=True)
    }
    for key, shape in shapes.items():
        found = tuple(weights[key].shape) if key in weights else None
        if found != shape:
            raise CheckpointError(
                f"LoRA weights do not fit this network: {key} should be {shape}, found "
                f"{found or 'nothing'}; use the rank, modules and base model they were made with"
            )
    if unknown := sorted(set(weights) - set(shapes)):
        raise CheckpointError(
            f"LoRA weights name layers this run does not train, first {unknown[0]}; "
            "use the modules and base model they were made with"
        )


class LoRA:
    """The policy's small weights on one network, and the switch between them and others.

    The initial policy is the base exactly.
    """

    def __init__(
        self, network: nn.Module, config: LoRAConfig, seed: int, device: torch.device
    ) -> None:
        self.scale = config.scale
        self.device = device
        self.paths = find_paths(network, config)
        self.policy = Slot((path.name, self._initial(path, seed)) for path in self.paths)
        self._active: Slot | None = None
        self.evaluation: Callable[[], AbstractContextManager[None]] = nullcontext
        """inside it the policy's weights are those to draw with; while a trainer moves others, it sets this"""

    def _initial(self, path: Path, seed: int) -> tuple[nn.Parameter, ...]:
        return tuple(nn.Parameter(weight.to(self.device)) for weight in path.initial(seed))

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights, in a fixed order."""
        return [weight for parts in self.policy.values() for weight in parts]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The paths are part of the network, with the policy active; afterwards it is as before."""
        handles = [path.module.register_forward_hook(self._hook(path)) for path in self.paths]
        self._active = self.policy
        try:
            yield
        finally:
            self._active = None
            for handle in handles:
                handle.remove()

    def _hook(self, path: Path) -> Callable[..., Tensor | None]:
        def add_path(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._active is None:
                return None
            return path(args[0], output, self.scale, *self._active.of(path, args[0]))

        return add_path

    @contextmanager
    def using(self, slot: Slot | None) -> Iterator[None]:
        """Every path reads `slot` (None: the bare base) inside the block."""
        before, self._active = self._active, slot
        try:
            yield
        finally:
            self._active = before

    def slot(self, weights: Mapping[str, Tensor]) -> Slot:
        """A snapshot's weights for `using`; each comes to the network's device when its layer first needs it."""
        return Slot(
            (path.name, tuple(weights[f"{path.name}.{part}"] for part in path.parts))
            for path in self.paths
        )

    @torch.no_grad()
    def beyond(self, slot: Slot, times: float) -> Slot:
        """Weights `times` as far from the policy as `slot`, on the same line; the policy itself where both are one.

        They are those of this moment: a slot that the policy then moves away from.
        """
        own = [weight.detach() for weight in self.parameters()]
        slot.stay_on(self.device)
        other = [weight for name in self.policy for weight in slot[name]]
        far = iter(torch._foreach_lerp(own, other, times))
        return Slot((path.name, tuple(islice(far, len(path.parts)))) for path in self.paths)

    def state(self) -> dict[str, Tensor]:
        """A copy of the policy's weights on the CPU: `<layer>.<part>`, float32."""
        return {
            f"{path.name}.{part}": weight.detach().to("cpu", copy=True)
            for path in self.paths
            for part, weight in zip(path.parts, self.policy[path.name], strict=True)
        }

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the policy's weights; CheckpointError names the first layer that does not fit."""
        check_fit(weights, self.paths)
        with torch.no_grad():
            for path in self.paths:
                for part, own in zip(path.parts, self.policy[path.name], strict=True):
                    own.copy_(weights[f"{path.name}.{part}"])
