"""Winning images that were marked in the page's gallery: a named set of pictures, put into the graph."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..seppo_core.data.captions import Reading
from ..seppo_core.errors import ConfigError
from ..seppo_core.gallery.picked import read_picked, state_of
from ..seppo_core.gallery.sets import SUFFIX, PictureSet, read_set, set_names
from ..seppo_core.identity import digest_value
from . import host, queued, sockets, winners

FAVOURITES = "favourites"


def roots() -> dict[str, Path]:
    """The folders that the gallery shows: what an address begins with -> where it lies."""
    return {
        "output": Path(folder_paths.get_output_directory()),
        "input": Path(folder_paths.get_input_directory()),
    }


def sets_root() -> Path:
    """Where named sets lie; no run can have its name."""
    return host.output() / host.RUN_FOLDER / ".sets"


def set_file(name: str) -> Path:
    """The file of a set, whether it is there or not; ConfigError for what cannot be a name."""
    host.confined_name(sets_root(), name)
    return host.confined(sets_root(), f"{name}{SUFFIX}")


def filled_set(name: str) -> PictureSet:
    """A set with at least one mark; ConfigError says how to make one."""
    chosen = read_set(set_file(name))
    if not chosen.marked:
        others = ", ".join(map(host.quoted, set_names(sets_root())[:8]))
        raise ConfigError(
            f"set {host.quoted(name)} holds no pictures yet: press 'Open the gallery' on this node and mark some"
            + (f", or take a set that is there: {others}" if others else "")
        )
    return chosen


class SePPOPickWinners(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOPickWinners",
            display_name="SePPO Pick Winners",
            category=sockets.CATEGORY,
            description="Takes the pictures that you marked in the gallery, from ComfyUI's output and input "
            "folders.",
            search_aliases=["gallery", "favourites", "select images", "curate", "dataset", "a/b"],
            inputs=[
                io.String.Input(
                    "set_name",
                    default=FAVOURITES,
                    tooltip="The set of pictures. The button opens the gallery to mark some; each mark is "
                    "saved at once.",
                ),
                winners.caption_input(),
                winners.captions_input(),
                winners.duplicates_input(),
                winners.strict_input(),
                winners.lines_input(),
            ],
            outputs=winners.outputs(),
        )

    @classmethod
    def validate_inputs(cls, set_name: str | None = None) -> bool | str:
        if set_name is None:  # linked: known only when the graph runs
            return True
        return queued.checked(cls, lambda: filled_set(set_name))

    @classmethod
    def fingerprint_inputs(cls, set_name: str | None, **others: Any) -> str | float:
        """Another value when a mark, a picture or a caption was added, changed or removed."""
        if set_name is None:
            return float("nan")  # what is linked is not known here, so it is always read anew
        chosen = filled_set(set_name)
        return digest_value([repr(chosen), state_of(chosen, roots())])

    @classmethod
    def execute(
        cls,
        set_name: str,
        caption: str,
        captions: str = winners.CAPTIONS,
        near_duplicates: str = "report",
        strict: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        reading = Reading(
            caption, captions, strict=strict, on_item=winners.interruptible, **settings
        )
        picked = read_picked(set_name, filled_set(set_name), roots(), reading)
        return winners.shown(cls, picked, near_duplicates, strict)


NODES = [SePPOPickWinners]
