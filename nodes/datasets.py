"""Winners encoded for training: by the host's VAE and CLIP, or taken from nodes that did so."""

import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..seppo_core.data.encode import encode
from ..seppo_core.data.latents import pair_latents
from ..seppo_core.data.prepare import MODES, Preparation
from ..seppo_core.data.winners import Winners
from . import encoders, host, sockets

log = logging.getLogger(__name__)


class SePPOEncodeWinners(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        default = Preparation()
        return host.schema(
            node_id="SePPOEncodeWinners",
            display_name="SePPO Encode Winners",
            category=sockets.CATEGORY,
            description="Turns winning images and captions into what the model is trained on. Results are "
            "kept on disk, so that nothing is encoded twice.",
            search_aliases=["dataset", "vae encode", "latents", "cache", "make training dataset"],
            inputs=[
                sockets.Winners.Input(
                    "winners",
                    tooltip="From SePPO Load Winning Images or SePPO Winners from Images.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model you will align."),
                io.Clip.Input(
                    "clip", tooltip="The text encoder that belongs to the model you will align."
                ),
                io.Int.Input(
                    "resolution",
                    default=default.resolution,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="The size the model was made for: 512 for SD 1.5, 1024 for SDXL, SD3 and Flux. "
                    "Larger images are made smaller until they have as many pixels as a square of this "
                    "side.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(MODES),
                    default=default.mode,
                    tooltip="keep aspect: wide images stay wide, and small ones stay small. square: all "
                    "are cropped to a square of the resolution, and small ones are enlarged; choose it for "
                    "batches larger than 1 when your images have many shapes.",
                ),
                host.input(
                    io.Int.Input,
                    "multiple",
                    default=default.multiple,
                    min=8,
                    max=256,
                    step=8,
                    advanced=True,
                    tooltip="Width and height are rounded to a multiple of this many pixels; up to half of "
                    "it is cropped from each side. 64 suits every model.",
                ),
            ],
            outputs=[sockets.Dataset.Output(display_name="dataset")],
        )

    @classmethod
    def execute(
        cls, winners: Winners, vae: Any, clip: Any, resolution: int, shape: str, multiple: int
    ) -> io.NodeOutput:
        preparation = Preparation(resolution, multiple, shape)
        encode_image, encode_text = encoders.image_encoder(vae), encoders.text_encoder(clip)
        bar = None

        def on_item(done: int, total: int) -> None:
            nonlocal bar
            host.throw_if_interrupted()
            bar = bar or host.progress(total)
            bar.update_absolute(done, total)

        dataset = encode(
            winners,
            encode_image,
            encode_text,
            preparation,
            image_identity=encoders.vae_identity(vae),
            text_identity=encoders.clip_identity(clip),
            cache=host.cache_root(),
            on_item=on_item,
        )
        return io.NodeOutput(dataset)


class SePPODatasetFromLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPODatasetFromLatents",
            display_name="SePPO Dataset from Latents",
            category=sockets.CATEGORY,
            description="Takes winners that other nodes have encoded: latents and conditioning, single "
            "ones, batches or lists.",
            search_aliases=["dataset", "latent list", "make training dataset", "pairs", "dpo"],
            is_input_list=True,
            inputs=[
                io.Latent.Input(
                    "latents",
                    tooltip="The winning images as latents, from VAE Encode or Make Training Dataset. Masks "
                    "are not used.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The encoded captions: one for all latents, or a list with one for each.",
                ),
                io.Latent.Input(
                    "losing_latents",
                    optional=True,
                    tooltip="Only for preset 'dpo': for each winner, in the same order, the latents of the "
                    "image it won against.",
                ),
            ],
            outputs=[sockets.Dataset.Output(display_name="dataset")],
        )

    @classmethod
    def execute(
        cls,
        latents: list[dict[str, Any]],
        positive: list[Any],
        losing_latents: list[dict[str, Any]] | None = None,
    ) -> io.NodeOutput:
        losing = _samples(losing_latents or [])
        return io.NodeOutput(pair_latents(_samples(latents), positive, losing))


def _samples(latents: list[dict[str, Any]]) -> list[Tensor]:
    """Every item of a list of the host's LATENT batches [B, C, H, W] or [B, C, F, H, W]."""
    items: list[Tensor] = []
    for latent in latents:
        samples = latent["samples"]
        if "noise_mask" in latent:
            log.warning("SePPO: the mask of these latents is not used, winners count as a whole")
        items += samples if isinstance(samples, Tensor) else [samples]
    return items


NODES = [SePPOEncodeWinners, SePPODatasetFromLatents]
