"""Networks from the diffusers library, driven by their own noise schedules and solvers."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.lora import LoRA
from ..data import Conditioning, EncodedDataset
from ..devices import drop_aborted_backward
from ..errors import ConfigError, DatasetError, UnsupportedModelError
from ..identity import digest_tensors, digest_value
from ..method.references import ReferenceConfig
from ..randomness import isolated_global_rng
from . import DTYPES, ComputeConfig, autograd
from .conditions import digest_state
from .guides import Guide, guided
from .inputs import places_to_check

Batch = dict[str, Tensor]
Shape = tuple[int, ...]


def call_unet(network: nn.Module, x: Tensor, timestep: Tensor, cond: Batch) -> Tensor:
    """UNet2DConditionModel; `pooled` and `time_ids` are SDXL's."""
    added = {}
    if "pooled" in cond:
        added["text_embeds"] = cond["pooled"]
    if "time_ids" in cond:
        added["time_ids"] = cond["time_ids"]
    return network(x, timestep, cond["embeds"], added_cond_kwargs=added or None, return_dict=False)[
        0
    ]


def call_sd3(network: nn.Module, x: Tensor, timestep: Tensor, cond: Batch) -> Tensor:
    return network(
        x,
        encoder_hidden_states=cond["embeds"],
        pooled_projections=cond["pooled"],
        timestep=timestep,
        return_dict=False,
    )[0]


@dataclass(frozen=True)
class Architecture:
    call: Callable[[nn.Module, Tensor, Tensor, Batch], Tensor]
    """(network, x [B, ...], timestep [B], conditioning) -> raw prediction [B, ...]"""
    required: tuple[str, ...]
    """what a conditioning must hold"""


ARCHITECTURES: dict[str, Architecture] = {
    "UNet2DConditionModel": Architecture(call_unet, ("embeds",)),
    "SD3Transformer2DModel": Architecture(call_sd3, ("embeds", "pooled")),
}
"""By class name of the network."""


