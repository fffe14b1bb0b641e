"""Low-rank paths beside a frozen network's layers, with weights that switch by one assignment.

A path is a forward hook on its layer: output + (alpha / rank) * up(down(input)). The layer's own weights
are never read, so they may be stored in any format and are never copied. Which weights the paths use is
the *active slot*: the policy's trainable ones, a snapshot's, or none (the bare base).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..randomness import generator
from ..settings import check, setting

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


@dataclass(frozen=True)
class LoRAConfig:
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
        "Which layers learn: all linear ones, those of attention only, or all "
        "including convolutions.",
        choices=MODULES,
    )
    pattern: str = setting(
        "",
        "Only layers whose name contains this regular expression learn. Empty: all.",
    )

    def __post_init__(self) -> None:
        check(self, "lora")
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
class LowRankPath:
    """One layer's path: where it is and the shapes of its two weights."""

    name: str
    module: nn.Module
    down_shape: tuple[int, ...]
    up_shape: tuple[int, ...]

    def __call__(self, x: Tensor, output: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """The layer's output with the path's added; `down` and `up` come as `Slot.of` gives them.

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


class Slot(dict[str, tuple[Tensor, Tensor]]):
    """Weights for every path: layer name -> (down, up), float32, wherever they are kept."""

    def __init__(self, weights: Iterable[tuple[str, tuple[Tensor, Tensor]]]) -> None:
        super().__init__(weights)
        self._ready: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's, with the dtype and device of its input, matrices transposed: [in, rank] and [rank, out].

        A snapshot's are made ready once; those of weights that learn belong to their graph.
        """
        ready = self._ready.get(name)
        if ready is not None and _suits(ready[0], x):
            return ready
        down, up = self[name]
        learning = down.requires_grad
        if not _suits(down, x):
            down, up = down.to(x), up.to(x)
        ready = (down.t(), up.t()) if down.dim() == 2 else (down, up)
        if not learning:
            self._ready[name] = ready
        return ready

    def stay_on(self, device: torch.device) -> None:
        """Bring the weights there as they are, for who needs them in every step."""
        for name, (down, up) in self.items():
            self[name] = down.to(device), up.to(device)


def _suits(weight: Tensor, x: Tensor) -> bool:
    return weight.dtype == x.dtype and weight.device == x.device


def path_for(name: str, module: nn.Module, rank: int) -> LowRankPath:
    """The path of one layer. up is [out, rank] and down [rank, in], with kernel sizes for convolutions."""
    if isinstance(module, ConvNd):
        kernel = tuple(module.kernel_size)
        ones = (1,) * len(kernel)
        down = (rank, module.in_channels, *kernel)
        return LowRankPath(name, module, down, (module.out_channels, rank, *ones))
    return LowRankPath(name, module, (rank, module.in_features), (module.out_features, rank))


def uncompiled_name(name: str) -> str:
    """A layer's or weight's name without what torch.compile adds to it."""
    return name.replace("_orig_mod.", "")


def find_paths(network: nn.Module, config: LoRAConfig) -> list[LowRankPath]:
    """Paths for every layer the settings choose, in the network's own order."""
    chosen = MODULES[config.modules]
    names = ((uncompiled_name(name), module) for name, module in network.named_modules())
    paths = [
        path_for(name, module, config.rank)
        for name, module in names
        if chosen(name, module) and re.search(config.pattern, name)
    ]
    if not paths:
        raise UnsupportedModelError(
            f"lora.modules={config.modules!r} with pattern {config.pattern!r} matches no layer of "
            f"{type(network).__name__}; widen lora.modules or empty lora.pattern"
        )
    return paths


def check_fit(weights: Mapping[str, Tensor], paths: list[LowRankPath]) -> None:
    """CheckpointError, naming the first layer, unless `weights` are those of exactly these paths."""
    shapes = {f"{path.name}.down": path.down_shape for path in paths}
    shapes |= {f"{path.name}.up": path.up_shape for path in paths}
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
    """The policy's low-rank weights on one network, and the switch between them and others.

    `down` starts uniform in +-1/sqrt(fan_in), drawn per layer from (seed, layer name); `up` starts at
    zero, so the initial policy is the base exactly.
    """

    def __init__(
        self, network: nn.Module, config: LoRAConfig, seed: int, device: torch.device
    ) -> None:
        self.scale = config.scale
        self.rank = config.rank
        self.device = device
        self.paths = find_paths(network, config)
        self.policy = Slot((path.name, self._initial(path, seed)) for path in self.paths)
        self._active: Slot | None = None
        self.evaluation: Callable[[], AbstractContextManager[None]] = nullcontext
        """inside it the policy's weights are those to draw with; while a trainer moves others, it sets this"""

    def _initial(self, path: LowRankPath, seed: int) -> tuple[nn.Parameter, nn.Parameter]:
        fan_in = torch.Size(path.down_shape[1:]).numel()
        uniform = torch.rand(path.down_shape, generator=generator(seed, "lora", path.name))
        down = (uniform * 2 - 1) / fan_in**0.5
        up = torch.zeros(path.up_shape)
        return nn.Parameter(down.to(self.device)), nn.Parameter(up.to(self.device))

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights, in a fixed order."""
        return [weight for pair in self.policy.values() for weight in pair]

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

    def _hook(self, path: LowRankPath) -> Callable[..., Tensor | None]:
        def add_path(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._active is None:
                return None
            x = args[0]
            down, up = self._active.of(path.name, x)
            return path(x, output, down, up, self.scale)

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
            (path.name, (weights[f"{path.name}.down"], weights[f"{path.name}.up"]))
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
        far = torch._foreach_lerp(own, other, times)
        return Slot(zip(self.policy, zip(far[::2], far[1::2], strict=True), strict=True))

    def state(self) -> dict[str, Tensor]:
        """A copy of the policy's weights on the CPU: `<layer>.down` and `<layer>.up`, float32."""
        return {
            f"{name}.{part}": weight.detach().to("cpu", copy=True)
            for name, pair in self.policy.items()
            for part, weight in zip(("down", "up"), pair, strict=True)
        }

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the policy's weights; CheckpointError names the first layer that does not fit."""
        check_fit(weights, self.paths)
        with torch.no_grad():
            for name, (down, up) in self.policy.items():
                down.copy_(weights[f"{name}.down"])
                up.copy_(weights[f"{name}.up"])
