"""LoRA files that load elsewhere: key formats, metadata, and reading back what was written.

Inside the product weights are `<layer>.<part>`, of LoRA `down` [r, in, ...] and `up` [out, r, ...], with one
scale for all. This module owns how files name and scale them; where a run's own files lie is runs/run.py's.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..files import Seal, first_line, load_tensors, save_tensors
from .lora import ADAPTERS, LoRAConfig

COMPONENTS = ("diffusion_model", "unet", "transformer")
"""What a file's layer names start with: ComfyUI's network, a diffusers UNet, a diffusers transformer."""


@dataclass(frozen=True)
class Format:
    """How a layer's tensors are called in a file."""

    suffixes: Mapping[str, str]
    """by the names of parts; those of other parts are `.<part>`"""
    alpha: str
    """empty: the format has no alpha, the scale is multiplied into the last part"""

    def suffix(self, part: str) -> str:
        return self.suffixes.get(part, f".{part}")


FORMATS: dict[str, Format] = {
    "comfy": Format({"down": ".lora_down.weight", "up": ".lora_up.weight"}, ".alpha"),
    "diffusers": Format({"down": ".lora_A.weight", "up": ".lora_B.weight"}, ""),
}


@dataclass(frozen=True)
class Rows:
    """The output rows of one of our layers that a layer of the file consists of.

    Other libraries split layers that are one here (q, k and v of a fused projection); each piece has its
    own rows of the last part (LoRA's `up`) and the others whole.
    """

    layer: str
    start: int = 0
    count: int | None = None
    """None: all of them"""
    swapped: bool = False
    """the file holds the two halves in exchanged order"""

    def of(self, last: Tensor) -> Tensor:
        count = len(last) - self.start if self.count is None else self.count
        rows = last[self.start : self.start + count]
        return torch.cat(rows.chunk(2)[::-1]) if self.swapped else rows


LayerMap = Mapping[str, Rows]
"""layer name in the file -> where it lies here"""


def save_lora(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    scale: float,
    format: str,
    component: str,
    metadata: Mapping[str, str],
    layers: LayerMap | None = None,
) -> Seal:
    """Write one safetensors file atomically, in float32; what it has to be to count as undamaged.

    The other arguments are `file_tensors`'. Where the names are not simply ours, the file says which of
    our layers each one is.
    """
    used = _resolved(weights, layers or _own_names(weights, format, component))
    about = dict(metadata) | {"seppo.scale": repr(float(scale))}
    if any(name != f"{component}.{rows.layer}" for name, rows in used.items()):
        about["seppo.layers"] = json.dumps(
            {name: dataclasses.astuple(rows) for name, rows in used.items()}
        )
    tensors = file_tensors(weights, scale=scale, format=format, component=component, layers=layers)
    return save_tensors(path, tensors, about)


def file_tensors(
    weights: Mapping[str, Tensor],
    *,
    scale: float,
    format: str,
    component: str,
    layers: LayerMap | None = None,
) -> dict[str, Tensor]:
    """The weights as a file of `format` holds them, float32 copies on the CPU.

    `scale` is alpha / rank of the weights. `component` is a row of COMPONENTS. `layers` renames and
    splits layers, its names are whole; without it they are ours behind the component's.
    UnsupportedModelError names a layer that `layers` leaves out.
    """
    chosen = _format(format)
    tensors: dict[str, Tensor] = {}
    used = _resolved(weights, layers or _own_names(weights, format, component))
    every = layer_parts(weights)
    for name, rows in used.items():
        parts = [weights[f"{rows.layer}.{part}"] for part in every[rows.layer]]
        parts[-1] = rows.of(parts[-1])
        if chosen.alpha:
            tensors[name + chosen.alpha] = torch.tensor(scale * len(parts[0]), dtype=torch.float32)
        else:
            parts[-1] = parts[-1] * scale
        for part, tensor in zip(every[rows.layer], parts, strict=True):
            copy = tensor.detach().to("cpu", torch.float32, copy=True)
            tensors[name + chosen.suffix(part)] = copy.contiguous()
    return tensors


def _format(name: str) -> Format:
    try:
        return FORMATS[name]
    except (KeyError, TypeError):
        raise ConfigError(f"unknown LoRA format {name!r}; choose from {sorted(FORMATS)}") from None


def _own_names(weights: Mapping[str, Tensor], format: str, component: str) -> LayerMap:
    """Our layer names behind the component's; of a diffusers UNet ComfyUI knows only the joined form."""
    if component not in COMPONENTS:
        raise ConfigError(f"unknown component {component!r}; choose from {list(COMPONENTS)}")
    if format == "comfy" and component == "unet":
        return {
            f"lora_unet_{layer.replace('.', '_')}": Rows(layer) for layer in layer_parts(weights)
        }
    return {f"{component}.{layer}": Rows(layer) for layer in layer_parts(weights)}


