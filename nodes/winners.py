"""Winning images in a graph: read from a folder or taken from other nodes."""

import logging
from pathlib import Path

from comfy_api.latest import io, ui
from torch import Tensor

from ..seppo_core.data.pictures import PictureTensor, picture_from_tensor
from ..seppo_core.data.readers import listing, read_winners
from ..seppo_core.data.sheet import contact_sheet
from ..seppo_core.data.winners import pair_up
from ..seppo_core.errors import DatasetError, SePPOError
from ..seppo_core.identity import digest_value
from . import host, sockets

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


NODES = [SePPOLoadWinners, SePPOWinnersFromImages]
