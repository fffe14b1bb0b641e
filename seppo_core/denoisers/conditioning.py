"""ComfyUI's CONDITIONING, which is plain lists, dicts and tensors: what one image may carry, and batches.

One image's is `[[text [1, T, C] or None, {"pooled_output": [1, C], "guidance": 3.5, ...}]]`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import Conditioning
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


def alike(conds: Sequence[Conditioning]) -> list[list[int]]:
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
    """One conditioning of batch B from B that are alike: tensors of batch 1 joined, the rest as it is."""
    if len(conds) == 1:
        return conds[0]
    text = _joined([cond[0][0] for cond in conds])
    entries = [cond[0][1] for cond in conds]
    return [[text, {key: _joined([entry[key] for entry in entries]) for key in entries[0]}]]


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
