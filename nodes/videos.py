"""Winning clips from the host's VIDEO socket."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..seppo_core.data.clips import Footage, selected
from ..seppo_core.data.pictures import picture_from_tensor
from ..seppo_core.data.prepare import ClipSelection
from ..seppo_core.data.winners import pair_up
from ..seppo_core.errors import DatasetError
from ..seppo_core.identity import digest_value
from . import host, queued, sockets
from .winners import require_caption


class HostVideo:
    """A clip that the host decodes when it is asked for; where one picture has to do, its middle frame does."""

    def __init__(self, video: Any, name: str) -> None:
        self.video = video
        self.name = name

    def load(self, background: str = "white") -> Image.Image:
        return self.frames(ClipSelection(count=1), background)[0]

    def content(self) -> str:
        parts = self._decoded()
        return digest_value([parts.images, str(parts.frame_rate)])

    def frames(self, selection: ClipSelection, background: str = "white") -> list[Image.Image]:
        parts = self._decoded()
        interval = 1 / Fraction(parts.frame_rate)

        def shown_from(start: Fraction) -> Iterator[tuple[Fraction, Tensor]]:
            first = int(start / interval)
            for number, image in enumerate(parts.images[first:], first):
                yield number * interval, image

        def rgb(image: Tensor, background: str) -> Image.Image:
            return picture_from_tensor(image, self.name).load()

        length = len(parts.images) * interval
        footage = Footage(Fraction(0), length, interval, shown_from, rgb)
        return selected(footage, selection, background)

    def _decoded(self) -> Any:
        """The host's `VideoComponents`. DatasetError where it cannot decode the file."""
        try:
            return self.video.get_components()
        except (OSError, ValueError, EOFError) as error:  # PyAV's own errors are kinds of these
            reason = getattr(error, "strerror", None) or error
            raise DatasetError(f"{self.name}: cannot be decoded ({reason})") from None


class SePPOWinnersFromVideos(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOWinnersFromVideos",
            display_name="SePPO Winners from Videos",
            category=sockets.CATEGORY,
            description="Takes winning clips and their captions from other nodes, for a video model.",
            search_aliases=["dataset", "video list", "clips", "training videos"],
            is_input_list=True,
            inputs=[
                io.Video.Input("videos", tooltip="The clips that show what you want more of."),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    tooltip="What the clips show. Type one caption for all of them, or connect a list "
                    "with one text for each clip.",
                ),
            ],
            outputs=[
                sockets.Winners.Output(
                    display_name="winners", tooltip="The clips with their captions."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, captions: Sequence[str | None] = queued.UNKNOWN) -> bool | str:
        return queued.checked(cls, lambda: require_caption(captions))

    @classmethod
    def execute(cls, videos: list[Any], captions: list[str]) -> io.NodeOutput:
        clips = [HostVideo(video, f"video {i}") for i, video in enumerate(videos, 1)]
        return io.NodeOutput(pair_up(clips, captions, source="videos"))


NODES = [SePPOWinnersFromVideos]
