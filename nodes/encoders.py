"""ComfyUI's VAE and CLIP as the core's `encode` takes them: a function and an identity for each."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..seppo_core.data import Conditioning
from ..seppo_core.denoisers.patcher import patcher_identity
from ..seppo_core.errors import DatasetError
from ..seppo_core.identity import digest_value

MAY_BE_MISSING = ("text_projection.weight", "logit_scale")
"""CLIP weights that SD 1.5 checkpoints lack: the host then leaves what the memory held before."""


def image_encoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """A picture [H, W, 3] to its latents [C, H, W]; a video VAE takes it as one frame: [C, 1, H, W].

    A clip [F, H, W, 3] becomes [C, F', H, W]; DatasetError if the VAE knows single images only.
    """
    if vae is None:
        raise DatasetError("there is no VAE; this checkpoint may hold none: add a Load VAE node")

    def encode_image(picture: Tensor) -> Tensor:
        if picture.ndim == 3:
            return vae.encode(picture[None])[0]
        if vae.latent_dim != 3:
            raise DatasetError(
                "the winners are clips, but this VAE encodes single images; connect the VAE of a video "
                "model"
            )
        return vae.encode(picture)[0]

    return encode_image


def decoded_picture(vae: Any, model: Any, latents: Tensor) -> Tensor:
    """A picture [H, W, 3] of latents [1, C, ...] in the network's scale; of a video its middle frame."""
    return middle_frame(vae.decode(model.model.process_latent_out(latents))[0])


def middle_frame(decoded: Tensor) -> Tensor:
    """Of a clip [F, H, W, 3]; a picture as it is."""
    return decoded[len(decoded) // 2] if decoded.ndim == 4 else decoded


def pixel_step(vae: Any, model: Any) -> int | None:
    """What the sides of pictures should be multiples of for this network, in pixels; None if it does not say.

    A U-Net halves its latents once between any two levels; a transformer cuts them into patches.
    """
    if vae is None or model is None:
        return None
    network = model.model.diffusion_model
    if levels := getattr(network, "channel_mult", None):
        latent_step = 2 ** (len(levels) - 1)
    elif patch := getattr(network, "patch_size", None):
        latent_step = patch if isinstance(patch, int) else patch[-1]
    else:
        return None
    return vae.spacial_compression_encode() * latent_step


def text_encoder(clip: Any) -> Callable[[str], Conditioning]:
    """A caption to CONDITIONING, as the host's CLIP Text Encode makes it."""
    if clip is None:
        raise DatasetError("there is no CLIP; this checkpoint may hold none: add a Load CLIP node")

    def encode_text(caption: str) -> Conditioning:
        return clip.encode_from_tokens_scheduled(clip.tokenize(caption))

    return encode_text


def vae_identity(vae: Any) -> str:
    """Changes with the VAE's weights, their precision and its patches."""
    kind = type(vae.first_stage_model).__name__
    return digest_value([kind, str(vae.vae_dtype), patcher_identity(vae.patcher)])


def clip_identity(clip: Any) -> str:
    """Changes with the text encoder's weights, patches, kind, skipped layers, options and hooks."""
    return digest_value(
        [
            type(clip.cond_stage_model).__name__,
            type(clip.tokenizer).__name__,
            clip.layer_idx,
            clip.tokenizer_options,
            [clip.patcher.forced_hooks, clip.apply_hooks_to_conds, clip.use_clip_schedule],
            patcher_identity(clip.patcher, without=MAY_BE_MISSING),
        ]
    )
