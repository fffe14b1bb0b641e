"""One thin model under test as a denoiser, with two winners and a LoRA; classes come from the loaded pack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from inprocess import InProcessHost
from thin import thin_conditioning, thin_latent
from torch import Tensor


@dataclass
class Case:
    host: InProcessHost
    denoiser: object
    conds: list
    latents: Tensor
    """[2, ...] as the VAE gives them"""
    noise: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.latents.shape[1:])

    def session(self, **compute):
        return self.denoiser.session(self.host.core("training.config").ComputeConfig(**compute))

    def sampling(self, **settings):
        return self.host.core("training.config").ReferenceConfig(**{"sampling_steps": 2} | settings)

    def dataset(self, **changes):
        """A dataset of both winners; `changes` replace fields of the second."""
        data = self.host.core("data")
        examples = [
            data.Example(latents, cond, f"winner {number}")
            for number, (latents, cond) in enumerate(zip(self.latents, self.conds, strict=True))
        ]
        fields = {name: getattr(examples[1], name) for name in ("latents", "cond", "losing")}
        examples[1] = data.Example(**fields | changes, caption="a red fox")
        return data.in_memory(examples)

    def config(self, **sections):
        return self.host.core("training.config").from_dict(
            self.host.core("training.config").SePPOConfig, {"steps": 1} | sections
        )

    def errors(self, uniform: tuple[float, ...] = (0.3, 0.8), conds: list | None = None) -> Tensor:
        """Errors of as many winners as `uniform` names levels for; inside a session."""
        denoiser, count = self.denoiser, len(uniform)
        return (
            denoiser.residuals(
                denoiser.scale_latents(self.latents[:count]),
                self.noise[:count],
                denoiser.levels(torch.tensor(uniform)),
                denoiser.prepare((conds or self.conds)[:count], self.shape),
            )
            .square()
            .flatten(1)
            .mean(1)
        )

    def lora(self, up: float = 0.0, **settings):
        """A LoRA on the network, its `up` normal with deviation `up`; inside a session."""
        core = self.host.core
        lora = core("adapters.lora").LoRA(
            self.denoiser.network,
            core("training.config").LoRAConfig(**{"rank": 2} | settings),
            seed=0,
            device=self.denoiser.device,
        )
        generator = torch.Generator().manual_seed(7)
        for _, weight in lora.policy.values():
            weight.data = up * torch.randn(weight.shape, generator=generator)
        return lora

    @contextmanager
    def trained(self, up: float = 0.0, **compute) -> Iterator[object]:
        """A session with a LoRA attached."""
        with self.session(**compute):
            lora = self.lora(up)
            with lora.attached():
                yield lora


def make_case(
    host: InProcessHost,
    kind: str,
    dtype: str = "fp16",
    model: object | None = None,
    negative: list | None = None,
) -> Case:
    """A case on `model`, else on a fresh thin model; all made as nodes make them, in inference mode."""
    with torch.inference_mode():
        model = model or host.thin_model(kind, dtype)
        conds = [thin_conditioning(kind, seed) for seed in (0, 1)]
        latents = torch.cat([thin_latent(kind, seed)["samples"] for seed in (0, 1)])
    denoiser = host.core("denoisers.comfy").ComfyDenoiser(model, negative)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    return Case(host, denoiser, conds, latents, noise)


def flat_gradient(lora) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in lora.parameters()])


def weights_of(model) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.model_state_dict().items()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    same_kind = one.dtype == other.dtype and one.shape == other.shape
    return same_kind and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


def host_samples(model, cond: list, noise_seed: int, latent: Tensor, **settings) -> Tensor:
    """What the host's own KSampler node returns for this seed, as a LATENT's samples."""
    import nodes

    settings = {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"} | settings
    negative = settings.pop("negative", cond)
    with torch.inference_mode():
        (result,) = nodes.common_ksampler(
            model,
            noise_seed,
            positive=cond,
            negative=negative,
            latent={"samples": torch.zeros_like(latent)},
            **settings,
        )
    return result["samples"].clone()
