"""ComfyUI's MODEL, of whatever architecture, as a `Denoiser`: the one core file that names comfy.

Everything goes the host's own ways: its loader, its conditioning, its model options, its samplers. The
MODEL that was given is never changed: a clone is loaded for the time of a session.
"""

import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.lora import LoRA
from ..data import Conditioning, EncodedDataset
from ..devices import drop_aborted_backward
from ..errors import ConfigError
from ..identity import digest_value
from ..method.references import ReferenceConfig
from ..randomness import derived_seed, isolated_global_rng
from . import DTYPES, ComputeConfig, autograd
from .attention import WithGradient
from .guides import Guide, guiding
from .inputs import (
    Prepared,
    check_conditioning,
    check_dataset,
    on_device,
    stackable_groups,
    stacked,
)
from .kernels import OVERRIDE, Kernels
from .patcher import (
    as_written,
    check_noise,
    checkpoint_name,
    compute_dtype,
    is_elsewhere,
    patcher_conditions,
    patcher_identity,
    static,
    uncompiled,
)

CACHED_CONDITIONINGS = 32
"""How many examples' conditionings stay ready on the device; a long T5 text takes about 8 MB."""


class ComfyDenoiser:
    """A ModelPatcher as a `Denoiser` (see the protocol); `negative` is the host's CONDITIONING or None."""

    family = "comfy"

    def __init__(self, model: Any, negative: Conditioning | None = None) -> None:
        self.model = model
        self.negative = negative
        self.lora: LoRA | None = None
        self.device: torch.device = model.load_device
        self._ready: OrderedDict[Any, tuple[Conditioning, dict[str, Any]]] = OrderedDict()
        self._forget()

    @cached_property
    def _static(self) -> Any:
        return static(self.model)

    @property
    def network(self) -> nn.Module:
        return as_written(self._static.model.diffusion_model)

    def base_name(self) -> str:
        """The checkpoint's file name without suffix where the host kept it, else the architecture's."""
        return checkpoint_name(self.model) or type(self.model.model.model_config).__name__

    def base_fingerprint(self) -> str:
        """A hash over the network's weights and patches, wherever the model is loaded or patched."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return patcher_identity(self.model, "diffusion_model.")

    def context_fingerprint(self, guided: bool) -> str:
        negative = self.negative if guided else None
        return digest_value([patcher_conditions(self.model), negative])

    # Before the model is moved

    def check(
        self,
        dataset: EncodedDataset,
        compute: ComputeConfig,
        sampling: ReferenceConfig | None,
        paired: bool,
    ) -> None:
        if sampling is not None:
            self._check_sampling(sampling)
        check_noise(self.model)
        check_dataset(dataset, self.model.model, paired)
        if self.negative is not None:
            check_conditioning(self.negative, self.model.model, "the negative conditioning")

    def _check_sampling(self, sampling: ReferenceConfig) -> None:
        from comfy.samplers import KSampler

        for what, value, known in (
            ("sampler", sampling.sampler, KSampler.SAMPLERS),
            ("scheduler", sampling.scheduler, KSampler.SCHEDULERS),
        ):
            if value not in known:
                raise ConfigError(
                    f"references.{what}: this ComfyUI has no {value!r}; choose from {sorted(known)}"
                )
        self._require_negative(sampling)

    def _require_negative(self, sampling: ReferenceConfig) -> None:
        if sampling.guidance_scale != 1.0 and self.negative is None:
            raise ConfigError(
                f"references.guidance_scale={sampling.guidance_scale} needs a negative conditioning; "
                "connect one or set it to 1"
            )

    # The session

    @contextmanager
    def session(self, compute: ComputeConfig) -> Iterator[None]:
        import comfy.ldm.modules.attention as attention
        import comfy.model_management
        import comfy.ops

        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as undo:
            undo.callback(self._forget)
            patcher = self._patcher = uncompiled(self._static)
            patcher.add_wrapper("apply_model", _unless_cancelled)  # WrappersMP.APPLY_MODEL
            self._load(compute, undo)
            undo.enter_context(autograd.uncompiled(patcher.model))
            undo.callback(drop_aborted_backward, self.device)
            undo.enter_context(autograd.frozen(self.network))
            undo.enter_context(autograd.evaluating(self.network))
            self._kernels = Kernels(self.network, attention, comfy.ops, comfy.model_management)
            undo.enter_context(self._kernels.training())
            if compute.gradient_checkpointing:
                undo.enter_context(autograd.checkpointed(autograd.find_blocks(self.network)))
            undo.callback(setattr, patcher.model, "current_patcher", None)
            undo.callback(patcher.cleanup)  # which may fail before it comes to that attribute
            patcher.pre_run()
            self._options = self._model_options()
            yield

    def _forget(self) -> None:
        self._patcher: Any = None
        self._inference: Any = None
        self._kernels: Any = None
        self._options: dict[str, Any] = {}
        self._sigmas: Tensor | None = None
        self._ready.clear()
        self.compute_dtype = compute_dtype(self.model)

    def _load(self, compute: ComputeConfig, undo: ExitStack) -> None:
        """Load the clone with `compute.precision`, whole if it fits, free of inference tensors.

        The host loads under inference mode, as for a sampler: quantised weights that it moves outside, of
        other models that make room too, it could neither move nor patch in a node any more.
        """
        import comfy.model_management as management

        patcher = self._patcher
        dtype = DTYPES.get(compute.precision, compute_dtype(patcher))
        if dtype != compute_dtype(patcher):
            patcher.set_model_compute_dtype(dtype)
            undo.callback(_unload, patcher)
        self.compute_dtype = dtype
        self._inference = autograd.InferenceTensors(patcher.model)
        undo.callback(self._restore, dict(patcher.backup))
        total = management.get_total_memory(patcher.load_device)
        whole = patcher.model_size() + management.minimum_inference_memory() < total
        with torch.inference_mode():
            autograd.remake_wrappers(patcher.model)
            # Other models leave the device; one that does not fit leaves half of it for activations.
            management.load_models_gpu(
                [patcher], memory_required=1e20 if whole else total / 2, force_full_load=whole
            )
        self._follow_moves()

    def _follow_moves(self) -> None:
        """After the host moved weights: unpatching on the way may have put back some from before."""
        self._inference.leave()
        autograd.copy_casts(self.network, lambda layer: is_elsewhere(layer, self.device))

    def _restore(self, kept: dict[str, Any]) -> None:
        """The host's weights, and what it has put aside since it had `kept` aside, are of its own kind again."""
        import comfy.utils

        autograd.copy_casts(self.network, lambda layer: False)
        self._inference.restore()
        backup, model = self._patcher.backup, self._patcher.model
        with torch.inference_mode():
            for name, entry in backup.items():
                if entry is not kept.get(name) and comfy.utils.get_attr(model, name).is_inference():
                    backup[name] = entry._replace(weight=autograd.remade(entry.weight))

    def _model_options(self) -> dict[str, Any]:
        """The clone's options as a sampler hands them to the model: patches, wrappers, callbacks.

        Attention goes by kernels that have a gradient; samples are drawn with the clone's own options.
        """
        import comfy.model_patcher
        import comfy.sampler_helpers
        from comfy.ldm.modules.attention import attention_pytorch

        options = comfy.model_patcher.create_model_options_clone(self._patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self._patcher, {}, options)
        inner = options["transformer_options"]
        inner[OVERRIDE] = WithGradient(attention_pytorch, inner.get(OVERRIDE))
        sigmas = getattr(self._patcher.model.model_sampling, "sigmas", None)
        if sigmas is not None:
            inner["sample_sigmas"] = sigmas.flip(0).to(self.device)
        return options

    # Inside a session

    def scale_latents(self, latents: Tensor) -> Tensor:
        latents = latents.clone() if latents.is_inference() else latents
        latents = latents.to(self.device, torch.float32)
        return self._patcher.model.process_latent_in(latents)

    def levels(self, uniform: Tensor) -> Tensor:
        """Sigmas of the model's own schedule, uniform in its index; its shift is in them once loaded."""
        schedule = self._patcher.model.model_sampling
        if not hasattr(schedule, "sigmas"):
            return torch.tensor([schedule.percent_to_sigma(1 - u) for u in uniform.tolist()])
        if self._sigmas is None:
            self._sigmas = schedule.sigmas.detach().float().cpu()
        index = (uniform * len(self._sigmas)).long().clamp(max=len(self._sigmas) - 1)
        return self._sigmas[index]

    def prepare(self, conds: Sequence[Conditioning], shape: tuple[int, ...]) -> Prepared:
        import comfy.samplers

        ready = [self._model_conds(cond, shape) for cond in conds]
        groups: list[list[int]] = []
        for position, entries in enumerate(ready):
            for group in groups:
                if comfy.samplers.cond_equal_size(ready[group[0]], entries):
                    group.append(position)
                    break
            else:
                groups.append([position])
        return Prepared([(group, _joined([ready[i] for i in group])) for group in groups])

    def _model_conds(self, cond: Conditioning, shape: tuple[int, ...]) -> dict[str, Any]:
        """One example's inputs of the network besides x and sigma: the host's COND objects, on the device."""
        import comfy.sampler_helpers
        import comfy.samplers

        key = (id(cond), shape)
        if key in self._ready:
            self._ready.move_to_end(key)
            return self._ready[key][1]
        empty = torch.zeros(1, *shape, device=self.device)
        entries = {"positive": comfy.sampler_helpers.convert_cond(cond)}
        # Some models send texts through layers of the network here. What comes out serves every slot and
        # many steps, so it must belong to no slot and lead to no graph that a backward pass frees.
        bare = self.lora.using(None) if self.lora else nullcontext()
        with torch.no_grad(), bare:
            processed = comfy.samplers.process_conds(
                self._patcher.model, empty, entries, self.device, latent_image=empty, seed=0
            )
        conds = processed["positive"][0]["model_conds"]
        ready = {}
        for name, value in conds.items():
            alone = value.process_cond(batch_size=1, area=None, device=self.device)
            ready[name] = alone._copy_with(on_device(alone.cond, self.device))
        self._ready[key] = (cond, ready)  # holding `cond` keeps its id from being given away
        if len(self._ready) > CACHED_CONDITIONINGS:
            self._ready.popitem(last=False)
        return ready

    def residuals(
        self, latents: Tensor, noise: Tensor, levels: Tensor, prepared: Prepared
    ) -> Tensor:
        schedule = self._patcher.model.model_sampling
        noise = noise.to(self.device, torch.float32, copy=True)  # noise_scaling may write into it
        sigma = levels.to(self.device, torch.float32)
        noisy = schedule.noise_scaling(sigma, noise, latents)
        denoised = torch.empty(0, device=self.device)
        for positions, entry in prepared.parts:
            if len(positions) == len(latents):
                denoised = self._denoised(noisy, sigma, entry)
                continue
            at = torch.tensor(positions, device=self.device)
            part = self._denoised(noisy[at], sigma[at], entry)
            before = denoised if denoised.numel() else torch.zeros_like(latents)
            denoised = before.index_copy(0, at, part)
        # denoised is affine in the raw output with a slope k that knows no x: with f the affine map,
        # raw - target = (denoised - x0) / (f(1) - f(0)).
        ones = torch.ones(len(sigma), *(1,) * (latents.ndim - 1), device=self.device)
        zeros = torch.zeros_like(ones)
        at_zero, at_one = (schedule.calculate_denoised(sigma, raw, zeros) for raw in (zeros, ones))
        return (denoised - latents) / (at_one - at_zero)

    def _denoised(self, noisy: Tensor, sigma: Tensor, entry: dict[str, Any]) -> Tensor:
        """The host's own step: x0 from noisy latents [B, ...] at sigma [B], float32."""
        import comfy.samplers

        with autograd.out_of_place():
            model = self._patcher.model
            return comfy.samplers.calc_cond_batch(model, [[entry]], noisy, sigma, self._options)[0]

    @torch.no_grad()
    def sample(
        self,
        conds: Sequence[Conditioning],
        noise: Tensor,
        sampling: ReferenceConfig,
        seed: int,
        guide: Guide | None = None,
    ) -> Tensor:
        self._require_negative(sampling)
        drawn: dict[int, Tensor] = {}
        with self._kernels.sampling(), guiding(self._patcher, self.lora, guide):
            for number, group in enumerate(stackable_groups(conds)):
                positive = stacked([conds[i] for i in group])
                group_seed = derived_seed(seed, "group", number) if number else seed
                latents = self._drawn(positive, noise[group], sampling, group_seed)
                drawn |= dict(zip(group, latents, strict=True))
        return torch.stack([drawn[i] for i in range(len(conds))])

    def _drawn(
        self, positive: Conditioning, noise: Tensor, sampling: ReferenceConfig, seed: int
    ) -> Tensor:
        """One run of the host's sampler, [B, ...] in the network's scale."""
        import comfy.sample

        patcher = self._patcher
        empty = comfy.sample.fix_empty_latent_channels(patcher, torch.zeros_like(noise))
        try:
            with isolated_global_rng(seed):
                latents = comfy.sample.sample(
                    patcher,
                    noise,
                    sampling.sampling_steps,
                    sampling.guidance_scale,
                    sampling.sampler,
                    sampling.scheduler,
                    positive,
                    positive if sampling.guidance_scale == 1.0 else self.negative,
                    empty,
                    disable_pbar=True,
                    seed=seed,
                )
        finally:
            patcher.pre_run()  # the sampler's clean-up took the model's patcher away
            self._follow_moves()  # to sample, the host may take layers off the device
        return self.scale_latents(latents)

    def latent_preview(self, latents: Tensor) -> Any:
        """A small PIL picture of the first of `latents` [B, ...] (a video's first frame), or None where
        the host knows no colours for this latent format."""
        import latent_preview

        form = self.model.get_model_object("latent_format")
        previewer = latent_preview.get_previewer(latents.device, form)
        if previewer is None and form.latent_rgb_factors is not None:
            known = [f"latent_rgb_factors{end}" for end in ("", "_bias", "_reshape")]
            factors = [getattr(form, name) for name in known if hasattr(form, name)]
            previewer = latent_preview.Latent2RGBPreviewer(*factors)
        if previewer is None:
            return None
        return previewer.decode_latent_to_preview(latents[:1].detach())


def _unless_cancelled(call: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A call of the network, if the user did not press Cancel; samplers look for that by steps only."""
    import comfy.model_management as management

    management.throw_exception_if_processing_interrupted()
    return call(*args, **kwargs)


def _unload(patcher: Any) -> None:
    """Take the clone's own arithmetic off the shared model again."""
    import comfy.model_patcher

    with torch.inference_mode():
        patcher.detach()
    for module in patcher.model.modules():
        comfy.model_patcher.wipe_lowvram_weight(module)


def _joined(ready: list[dict[str, Any]]) -> dict[str, Any]:
    """One conditioning entry of batch B from B examples' COND objects."""
    import comfy.samplers

    merged = comfy.samplers.cond_cat(ready)
    conds = {name: ready[0][name]._copy_with(value) for name, value in merged.items()}
    return {"model_conds": conds, "uuid": uuid.uuid4()}
