"""Thin models in every format of weights that the host's own table names, and what a test sees of them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import thin
import torch
from safetensors.torch import load_file, save_file

PLAIN = ("fp32", "fp16", "bf16", "fp8")
SCALED = ("scaled_fp8", "scaled_fp8_full", "scaled_fp8_inputs")
"""Files of before 2026, with a mark at the root: plain, with full precision of products, with input scales."""
OPTIONS = {
    "int8_rows": {"per_channel": True},
    "int8_rotated": {"per_channel": True, "convrot": True, "convrot_groupsize": 64},
    "convrot_w4a4": {"convrot_groupsize": 64},
    "convrot_w4a4_int8": {"convrot_groupsize": 64, "linear_dtype": "int8"},
    "asym_w4a8_int8": {"convrot_groupsize": 64, "codebook": False},
}
"""What a layout's `quantize` takes besides the weight; names not in the host's table are variants of its rows."""
VARIANTS = {
    "int8_rows": "int8_tensorwise",
    "int8_rotated": "int8_tensorwise",
    "convrot_w4a4_int8": "convrot_w4a4",
}


def table(host_path: Path) -> list[str]:
    """Names of the host's QUANT_ALGOS, read off its source: tests are collected before it is imported."""
    source = host_path / "comfy" / "quant_ops.py"
    if not source.is_file():
        return []
    text = source.read_text("utf-8").split("\nQUANT_ALGOS = {")[1]
    return re.findall(r'^ *(?:QUANT_ALGOS\[)?"(\w+)"\]?(?::| =) \{$', text, re.MULTILINE)


def forms(host_path: Path) -> list[str]:
    named = table(host_path)
    return [*PLAIN, *SCALED, *named, *(VARIANTS if named else ()), *(["mixed"] if named else [])]


def is_quantised(form: str) -> bool:
    return form not in PLAIN


def file_of(kind: str, models: Path, form: str) -> Path:
    """Path of `kind` in `form` for UNETLoader; written once."""
    if form in PLAIN:
        return thin.thin_file(kind, models, form)
    path = models / "diffusion_models" / f"quantised_{kind}_{form}.safetensors"
    if not path.is_file():
        weights = load_file(thin.thin_file(kind, models, "bf16"))
        save_file({k: v.contiguous() for k, v in stored(kind, weights, form).items()}, path)
    return path


def model_of(kind: str, models: Path, form: str):
    """MODEL of a fresh load, as a node makes it."""
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(file_of(kind, models, form)))


def stored(kind: str, weights: dict, form: str) -> dict[str, torch.Tensor]:
    """A checkpoint whose blocks' linear layers are in `form`; in "mixed" in all in turn, some in none."""
    layers = [
        name
        for name, module in thin.THIN[kind].build().named_modules()
        if isinstance(module, torch.nn.Linear) and "block" in name
    ]
    turn = [form]
    if form == "mixed":
        from comfy.quant_ops import QUANT_ALGOS

        turn = [*QUANT_ALGOS, None]
        # The host tells SDXL by the width of these, which some formats store as half of it.
        layers = [name for name in layers if not name.endswith("attn2.to_k")]
    made = dict(weights)
    for number, name in enumerate(layers):
        key = f"{name}.weight"
        made |= quantised_layer(name, made.pop(key), turn[number % len(turn)])
    if form in SCALED:
        made["scaled_fp8"] = torch.empty(
            2 if form.endswith("full") else 0, dtype=torch.float8_e4m3fn
        )
    return made


def quantised_layer(name: str, weight: torch.Tensor, form: str | None) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a linear layer; the plain weight where `form` cannot hold its shape."""
    key = f"{name}.weight"
    if form in SCALED:
        scale = weight.abs().max().float() / 448
        file = {key: (weight / scale).to(torch.float8_e4m3fn), f"{name}.scale_weight": scale}
        inputs = {f"{name}.scale_input": torch.tensor(0.05)}
        return file | (inputs if form.endswith("inputs") else {})
    if form is None:
        return {key: weight}
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    algorithm, options = VARIANTS.get(form, form), OPTIONS.get(form, {})
    scale = {"scale": "recalculate"} if algorithm.startswith(("float8", "nvfp4")) else {}
    layout = QUANT_ALGOS[algorithm]["comfy_tensor_layout"]
    try:
        made = QuantizedTensor.from_float(weight, layout, **scale, **options)
    except (ValueError, RuntimeError, AssertionError):
        return {key: weight}
    about = {"format": algorithm}
    about |= {
        k: v for k, v in options.items() if k in ("convrot", "convrot_groupsize", "linear_dtype")
    }
    mark = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
    return made.state_dict(key) | {f"{name}.comfy_quant": mark}


def wrapped(model) -> list[str]:
    """Names of the weights that are tensors wrapping others."""
    named = model.model.diffusion_model.named_parameters()
    return [name for name, weight in named if hasattr(weight, "__tensor_flatten__")]


def memory(model) -> dict[str, int]:
    """Where each weight lies."""
    named = model.model.diffusion_model.named_parameters()
    return {name: weight.data_ptr() for name, weight in named}


def looks(model) -> dict[str, object]:
    """Types, flags and values of all that the host keeps of a model, for comparing two of one file."""
    import comfy.model_management as management

    found: dict[str, object] = {"in training": getattr(management, "in_training", None)}
    for name, module in model.model.named_modules():
        for key, value in {**module._parameters, **module._buffers, **vars(module)}.items():
            if isinstance(value, torch.Tensor) or value != getattr(type(module), key, look):
                found[f"{name}.{key}"] = look(value)
        found[f"{name} hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    for name, entry in model.backup.items():
        found[f"aside {name}"] = (look(entry.weight), entry.inplace_update)
    for name in "patches object_patches object_patches_backup hook_backup pinned".split():
        found[name] = sorted(map(str, getattr(model, name, ())))
    for name in "model_options wrappers callbacks injections attachments".split():
        found[name] = re.sub(r"0x[0-9a-f]+", "", repr(getattr(model, name, None)))
    return found


def look(value: object) -> object:
    if isinstance(value, torch.Tensor):
        kind = (type(value), isinstance(value, torch.nn.Parameter), value.is_inference())
        form = (value.requires_grad, value.dtype, value.device, tuple(value.shape))
        if hasattr(value, "__tensor_flatten__"):
            names, context = value.__tensor_flatten__()
            return kind, form, repr(context), [look(getattr(value, name)) for name in names]
        return kind, form, value.stride(), digest(value)
    if isinstance(value, bool | int | float | str | None | tuple | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, list | dict | set):
        return type(value), len(value)
    return type(value)


def digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().clone().reshape(-1).contiguous()
    return hashlib.sha256(
        flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    ).hexdigest()