def layer_parts(weights: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The layers that `weights` holds, and the parts of each, as its adapter orders them."""
    found: dict[str, list[str]] = {}
    for key in weights:
        layer, _, part = key.rpartition(".")
        found.setdefault(layer, []).append(part)
    orders = {frozenset(kind.parts): kind.parts for kind in ADAPTERS.values()}
    return {layer: orders[frozenset(parts)] for layer, parts in found.items()}


def _resolved(weights: Mapping[str, Tensor], layers: LayerMap) -> dict[str, Rows]:
    """The part of `layers` that concerns these weights, with explicit counts; every row exactly once."""
    whole = {
        name: len(weights[f"{name}.{parts[-1]}"]) for name, parts in layer_parts(weights).items()
    }
    missing = dict(whole)
    used = {}
    for name, rows in layers.items():
        if rows.layer in missing:
            count = whole[rows.layer] if rows.count is None else rows.count
            used[name] = dataclasses.replace(rows, count=count)
            missing[rows.layer] -= count
    assert min(missing.values(), default=0) >= 0, "two names for the same rows"
    left = [layer for layer, rows in missing.items() if rows]
    if left:
        raise UnsupportedModelError(
            f"{len(left)} layers have no name in this format (first: {left[0]}); "
            "save in format 'comfy' instead"
        )
    return used


def component_of(family: str, weights: Mapping[str, Tensor]) -> str:
    """The row of COMPONENTS that a network of `family` with these layers is."""
    if family == "comfy":
        return "diffusion_model"
    blocks = ("down_blocks.", "mid_block.", "up_blocks.")
    return "unet" if any(name.startswith(blocks) for name in weights) else "transformer"


def save_run_weights(
    path: Path, weights: Mapping[str, Tensor], lora: LoRAConfig, metadata: Mapping[str, str]
) -> Seal:
    """A run's own weights, in the format of its family, so that they load where the run was made."""
    family = metadata["seppo.family"]
    return save_lora(
        path,
        weights,
        scale=lora.scale,
        format="comfy" if family == "comfy" else "diffusers",
        component=component_of(family, weights),
        metadata=metadata,
    )


MISFITS = (
    *(ArithmeticError, LookupError, TypeError, ValueError),
    *(AttributeError, RuntimeError),
)
"""What comes of a file whose metadata says other things than its tensors."""


def load_lora(path: Path, scale: float | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file that `save_lora` wrote, in any format: our weights (float32, CPU) and the metadata.

    The weights are right for paths of `scale`; None gives them as they were saved.
    CheckpointError if the file is damaged or something else.
    """
    tensors, metadata = load_tensors(Path(path))
    try:
        pieces = list(_pieces(Path(path), tensors, metadata))
        return _joined(pieces, scale or float(metadata.get("seppo.scale", "1.0"))), metadata
    except MISFITS as error:
        raise CheckpointError(
            f"{path}: what it says of its layers does not fit them ({first_line(error)})"
        ) from None


Piece = tuple[Rows, dict[str, Tensor], float]
"""A layer of a file: which rows of ours it has, its parts, and the scale that they are right for."""


def _joined(pieces: list[Piece], wanted: float) -> dict[str, Tensor]:
    """The weights of whole layers, right for paths of scale `wanted`. ValueError where rows are missing."""
    given: dict[str, int] = {}
    for rows, parts, _ in pieces:
        last = [*parts.values()][-1]
        given[rows.layer] = given.get(rows.layer, 0) + len(last)
    weights: dict[str, Tensor] = {}
    for rows, parts, found in pieces:
        (*others, (name, last)) = parts.items()
        if rows.count != len(last) or not 0 <= rows.start <= given[rows.layer] - len(last):
            raise ValueError(f"{rows.layer} has other rows")
        factor = 1.0 if found == wanted else found / wanted  # a file of strength 0 has scale 0
        whole = torch.zeros(given[rows.layer], *last.shape[1:])
        whole = weights.setdefault(f"{rows.layer}.{name}", whole)
        target = whole[rows.start : rows.start + len(last)]
        target.copy_(Rows("", swapped=rows.swapped).of(last) * factor)
        weights |= {f"{rows.layer}.{part}": tensor.float() for part, tensor in others}
    return weights


def _pieces(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[Piece]:
    """Each layer of the file; CheckpointError for what is no LoRA of ours."""
    layers = {
        name: Rows(*fields)
        for name, fields in json.loads(metadata.get("seppo.layers", "{}")).items()
    }
    left = set(tensors)
    most_parts_first = sorted(ADAPTERS.values(), key=lambda kind: -len(kind.parts))
    for format, kind in product(FORMATS.values(), most_parts_first):
        suffixes = [format.suffix(part) for part in kind.parts]
        for key in [key for key in tensors if key in left and key.endswith(suffixes[-1])]:
            name = key.removesuffix(suffixes[-1])
            names = [name + suffix for suffix in suffixes]
            alphas = [name + format.alpha] if format.alpha else []
            if not left.issuperset(names + alphas):
                continue
            left -= {*names, *alphas}
            parts = {part: tensors[one] for part, one in zip(kind.parts, names, strict=True)}
            rank, rows = len(tensors[names[0]]), len(tensors[key])
            alpha = float(tensors[alphas[0]]) if alphas else rank
            yield layers.get(name, Rows(_without_component(name), 0, rows)), parts, alpha / rank
    if left or not tensors:
        raise CheckpointError(
            f"{path}: not a LoRA file of a format we read ({sorted(FORMATS)}); "
            f"{f'unexpected tensor {min(left)}' if left else 'it is empty'}"
        )


def _without_component(name: str) -> str:
    component, _, layer = name.partition(".")
    return layer if component in COMPONENTS else name