def epsilon(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return noise


def v_prediction(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return alpha * noise - sigma * x0


def flow(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return noise - x0


TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": epsilon,
    "v_prediction": v_prediction,
    "flow": flow,
}
"""What the network predicts, for noisy = alpha * x0 + sigma * noise."""


def _solver(class_name: str, scheduler: Any, **changes: Any) -> Any:
    import diffusers

    return getattr(diffusers, class_name).from_config(scheduler.config, **changes)


def dpmpp_2m(scheduler: Any, is_flow: bool, karras: bool) -> Any:
    changes: dict[str, Any] = {"use_karras_sigmas": karras}
    if is_flow:
        shift = getattr(scheduler.config, "shift", 1.0)
        changes |= {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": shift,
        }
    return _solver("DPMSolverMultistepScheduler", scheduler, **changes)


def ddim(scheduler: Any, is_flow: bool, karras: bool) -> Any:
    if is_flow:
        raise ConfigError("references.sampler 'ddim' does not fit a flow model; use 'euler'")
    return _solver("DDIMScheduler", scheduler, clip_sample=False)


def euler(scheduler: Any, is_flow: bool, karras: bool) -> Any:
    if is_flow:
        return _solver("FlowMatchEulerDiscreteScheduler", scheduler)
    return _solver("EulerDiscreteScheduler", scheduler, use_karras_sigmas=karras)


def euler_ancestral(scheduler: Any, is_flow: bool, karras: bool) -> Any:
    if is_flow:
        raise ConfigError(
            "references.sampler 'euler_ancestral' does not fit a flow model; use 'euler'"
        )
    return _solver("EulerAncestralDiscreteScheduler", scheduler)


SAMPLERS: dict[str, Callable[[Any, bool, bool], Any]] = {
    "dpmpp_2m": dpmpp_2m,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
}
"""ComfyUI's names for diffusers' schedulers."""
SPACINGS = ("normal", "karras")


def _unlike(where: str, cond: Batch, first: str, expected: dict[str, Shape]) -> DatasetError:
    return DatasetError(
        f"{where}: its conditioning {_shapes(cond)} is not shaped like that of {first}, {expected}; encode "
        "all texts, padded to one number of tokens"
    )


def _shapes(cond: Batch) -> dict[str, Shape]:
    return {key: tuple(cond[key].shape) for key in sorted(cond)}


@contextmanager
def checkpointing(network: nn.Module, wanted: bool) -> Iterator[None]:
    """The library's own gradient checkpointing on or off; afterwards every block has its own choice."""
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    blocks = [block for block in network.modules() if hasattr(block, "gradient_checkpointing")]
    before = [
        {name: vars(block)[name] for name in names if name in vars(block)} for block in blocks
    ]
    try:
        if wanted:
            network.enable_gradient_checkpointing()
        else:
            for block in blocks:
                block.gradient_checkpointing = False
        yield
    finally:
        for block, attributes in zip(blocks, before, strict=True):
            for name in names:
                vars(block).pop(name, None)
            vars(block).update(attributes)


class DiffusersDenoiser:
    """A diffusers network as a `Denoiser` (see the protocol).

    `scheduler` is any diffusers scheduler of the model: its config gives the noise schedule. Latents are
    scaled as (x - latent_shift) * latent_scale. A conditioning is a dict of tensors without batch
    dimension: `embeds` [T, C], where the network takes it `pooled` [C], and of SDXL `time_ids` [6] if they
    are not to follow from the latents' size; `negative` is one of these. UnsupportedModelError lists the architectures.
    """

    family = "diffusers"

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        *,
        negative: dict[str, Tensor] | None = None,
        latent_scale: float = 1.0,
        latent_shift: float = 0.0,
        device: torch.device | str | None = None,
        name: str = "",
    ) -> None:
        kind = type(network).__name__
        if kind not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{kind} is not among the diffusers architectures handled: {sorted(ARCHITECTURES)}"
            )
        self.network = network
        self.architecture = ARCHITECTURES[kind]
        self.scheduler = scheduler
        self.negative = negative
        self.latent_scale, self.latent_shift = latent_scale, latent_shift
        self.name = name or kind
        self.device = torch.device(device or next(network.parameters()).device)
        self.compute_dtype = next(network.parameters()).dtype
        self.lora: LoRA | None = None
        self.is_flow = not hasattr(scheduler, "alphas_cumprod")
        if self.is_flow:
            # A scheduler that has drawn holds the few levels that it drew with; a new one those to train on.
            fresh = type(scheduler).from_config(scheduler.config)
            sigma = fresh.sigmas[: scheduler.config.num_train_timesteps].flip(0).float().cpu()
            alpha = 1 - sigma
            prediction = "flow"
            self._timesteps = sigma * scheduler.config.num_train_timesteps
        else:
            bar = scheduler.alphas_cumprod.float().cpu()
            alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
            prediction = scheduler.config.prediction_type
            self._timesteps = torch.arange(len(bar))
        if prediction not in TARGETS:
            raise UnsupportedModelError(
                f"prediction type {prediction!r} is not among those handled: {sorted(TARGETS)}"
            )
        self.target = TARGETS[prediction]
        self._alpha, self._sigma = alpha, sigma

    def base_fingerprint(self) -> str:
        return digest_tensors(sorted(self.network.state_dict().items()))

    def context_fingerprint(self, guided: bool) -> str:
        config = {k: v for k, v in self.scheduler.config.items() if not k.startswith("_")}
        tables = (self._timesteps, self._alpha, self._sigma)
        scales = (float(self.latent_scale), float(self.latent_shift))
        negative = self.negative if guided else None
        return digest_value([digest_state(config), tables, scales, negative])

    def base_name(self) -> str:
        return self.name

    def check(
        self,
        dataset: EncodedDataset,
        compute: ComputeConfig,
        sampling: ReferenceConfig | None,
        paired: bool,
    ) -> None:
        if sampling is not None:
            self._make_solver(sampling)
        guided = sampling is not None and sampling.guidance_scale != 1.0
        if guided and self.negative is None:
            raise ConfigError(
                f"references.guidance_scale={sampling.guidance_scale} needs a negative "
                "conditioning; give one or set it to 1"
            )
        self._dtype(compute)
        channels = self.network.config.in_channels
        for index, shape in enumerate(dataset.item_shapes):
            if len(shape) != 3 or shape[0] != channels:
                raise DatasetError(
                    f"winner {index}: latents {shape} do not fit the network, which takes "
                    f"({channels}, height, width); encode the winners with this model's own VAE"
                )
        self._check_conditionings(dataset, guided)

    def _check_conditionings(self, dataset: EncodedDataset, guided: bool) -> None:
        """Any two of them may stand in one batch, and the negative with all of them."""
        examples = dataset.examples
        places = places_to_check(examples)
        named = ((f"winner {i} ({examples[i].caption!r})", examples[i].cond) for i in places)
        if guided:
            named = chain(named, [("the negative conditioning", self.negative)])
        first, expected = f"winner 0 ({examples[0].caption!r})", _shapes(examples[0].cond)
        for where, cond in named:
            missing = [key for key in self.architecture.required if key not in cond]
            if missing:
                raise DatasetError(
                    f"{where}: its conditioning lacks {missing}; "
                    f"{type(self.network).__name__} takes {list(self.architecture.required)}"
                )
            if _shapes(cond) != expected:
                raise _unlike(where, cond, first, expected)

    def _dtype(self, compute: ComputeConfig) -> torch.dtype:
        stored = next(self.network.parameters()).dtype
        if compute.precision == "auto":
            wants_bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            return torch.bfloat16 if wants_bf16 and stored == torch.float32 else stored
        dtype = DTYPES[compute.precision]
        if stored not in (dtype, torch.float32):
            raise ConfigError(
                f"compute.precision={compute.precision} does not fit a network stored in {stored}; "
                "load it in float32 or choose its own precision"
            )
        return dtype

    @contextmanager
    def session(self, compute: ComputeConfig) -> Iterator[None]:
        network = self.network
        first = next(network.parameters())
        home, self._stored = first.device, first.dtype
        dtype_before, self.compute_dtype = self.compute_dtype, self._dtype(compute)
        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as undo:
            undo.callback(setattr, self, "compute_dtype", dtype_before)
            undo.callback(network.to, home)
            autograd.InferenceTensors(network).leave()
            if self.compute_dtype != self._stored:
                undo.enter_context(autograd.cast_weights(network, self.device, self.compute_dtype))
            undo.callback(drop_aborted_backward, self.device)
            network.to(self.device)
            undo.enter_context(autograd.frozen(network))
            undo.enter_context(autograd.evaluating(network))
            undo.enter_context(checkpointing(network, compute.gradient_checkpointing))
            self._tables = tuple(t.to(self.device) for t in (self._alpha, self._sigma))
            yield

    def scale_latents(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.device, torch.float32)
        return (latents - self.latent_shift) * self.latent_scale

    def levels(self, uniform: Tensor) -> Tensor:
        """Indices into the training schedule, counted from the least noise."""
        return (uniform * len(self._sigma)).long()

    def prepare(self, conds: Sequence[Conditioning], shape: tuple[int, ...]) -> Batch:
        expected = _shapes(conds[0])
        for cond in conds:
            if _shapes(cond) != expected:
                raise _unlike("a winner", cond, "another one of its batch", expected)
        batch = {key: torch.stack([cond[key] for cond in conds]) for key in conds[0]}
        if getattr(self.network.config, "addition_embed_type", None) == "text_time":
            height, width = (8 * side for side in shape[-2:])
            size = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
            batch.setdefault("time_ids", size.expand(len(conds), -1))
        return {key: value.to(self.device) for key, value in batch.items()}

    def predict(self, x: Tensor, timestep: Tensor, cond: Batch) -> Tensor:
        """The network's raw output, float32."""
        stored = self._stored
        needs_autocast = self.compute_dtype != stored
        with torch.autocast(self.device.type, self.compute_dtype, enabled=needs_autocast):
            inputs = {key: value.to(stored) for key, value in cond.items()}
            return self.architecture.call(self.network, x.to(stored), timestep, inputs).float()

    def residuals(self, latents: Tensor, noise: Tensor, levels: Tensor, prepared: Batch) -> Tensor:
        timestep = self._timesteps[levels].to(self.device)
        noise = noise.to(self.device)
        levels = levels.to(self.device)
        ones = (1,) * (latents.ndim - 1)
        alpha, sigma = (table[levels].view(-1, *ones) for table in self._tables)
        noisy = alpha * latents + sigma * noise
        target = self.target(latents, noise, alpha, sigma)
        return self.predict(noisy, timestep, prepared) - target

    def _make_solver(self, sampling: ReferenceConfig) -> Any:
        for what, value, choices in (
            ("sampler", sampling.sampler, tuple(SAMPLERS)),
            ("scheduler", sampling.scheduler, SPACINGS),
        ):
            if value not in choices:
                raise ConfigError(
                    f"references.{what}: unknown {value!r}; choose from {sorted(choices)}"
                )
        make = SAMPLERS[sampling.sampler]
        return make(self.scheduler, self.is_flow, sampling.scheduler == "karras")

    def _predict_copies(self, x: Tensor, timestep: Tensor, cond: Batch) -> Tensor:
        """`predict` where `cond` holds as many conditionings as `x` latents, or twice as many."""
        copies = len(next(iter(cond.values()))) // len(x)
        return self.predict(torch.cat([x] * copies), timestep.expand(copies * len(x)), cond)

    @torch.no_grad()
    def sample(
        self,
        conds: Sequence[Conditioning],
        noise: Tensor,
        sampling: ReferenceConfig,
        seed: int,
        guide: Guide | None = None,
    ) -> Tensor:
        solver = self._make_solver(sampling)
        solver.set_timesteps(sampling.sampling_steps, device=self.device)
        if hasattr(solver, "set_begin_index"):  # else it is looked up by a timestep that may repeat
            solver.set_begin_index(0)
        is_guided = sampling.guidance_scale != 1.0
        shape = tuple(noise.shape[1:])
        positive = self.prepare(conds, shape)
        negative = self.prepare([self.negative] * len(conds), shape) if is_guided else None
        x = noise.to(self.device) * getattr(solver, "init_noise_sigma", 1.0)
        accepts = inspect.signature(solver.step).parameters
        extra = {}
        if "generator" in accepts:
            extra["generator"] = torch.Generator().manual_seed(seed)
        with isolated_global_rng(seed):
            for timestep in solver.timesteps:
                scaled = x if self.is_flow else solver.scale_model_input(x, timestep)
                predict = partial(self._predict_copies, scaled, timestep)
                using, scale = self.lora and self.lora.using, sampling.guidance_scale
                raw = guided(predict, positive, negative, scale, guide, using)
                x = solver.step(raw, timestep, x, **extra, return_dict=False)[0]
        return x.float()
