"""What ComfyUI's ModelPatcher says about itself, read off its attributes."""

import inspect
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.lora import uncompiled_name
from ..errors import UnsupportedModelError
from ..identity import digest_tensors, tensors_in
from .autograd import is_wrapper
from .conditions import digest_state

COMPILED = ("apply_model", "torch.compile")
"""Kind and key of the wrapper by which the host compiles a MODEL."""


def as_written(value: Any) -> Any:
    """What torch.compile was given; anything else as it is."""
    for attribute in ("_orig_mod", "_torchdynamo_orig_callable"):
        value = getattr(value, attribute, value)
    return value


def compiled_patches(patcher: Any) -> dict[str, Any]:
    """Object patches that torch.compile made: how hosts and packs compiled before there was a wrapper."""
    patches = patcher.object_patches.items()
    return {name: value for name, value in patches if as_written(value) is not value}


def uncompiled(patcher: Any) -> Any:
    """A clone that is compiled neither by the host's wrapper nor by object patches."""
    clone = patcher.clone()
    clone.remove_wrappers_with_key(*COMPILED)
    clone.wrappers = {kind: found for kind, found in clone.wrappers.items() if found}
    clone.model_options.pop("torch_compile_kwargs", None)
    for name, value in compiled_patches(clone).items():
        clone.object_patches[name] = as_written(value)
        if clone.object_patches[name] is _unpatched(clone, name):
            del clone.object_patches[name]
    return clone


def _unpatched(patcher: Any, name: str) -> Any:
    """What the model itself has under a dotted name, whatever is patched over it now."""
    if name in patcher.object_patches_backup:
        return patcher.object_patches_backup[name]
    return attrgetter(name)(patcher.model)


def static(patcher: Any) -> Any:
    """The patcher, or where the host streams its weights from disk a twin with weights that stay."""
    streams = "disable_dynamic" in inspect.signature(patcher.clone).parameters
    if not (streams and patcher.is_dynamic()):
        return patcher
    if patcher.cached_patcher_init is None:
        raise UnsupportedModelError(
            "this MODEL is streamed from disk and its loader gives no way to load it whole; use the "
            "host's own loader, or start ComfyUI without dynamic VRAM"
        )
    return patcher.clone(disable_dynamic=True)


def check_noise(patcher: Any) -> None:
    """The model must predict from a mix of image and noise, else there is nothing to denoise."""
    schedule = patcher.get_model_object("model_sampling")
    zeros, sigma = torch.zeros(1, 1), torch.full((1,), 0.5)
    if not schedule.noise_scaling(sigma, torch.ones(1, 1), zeros.clone()).any():
        raise UnsupportedModelError(
            f"{type(patcher.model).__name__} maps image to image without noise, so there is no "
            "denoising error to learn from; use a text-to-image or text-to-video model"
        )


def compute_dtype(patcher: Any) -> torch.dtype:
    """Arithmetic of the network's forwards, as the host has set it."""
    return patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()


def checkpoint_name(patcher: Any) -> str:
    """File name without suffix of what the patcher was loaded from; 0.3.64 does not keep it: empty."""
    made_by = getattr(patcher, "cached_patcher_init", None)
    first = made_by[1][0] if made_by and made_by[1] else None
    return Path(first).stem if isinstance(first, str | Path) else ""


def patcher_identity(patcher: Any, prefix: str = "", without: tuple[str, ...] = ()) -> str:
    """A hash over a ModelPatcher's unpatched weights below `prefix` and its patches, loaded or not.

    Weights whose names end in one of `without` do not count.
    """
    weights = patcher.model_state_dict()
    for name, weight in _put_aside(patcher):
        # Of a quantised one the host saves the stored values and the scales, each under a name of its own.
        weights |= weight.state_dict(name) if hasattr(weight, "state_dict") else {name: weight}
    items = [
        (uncompiled_name(name), weight.to(_stored_dtype(patcher.model, name, weight)))
        for name, weight in weights.items()
        if name.startswith(prefix) and not name.endswith(without)
    ]
    for name, patches in patcher.patches.items():
        for place, patch in enumerate(patches):
            items.extend(tensors_in(f"patch {uncompiled_name(name)} {place}", patch))
    return digest_tensors(items)


def _put_aside(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and weights as they were before the patches that are in the model now."""
    for name, entry in patcher.backup.items():
        yield name, entry.weight
    for name, entry in patcher.hook_backup.items():
        yield name, entry[0]


def is_elsewhere(layer: nn.Module, device: torch.device) -> bool:
    """Whether the host left the layer's weight off the device and casts it in every forward."""
    weight = getattr(layer, "weight", None)
    if not hasattr(layer, "weight_function") or weight is None:
        return False
    return not _same(weight.device, device)


def _same(one: torch.device, other: torch.device) -> bool:
    """`mps` and `mps:0` are one device: an index counts where both have one."""
    indices = (one.index, other.index)
    return one.type == other.type and (None in indices or indices[0] == indices[1])


def patcher_conditions(patcher: Any) -> str:
    """A hash over a ModelPatcher's noise schedule and everything that nodes put on it besides weights.

    What is loaded does not matter: object patches show on the model only then, and are read off the
    patcher. Nor does torch.compile, which training leaves out.
    """
    patcher = uncompiled(patcher)
    names = "object_patches weight_wrapper_patches model_options wrappers callbacks injections"
    state = {name: getattr(patcher, name, None) for name in names.split()}
    return digest_state([patcher.get_model_object("model_sampling"), state])


def _stored_dtype(model: nn.Module, name: str, weight: Tensor) -> torch.dtype:
    """The dtype a weight has once loaded: 2026 hosts convert some on the way, but no quantised ones."""
    owner, _, leaf = name.rpartition(".")
    layer = model.get_submodule(owner)
    if is_wrapper(getattr(layer, leaf, None)):
        return weight.dtype
    return getattr(layer, f"{leaf}_comfy_model_dtype", weight.dtype)
