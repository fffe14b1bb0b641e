"""Winning images in a graph: read from a folder or taken from nodes, then encoded for training."""

import logging
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..seppo_core.data.encode import encode
from ..seppo_core.data.latents import pair_latents
from ..seppo_core.data.pictures import PictureTensor, picture_from_tensor
from ..seppo_core.data.prepare import MODES, Preparation
from ..seppo_core.data.readers import listing, read_winners
from ..seppo_core.data.sheet import contact_sheet
from ..seppo_core.data.winners import Winners, pair_up
from ..seppo_core.errors import DatasetError, SePPOError
from ..seppo_core.identity import digest_value
from . import encoders, host, sockets

THUMBNAILS = 24

log = logging.getLogger(__name__)


class SePPOLoadWinners(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOLoadWinners",
            display_name="SePPO Load Winning Images",
            category=sockets.CATEGORY,
            description="Reads the images that show what you want more of, each with its caption.",
            search_aliases=["dataset", "load images", "training images", "folder", "kohya"],
            inputs=[
                io.String.Input(
                    "folder",
                    default="winners",
                    tooltip="A folder inside ComfyUI's input folder with your best images (PNG, JPEG, WebP, "
                    "BMP, TIFF), each with a text file of the same name that says what it shows: cat.png "
                    "and cat.txt. Folders inside it are read too; one named 5_cat counts its images five "
                    "times.",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="For images without a text file of their own. Empty: each needs its own.",
                ),
            ],
            outputs=[
                sockets.Winners.Output(display_name="winners"),
                io.Image.Output(display_name="contact sheet"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        if folder is None:  # linked: known only when the graph runs
            return True
        try:
            _folder(folder)
        except SePPOError as error:
            return f"folder: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, caption: str | None) -> str | float:
        """Another value when a picture or caption was added, changed or removed."""
        if folder is None:
            return float("nan")  # a linked folder is not known here, so it is always read anew
        return digest_value(listing(_folder(folder)))

    @classmethod
    def execute(cls, folder: str, caption: str) -> io.NodeOutput:
        winners = read_winners(_folder(folder), caption=caption)
        sheet = host.image(contact_sheet(winners, THUMBNAILS))
        report = winners.report()
        if winners.left_out:
            log.warning("SePPO: %s", report)
        return io.NodeOutput(winners, sheet, report, ui=ui.PreviewImage(sheet, cls=cls))


def _folder(name: str) -> Path:
    """The folder's path. DatasetError if the name is empty or nothing is there."""
    root = host.input_root()
    if not name.strip():
        raise DatasetError(
            f"name a folder inside {root}, for example 'winners', and put your winning images there"
        )
    path = host.confined(root, name.strip())
    if not path.is_dir():
        raise DatasetError(
            f"there is no folder {name.strip()!r} inside {root}; create it and put your winning images "
            "there"
        )
    return path


class SePPOWinnersFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOWinnersFromImages",
            display_name="SePPO Winners from Images",
            category=sockets.CATEGORY,
            description="Takes winning images and their captions from other nodes: single ones, batches or "
            "lists.",
            search_aliases=["dataset", "image list", "training images", "pairs", "dpo"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="The images that show what you want more of, in any sizes."
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    tooltip="What the images show. Type one caption for all of them, or connect a list "
                    "with one text for each image.",
                ),
                io.Image.Input(
                    "losing_images",
                    optional=True,
                    tooltip="Only for preset 'dpo': for each winner, in the same order, the image it won "
                    "against.",
                ),
            ],
            outputs=[sockets.Winners.Output(display_name="winners")],
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        captions: list[str],
        losing_images: list[Tensor] | None = None,
    ) -> io.NodeOutput:
        pictures = _pictures(images, "image")
        losing = _pictures(losing_images or [], "losing image")
        return io.NodeOutput(pair_up(pictures, captions, losing))


def _pictures(batches: list[Tensor], word: str) -> list[PictureTensor]:
    """Every image of a list of batches [B, H, W, C]."""
    images = [image for batch in batches if batch is not None for image in batch]
    return [picture_from_tensor(image, f"{word} {i}") for i, image in enumerate(images, 1)]


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


NODES = [
    SePPOLoadWinners,
    SePPOWinnersFromImages,
    SePPOEncodeWinners,
    SePPODatasetFromLatents,
]
