"""The smallest models a ComfyUI host detects and samples: its own classes with seeded random weights.

Import it only where the host is importable; every ComfyUI import happens inside a function.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Thin:
    """One architecture: how to build it, and what it eats."""

    build: Callable[[], torch.nn.Module]
    latent: Callable[[int], Shape]
    """Latent size -> shape of one latent, without the batch axis."""
    context: Shape
    """Shape of one text conditioning, without the batch axis."""
    pooled: int | None = None
    extra: dict = field(default_factory=dict)
    """Further entries of a conditioning."""
    marks: tuple[str, ...] = ()
    """Empty root keys in the file by which the host tells a variant."""
    since: tuple[int, ...] = (0, 3, 64)


def unet(transformer_depth_middle: int = -2, **config) -> torch.nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        use_spatial_transformer=True,
        legacy=False,
        transformer_depth_middle=transformer_depth_middle,
        **config,
        **weights_on_meta(),
    )


def sd15() -> torch.nn.Module:
    return unet(
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_output=[1, 1],
        context_dim=768,
        num_heads=8,
        use_linear_in_transformer=False,
    )


def sdxl() -> torch.nn.Module:
    return unet(
        num_res_blocks=[1, 1, 1],
        channel_mult=[1, 1, 1],
        transformer_depth=[0, 2, 5],
        transformer_depth_output=[0, 0, 2, 2, 5, 5],
        context_dim=2048,
        num_head_channels=64,
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=2816,
    )


def sd3() -> torch.nn.Module:
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT

    return MMDiT(
        input_size=None,
        in_channels=16,
        out_channels=16,
        depth=2,
        adm_in_channels=2048,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": 4096, "out_features": 128},
        },
        num_patches=1024,
        pos_embed_max_size=32,
        **weights_on_meta(),
    )


def wan() -> torch.nn.Module:
    from comfy.ldm.wan.model import WanModel

    return WanModel(dim=256, ffn_dim=512, num_heads=2, num_layers=2, **weights_on_meta())


def flux() -> torch.nn.Module:
    from comfy.ldm.flux.model import Flux

    return Flux(
        in_channels=16,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=4096,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
        txt_ids_dims=[],
        **weights_on_meta(),
    )


def weights_on_meta() -> dict:
    """Arguments under which a host's module allocates no weights; only its shapes are read."""
    import comfy.ops

    return {
        "device": torch.device("meta"),
        "dtype": torch.float32,
        "operations": comfy.ops.disable_weight_init,
    }


def square(channels: int) -> Callable[[int], Shape]:
    return lambda size: (channels, size, size)


THIN = {
    "sd15": Thin(sd15, square(4), (77, 768)),
    "sdxl": Thin(sdxl, square(4), (77, 2048), pooled=1280),
    "sdxl_v": Thin(sdxl, square(4), (77, 2048), pooled=1280, marks=("v_pred",)),
    "sd3": Thin(sd3, square(16), (77, 4096), pooled=2048),
    "wan": Thin(wan, lambda size: (16, 3, size, size), (16, 4096)),
    "flux": Thin(
        flux, square(16), (32, 4096), pooled=768, extra={"guidance": 3.5}, since=(0, 33, 0)
    ),
}

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}


def kinds(version: tuple[int, ...]) -> list[str]:
    """The architectures whose thin form this host release can load."""
    return [kind for kind, thin in THIN.items() if version >= thin.since]


def thin_file(kind: str, models: Path, dtype: str = "fp16", seed: int = 0) -> Path:
    """Path of `thin_<kind>[_<dtype>][_<seed>].safetensors` in `models`/diffusion_models, written once."""
    suffix = ("" if dtype == "fp16" else f"_{dtype}") + (f"_{seed}" if seed else "")
    path = models / "diffusion_models" / f"thin_{kind}{suffix}.safetensors"
    if not path.is_file():
        weights = random_weights(THIN[kind].build(), seed)
        cast = {name: tensor.to(DTYPES[dtype]) for name, tensor in weights.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(cast | {mark: torch.zeros(1) for mark in THIN[kind].marks}, path)
    return path


def thin_model(kind: str, models: Path, dtype: str = "fp16", seed: int = 0):
    """The host's MODEL (a ModelPatcher) whose weights are stored as `dtype`."""
    import comfy.sd

    path = thin_file(kind, models, dtype, seed)
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": DTYPES[dtype]})


def thin_checkpoint(models: Path, seed: int = 0) -> Path:
    """`thin_sd15.safetensors` in `models`/checkpoints: thin UNet, CLIP-L, TAESD; about 290 MB."""
    path = models / "checkpoints" / "thin_sd15.safetensors"
    if not path.is_file():
        parts = {
            "model.diffusion_model.": sd15(),
            "cond_stage_model.transformer.": clip_l(),
            "first_stage_model.": taesd(),
        }
        weights = {
            f"{prefix}{name}": tensor.half()
            for prefix, module in parts.items()
            for name, tensor in random_weights(module, seed).items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path)
    return path


def clip_l() -> torch.nn.Module:
    import comfy.clip_model
    import comfy.sd1_clip

    config = Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json")
    return comfy.clip_model.CLIPTextModel(
        json.loads(config.read_text("utf-8")), **weights_on_meta()
    )


def taesd() -> torch.nn.Module:
    from comfy.taesd.taesd import TAESD

    return TAESD(latent_channels=4)


def random_weights(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Seeded weights of a module's shapes that keep activations near unit size.

    Gains are 1, biases 0.02 normal, matrices and kernels normal with variance 1 / fan-in.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: random_weight(name, tensor.shape, generator)
        for name, tensor in module.state_dict().items()
    }


def random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("vae_scale"):
        return torch.ones(shape)
    if name.endswith("vae_shift"):
        return torch.zeros(shape)
    if len(shape) == 1:
        if name.endswith(("weight", "scale")):
            return torch.ones(shape)
        return 0.02 * torch.randn(shape, generator=generator)
    embedding = "embedding.weight" in name and "patch" not in name
    fan_in = shape[-1] if embedding else math.prod(shape[1:])
    return torch.randn(shape, generator=generator) / math.sqrt(fan_in)


def thin_latent(kind: str, seed: int = 0, size: int = 8, batch: int = 1) -> dict:
    """The host's LATENT with unit normal samples, (batch, channels, [frames,] size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return {"samples": torch.randn(batch, *THIN[kind].latent(size), generator=generator)}


def thin_conditioning(kind: str, seed: int = 0) -> list:
    """The host's CONDITIONING of batch 1 with unit normal values, all that the architecture asks."""
    thin = THIN[kind]
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    context = torch.randn(1, *thin.context, generator=generator)
    pooled = {}
    if thin.pooled is not None:
        pooled["pooled_output"] = torch.randn(1, thin.pooled, generator=generator)
    return [[context, pooled | thin.extra]]
