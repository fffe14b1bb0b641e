"""ComfyUI's LATENT and CONDITIONING, which are plain tensors, lists and dicts: what fits a model, and batches.

One image's conditioning is `[[text [1, T, C] or None, {"pooled_output": [1, C], "guidance": 3.5, ...}]]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Conditioning, EncodedDataset, Example
from ..errors import DatasetError, UnsupportedModelError

PARTIAL = {
    "hooks": "remove the hook nodes in front of the conditioning",
    "control": "remove the ControlNet",
    "gligen": "remove GLIGEN",
    "area": "remove the area",
    "mask": "remove the mask",
    "start_percent": "remove the timestep range",
    "end_percent": "remove the timestep range",
    "clip_start_percent": "remove the scheduled text encoder hooks",
    "default": "remove the default conditioning",
}
"""Entries that hold for a part of the picture or of the schedule, and the way out."""


@dataclass(frozen=True)
class Prepared:
    """Conditioning of a batch: examples whose entries the host can put side by side share one part."""

    parts: list[tuple[list[int], dict[str, Any]]]
    """(positions in the batch, the host's conditioning entry for them together)"""


def check_single(cond: Conditioning, where: str) -> None:
    """Raise unless `cond` is one text for one whole image; `where` names it in the message."""
    if len(cond) != 1:
        raise DatasetError(
            f"{where}: {len(cond)} conditionings where one is needed; give each image one text, not "
            "combined or scheduled conditionings"
        )
    text, extra = cond[0]
    for key, remedy in PARTIAL.items():
        if extra.get(key) is not None:
            raise UnsupportedModelError(
                f"{where}: its conditioning carries {key!r}, which training cannot follow; {remedy}"
            )
    if text is not None and (text.ndim < 2 or text.shape[0] != 1):
        raise DatasetError(
            f"{where}: its text conditioning has the shape {tuple(text.shape)}; give each image one text "
            "of batch 1"
        )


CONTEXT_LAYERS = {"Flux": "txt_in", "WanModel": "text_embedding.0"}
"""Class name of a network -> the layer that reads the text conditioning."""
TAKES_POOLED = {"SDXL", "SDXLRefiner", "SD3"}
"""Class names of models that cannot do without a pooled output."""


CHECKED_WHEN_READ = 16
"""Of winners that are read when asked for, how many are looked at before training."""


def places_to_check(examples: Sequence[Example]) -> range:
    """Examples at hand are all looked at, of those that are read when asked for the first."""
    at_hand = isinstance(examples, list | tuple)
    return range(len(examples) if at_hand else min(len(examples), CHECKED_WHEN_READ))


def check_dataset(dataset: EncodedDataset, model: nn.Module, paired: bool) -> None:
    """Raise unless every winner suits the host's `model`, which is not called.

    Examples at hand are looked at one by one. Of those that are read when asked for the shapes are known, and
    one VAE, whose output was found finite, and one text encoder made them all: the first stand for the others.
    """
    examples = dataset.examples

    def where(index: int) -> str:
        return f"winner {index} ({examples[index].caption!r})"

    for index, shape in enumerate(dataset.item_shapes):
        if not _fits(shape, model):
            raise _unfit(shape, model, where(index))
    for index in places_to_check(examples):
        example = examples[index]
        _check_finite(example.latents, where(index))
        if paired and example.losing is not None:
            losing = f"the losing image of {where(index)}"
            if not _fits(tuple(example.losing.shape), model):
                raise _unfit(tuple(example.losing.shape), model, losing)
            _check_finite(example.losing, losing)
        check_conditioning(example.cond, model, where(index))


def _fits(shape: tuple[int, ...], model: nn.Module) -> bool:
    form = model.latent_format
    return len(shape) == form.latent_dimensions + 1 and shape[0] == form.latent_channels


def _unfit(shape: tuple[int, ...], model: nn.Module, where: str) -> DatasetError:
    form = model.latent_format
    axes = {1: "length", 2: "height, width", 3: "frames, height, width"}[form.latent_dimensions]
    return DatasetError(
        f"{where}: latents {tuple(shape)} do not fit {type(model).__name__}, which takes "
        f"({form.latent_channels}, {axes}); encode the winners with this model's own VAE"
    )


def _check_finite(latents: Tensor, where: str) -> None:
    if not torch.isfinite(latents).all():
        raise DatasetError(
            f"{where}: the latents hold NaN or infinite values; encode this image again, with the VAE "
            "in fp32 (start ComfyUI with --fp32-vae) if it persists"
        )


def check_conditioning(cond: Conditioning, model: nn.Module, where: str) -> None:
    """Raise unless `cond` is one text for one whole image, of the kind the host's `model` reads."""
    check_single(cond, where)
    text, extra = cond[0]
    kind = type(model).__name__
    width = context_width(model)
    if text is not None and width and text.shape[-1] != width:
        raise DatasetError(
            f"{where}: its text conditioning is {text.shape[-1]} wide, {kind} takes {width}; encode the "
            "texts with the text encoder that belongs to this model"
        )
    if TAKES_POOLED & {base.__name__ for base in type(model).__mro__}:
        if "pooled_output" not in extra:
            raise DatasetError(
                f"{where}: its conditioning lacks the pooled output that {kind} takes; encode the texts "
                "with the text encoder that belongs to this model"
            )


def context_width(model: nn.Module) -> int | None:
    """How wide the text conditioning must be, where that can be told."""
    width = model.model_config.unet_config.get("context_dim")
    layer = CONTEXT_LAYERS.get(type(model.diffusion_model).__name__)
    if layer is not None:
        width = getattr(model.diffusion_model.get_submodule(layer), "in_features", None)
    return width if isinstance(width, int) else None


def stackable_groups(conds: Sequence[Conditioning]) -> list[list[int]]:
    """Positions of conditionings that can be stacked, in order of first appearance."""
    groups: list[list[int]] = []
    for position, cond in enumerate(conds):
        for group in groups:
            if _stackable(conds[group[0]][0], cond[0]):
                group.append(position)
                break
        else:
            groups.append([position])
    return groups


def stacked(conds: Sequence[Conditioning]) -> Conditioning:
    """One conditioning of batch B from B that can be stacked: tensors of batch 1 joined, the rest as it is."""
    if len(conds) == 1:
        return conds[0]
    text = _joined([cond[0][0] for cond in conds])
    entries = [cond[0][1] for cond in conds]
    return [[text, {key: _joined([entry[key] for entry in entries]) for key in entries[0]}]]


def on_device(value: Any, device: torch.device) -> Any:
    """Tensors on the device and fit for autograd; whatever else there is, as it is."""
    if isinstance(value, Tensor):
        value = value.clone() if value.is_inference() else value
        return value.to(device)
    if isinstance(value, list):
        return [on_device(item, device) for item in value]
    return value


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if _has_batch_one(values[0]) else values[0]


def _has_batch_one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 1


def _stackable(one: Any, other: Any) -> bool:
    """Whether two values agree in everything but the content of tensors of batch 1."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and (_has_batch_one(one) or torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_stackable(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_stackable, one, other))
    return bool(one == other)
