"""Winning images in a graph: read from a folder or taken from other nodes."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..seppo_core.data.captions import LINES, SOURCES
from ..seppo_core.data.parquet import TIES
from ..seppo_core.data.pictures import PictureTensor, picture_from_tensor
from ..seppo_core.data.prepare import ClipSelection
from ..seppo_core.data.readers import AUTOMATIC, READERS, listing, read_winners
from ..seppo_core.data.similar import DUPLICATES, examine
from ..seppo_core.data.winners import Winners, pair_up
from ..seppo_core.data.wording import Wording, reworded
from ..seppo_core.errors import ConfigError
from ..seppo_core.identity import digest_value
from ..seppo_core.settings import inputs
from ..seppo_core.views.sheet import contact_sheet
from . import host, queued, sockets
from .widgets import widgets

THUMBNAILS = 24
CAPTIONS = SOURCES[0]

log = logging.getLogger(__name__)


def caption_input() -> Any:
    return io.String.Input(
        "caption",
        default="",
        multiline=True,
        tooltip="For images without a caption of their own. Empty: these are left out.",
    )


def captions_input() -> Any:
    return io.Combo.Input(
        "captions",
        options=list(SOURCES),
        default=CAPTIONS,
        optional=True,
        tooltip="files: a .txt, .caption or .json of the same name, or the folder's "
        "metadata.jsonl or .csv. pictures: the prompt that ComfyUI and others store in what "
        "they save. file names: blue-book.png is 'blue book'.",
    )


def duplicates_input() -> Any:
    return io.Combo.Input(
        "near_duplicates",
        options=list(DUPLICATES),
        default="report",
        optional=True,
        tooltip="What becomes of images that look nearly the same as an earlier one. Off is "
        "faster: no image is looked at before it is encoded.",
    )


def strict_input() -> Any:
    return host.input(
        io.Boolean.Input,
        "strict",
        default=False,
        optional=True,
        advanced=True,
        tooltip="Stop with an error if anything cannot be used, instead of leaving it out.",
    )


def lines_input() -> Any:
    return host.input(
        io.Combo.Input,
        "caption_lines",
        options=list(LINES),
        default=LINES[0],
        optional=True,
        advanced=True,
        tooltip="For caption files of several lines. one is drawn: each line is a caption, a random one each "
        "time. joined: all lines are one text. first: only the first counts. auto joins paragraphs, wrapped "
        "texts and lists of one tag a line, and draws a line of any others. The report says what was done.",
    )


def outputs() -> list[Any]:
    """Of every node that reads winners from files; see `shown`."""
    return [
        sockets.Winners.Output(display_name="winners", tooltip="The images with their captions."),
        io.Image.Output(display_name="contact sheet", tooltip="The first winners as one picture."),
        io.String.Output(
            display_name="report",
            tooltip="How many winners there are, and what was left out and why.",
        ),
    ]


def interruptible(seen: int) -> None:
    host.throw_if_interrupted()


def shown(
    cls: type[io.ComfyNode], winners: Winners, near_duplicates: str, strict: bool
) -> io.NodeOutput:
    """Winners that were read, looked through for duplicates, with their contact sheet and report."""
    winners = examine(winners, near_duplicates, host.ItemProgress(), strict)
    sheet = host.image(contact_sheet(winners, THUMBNAILS))
    report = winners.report()
    if winners.left_out:
        log.warning("SePPO: %s", report)
    return io.NodeOutput(winners, sheet, report, ui=ui.PreviewImage(sheet, cls=cls))


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
                    tooltip="A folder with your best images, inside ComfyUI's input folder unless location "
                    "says otherwise. Folders inside it are read too; one named 5_cat counts its images "
                    "five times. It may also hold clips, tar shards or parquet files: see reader.",
                ),
                caption_input(),
                io.Combo.Input(
                    "location",
                    options=list(host.LOCATIONS),
                    default="input",
                    optional=True,
                    tooltip="Where the folder lies: in ComfyUI's input or output, or in a folder that "
                    "extra_model_paths.yaml names under seppo_datasets or datasets.",
                ),
                io.Combo.Input(
                    "reader",
                    options=[AUTOMATIC, *READERS],
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="folder: images. parquet: pairs as in Pick-a-Pic. webdataset: tar files. clips: "
                    "short videos, for a video model. auto takes what there is most of.",
                ),
                captions_input(),
                duplicates_input(),
                host.input(
                    io.Combo.Input,
                    "ties",
                    options=list(TIES),
                    default="skip",
                    optional=True,
                    advanced=True,
                    tooltip="Only for parquet: which image of a pair wins that nobody decided.",
                ),
                strict_input(),
                lines_input(),
            ],
            outputs=outputs(),
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        given = queued.inputs()  # none where the graph came by another way than the host's own
        location = given.get("location", "input")
        if not given or folder is None or not isinstance(location, str):  # linked: known later
            return True
        return queued.checked(cls, lambda: host.data_path(location, folder))

    @classmethod
    def fingerprint_inputs(
        cls, folder: str | None, location: str | None = "input", **others: Any
    ) -> str | float:
        """Another value when a picture or caption was added, changed or removed."""
        if folder is None or location is None:
            return float("nan")  # what is linked is not known here, so it is always read anew
        path = host.data_path(location, folder)
        return digest_value(listing(path))

    @classmethod
    def execute(
        cls,
        folder: str,
        caption: str,
        location: str = "input",
        reader: str = AUTOMATIC,
        near_duplicates: str = "report",
        strict: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        path = host.data_path(location, folder)
        winners = read_winners(
            path,
            reader=reader,
            caption=caption,
            strict=strict,
            on_item=interruptible,
            **settings,
        )
        return shown(cls, winners, near_duplicates, strict)


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
            outputs=[
                sockets.Winners.Output(
                    display_name="winners", tooltip="The images with their captions."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, captions: Sequence[str | None] = queued.UNKNOWN) -> bool | str:
        return queued.checked(cls, lambda: require_caption(captions))

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


def require_caption(captions: Sequence[str | None]) -> None:
    """ConfigError if nothing was typed where nothing is linked, which comes as None."""
    if len(captions) == 1 and captions[0] is not None and not captions[0].strip():
        raise ConfigError(
            "type what is to be seen, one caption for all, or connect a list of texts"
        )


def _pictures(batches: list[Tensor], word: str) -> list[PictureTensor]:
    """Every image of a list of batches [B, H, W, C]."""
    images = [image for batch in batches if batch is not None for image in batch]
    return [picture_from_tensor(image, f"{word} {i}") for i, image in enumerate(images, 1)]


class SePPOEditCaptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOEditCaptions",
            display_name="SePPO Edit Captions",
            category=sockets.CATEGORY,
            description="Changes the captions of winning images: a trigger word, words around them, tags in "
            "other orders, and sometimes no caption at all.",
            search_aliases=["trigger word", "tags", "caption dropout", "prefix", "shuffle"],
            inputs=[
                sockets.Winners.Input("winners", tooltip="Winning images with captions."),
                *widgets(inputs(Wording)),
            ],
            outputs=[
                sockets.Winners.Output(
                    display_name="edited", tooltip="The same images with the new captions."
                )
            ],
        )

    @classmethod
    def execute(cls, winners: Winners, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(reworded(winners, Wording(**settings)))


class SePPOWinnersToImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOWinnersToImages",
            display_name="SePPO Winners to Images",
            category=sockets.CATEGORY,
            description="Gives winning images to ComfyUI's own nodes, as lists of images and captions. "
            "All are loaded into memory.",
            search_aliases=["dataset", "image list", "captions", "export"],
            inputs=[
                sockets.Winners.Input("winners", tooltip="Winning images with captions."),
                io.Int.Input(
                    "limit",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Only so many from the beginning; 0 gives all.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="The images, one by one."
                ),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="Their captions, in the same order.",
                ),
                io.String.Output(
                    display_name="generation",
                    is_output_list=True,
                    tooltip="How each was made, as JSON; empty where the file does not say.",
                ),
            ],
        )

    @classmethod
    def execute(cls, winners: Winners, limit: int) -> io.NodeOutput:
        chosen = [winners[index] for index in range(min(limit or len(winners), len(winners)))]
        progress = host.ItemProgress()
        images = []
        for done, winner in enumerate(chosen, 1):
            images.append(_image(winner.picture))
            progress(done, len(chosen))
        about = [json.dumps(asdict(winner.about) if winner.about else {}) for winner in chosen]
        return io.NodeOutput(images, [winner.caption for winner in chosen], about)


def _image(picture: Any) -> Tensor:
    """A picture as IMAGE [1, H, W, 3], a clip as [F, H, W, 3]."""
    if hasattr(picture, "frames"):
        return torch.cat([host.image(frame) for frame in picture.frames(ClipSelection(), "white")])
    return host.image(picture.load())


NODES = [SePPOLoadWinners, SePPOWinnersFromImages, SePPOEditCaptions, SePPOWinnersToImages]
