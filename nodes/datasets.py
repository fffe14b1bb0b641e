"""Winners encoded for training: by the host's VAE and CLIP, or taken from nodes that did so."""

import logging
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..seppo_core.data import EncodedDataset, Example
from ..seppo_core.data.encode import MOST_HELD_OUT, encode
from ..seppo_core.data.latents import pair_latents
from ..seppo_core.data.prepare import Preparation
from ..seppo_core.data.winners import Winners
from ..seppo_core.errors import ConfigError, DatasetError
from ..seppo_core.settings import from_dict, inputs
from ..seppo_core.training.continuation import check_writable
from . import encoders, host, queued, sockets
from .widgets import sections, widgets

log = logging.getLogger(__name__)

PREPARATION = {one.path: one for one in inputs(Preparation)}


class SePPOEncodeWinners(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
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
                *widgets(PREPARATION[name] for name in ("resolution", "mode", "multiple")),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model you will align, to round sizes by its own step (multiple 0).",
                ),
                *widgets([PREPARATION["fit"], PREPARATION["background"]]),
                io.Float.Input(
                    "held_out",
                    default=0.0,
                    min=0.0,
                    max=MOST_HELD_OUT,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the winners that is not trained on. SePPO Train reports how the model "
                    "does on them: a margin that falls below zero there is learned taste, not memory.",
                ),
                *widgets(one for one in PREPARATION.values() if one.section == "clip"),
            ],
            outputs=[
                sockets.Dataset.Output(
                    display_name="dataset",
                    tooltip="The encoded winners, for SePPO Train and SePPO Anchor Preview.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How many winners are trained on and held out, and what was left out and why.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, winners: Any = None) -> bool | str:
        def check() -> None:
            given = queued.inputs()
            known = {"resolution": int, "multiple": int, "background": str}
            Preparation(**{n: given[n] for n, kind in known.items() if type(given.get(n)) is kind})
            check_writable(host.cache_root(), "give ComfyUI the right to write there")

        return queued.checked(cls, check)

    @classmethod
    def execute(
        cls,
        winners: Winners,
        vae: Any,
        clip: Any,
        model: Any = None,
        held_out: float = 0.0,
        **values: Any,
    ) -> io.NodeOutput:
        preparation = from_dict(Preparation, sections(PREPARATION.values(), values))
        encode_image, encode_text = encoders.image_encoder(vae), encoders.text_encoder(clip)
        dataset = encode(
            winners,
            encode_image,
            encode_text,
            preparation.with_step(encoders.pixel_step(vae, model)),
            image_identity=encoders.vae_identity(vae),
            text_identity=encoders.clip_identity(clip),
            cache=host.cache_root(),
            held_out=held_out,
            on_item=host.ItemProgress(),
        )
        return io.NodeOutput(dataset, dataset.report())


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
            outputs=[
                sockets.Dataset.Output(
                    display_name="dataset",
                    tooltip="The winners, for SePPO Train and SePPO Anchor Preview.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        latents: list[dict[str, Any]],
        positive: list[Any],
        losing_latents: list[dict[str, Any]] | None = None,
    ) -> io.NodeOutput:
        winning, losing = _samples(latents), _samples(losing_latents or [])
        return io.NodeOutput(pair_latents(winning, _one_each(positive, len(winning)), losing))


def _one_each(positive: list[Any], count: int) -> list[Any]:
    """The conditioning of each latent; 0.3.64's dataset nodes put those of all images into a single one."""
    if len(positive) == 1 and len(positive[0]) == count:
        return [[entry] for entry in positive[0]]
    return positive


def _samples(latents: list[dict[str, Any]]) -> list[Tensor]:
    """Every item of a list of the host's LATENT batches [B, C, H, W] or [B, C, F, H, W]."""
    items: list[Tensor] = []
    for latent in latents:
        samples = latent["samples"]
        if "noise_mask" in latent:
            log.warning("SePPO: the mask of these latents is not used, winners count as a whole")
        items += samples if isinstance(samples, Tensor) else [samples]
    return items


class SePPODatasetToLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPODatasetToLatents",
            display_name="SePPO Dataset to Latents",
            category=sockets.CATEGORY,
            description="Gives encoded winners to ComfyUI's own nodes, such as Train LoRA or Save Training "
            "Dataset, as lists of latents and conditioning. All are loaded into memory.",
            search_aliases=["dataset", "latent list", "train lora", "save training dataset"],
            inputs=[
                sockets.Dataset.Input(
                    "dataset", tooltip="The encoded winning images, from SePPO Encode Winners."
                ),
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    default="lists",
                    tooltip="lists: an item for each winner, as today's Train LoRA takes them. one batch: all "
                    "in one, as the Train LoRA of ComfyUI 0.3.64 takes them; they must have one size.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latents", is_output_list=True, tooltip="The winners' latents."
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    is_output_list=True,
                    tooltip="The winners' encoded captions, in the same order.",
                ),
            ],
        )

    @classmethod
    def execute(cls, dataset: EncodedDataset, form: str) -> io.NodeOutput:
        if form not in list(FORMS):
            raise ConfigError(f"unknown form {form!r}; choose from {list(FORMS)}")
        return io.NodeOutput(*FORMS[form]([dataset[place] for place in range(len(dataset))]))


Lists = tuple[list[dict[str, Tensor]], list[Any]]
"""LATENT and CONDITIONING, as many of the one as of the other"""


def _lists(examples: list[Example]) -> Lists:
    latents = [{"samples": example.latents[None]} for example in examples]
    return latents, [example.cond for example in examples]


def _one_batch(examples: list[Example]) -> Lists:
    shapes = {tuple(example.latents.shape) for example in examples}
    if len(shapes) > 1:
        raise DatasetError(
            f"the winners have {len(shapes)} shapes and do not fit into one batch; choose form 'lists', or "
            "shape 'square' in SePPO Encode Winners"
        )
    samples = torch.stack([example.latents for example in examples])
    return [{"samples": samples}], [[entry for example in examples for entry in example.cond]]


FORMS = {"lists": _lists, "one batch": _one_batch}


NODES = [SePPOEncodeWinners, SePPODatasetFromLatents, SePPODatasetToLatents]
