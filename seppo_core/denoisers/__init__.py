"""The one protocol behind which every network stands: errors of a prediction, and samples.

The trainer knows neither ComfyUI nor diffusers, no prediction type and no noise schedule.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapters.lora import LoRA
from ..data import Conditioning, EncodedDataset
from ..method.references import ReferenceConfig
from ..settings import Section, setting
from .guides import Guide

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Arithmetic by the names of `compute.precision`; `auto` is the denoiser's to choose."""


PRECISIONS = ("auto", *DTYPES)


@dataclass(frozen=True)
class ComputeConfig(Section, section="compute"):
    precision: str = setting(
        "auto",
        "Arithmetic inside the network. auto takes what suits model and device; the LoRA itself is always "
        "trained in fp32.",
        choices=PRECISIONS,
    )
    gradient_checkpointing: bool = setting(
        False, "Compute parts of the network twice to need much less memory."
    )


class Denoiser(Protocol):
    """A frozen network with its noise schedule. B is the batch, shapes as in `data.Example`.

    Everything but `check`, the fingerprints and `base_name` is called inside `session`. Latents
    are in the network's own scale there (`scale_latents` makes them so); noise and levels arrive on the
    CPU in float32.
    """

    network: nn.Module
    """where the LoRA's paths go; names of its layers are the LoRA's names"""
    device: torch.device
    """where the network computes inside a session"""
    compute_dtype: torch.dtype
    """arithmetic of the forwards inside a session; the trainer scales the loss where it is float16"""
    lora: LoRA | None
    """the policy's weights: set by the trainer, kept after it for sampling and export"""
    family: str
    """`comfy` or `diffusers`: which key format its LoRA files have"""

    def check(
        self,
        dataset: EncodedDataset,
        compute: ComputeConfig,
        sampling: ReferenceConfig | None,
        paired: bool,
    ) -> None:
        """Raise a SePPOError if the dataset or the settings cannot work; move and write nothing.

        `sampling` is None where nothing is drawn; `paired` tells whether losing images are learned from.
        """

    def base_fingerprint(self) -> str:
        """A hash over base weights and patches: the same for the same network, whatever holds it."""

    def context_fingerprint(self, guided: bool) -> str:
        """A hash over whatever else changes what training does: noise schedule, patches of the forward,
        and where samples are drawn `guided`, the negative conditioning. Equal in every process."""

    def base_name(self) -> str:
        """What the base model is called, for run.json and file metadata."""

    def session(self, compute: ComputeConfig) -> AbstractContextManager[None]:
        """Load the network for training; afterwards it is as before, whatever happened inside."""

    def scale_latents(self, latents: Tensor) -> Tensor:
        """VAE latents [B, ...] to the network's scale, float32, on the device."""

    def levels(self, uniform: Tensor) -> Tensor:
        """Noise levels [B] (sigma or timestep, the denoiser's own) for uniform numbers in [0, 1), [B]."""

    def prepare(self, conds: Sequence[Conditioning], shape: tuple[int, ...]) -> Any:
        """Conditioning of B examples as the network takes it; `shape` is one example's latent shape."""

    def residuals(self, latents: Tensor, noise: Tensor, levels: Tensor, prepared: Any) -> Tensor:
        """Prediction - target of each example, [B, ...], float32, with gradient where enabled.

        In the network's own prediction space; `objectives.mean_square` makes denoising errors of it.
        """

    def sample(
        self,
        conds: Sequence[Conditioning],
        noise: Tensor,
        sampling: ReferenceConfig,
        seed: int,
        guide: Guide | None = None,
    ) -> Tensor:
        """Draw one latent per conditioning from standard normal `noise` [B, ...], in the network's scale.

        Solvers that add noise on the way take it from `seed`. A `guide` needs a policy with a LoRA. No gradient.
        """
