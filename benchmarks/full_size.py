"""Our step beside the bare network where the network is as large as the real one: `python benchmarks/full_size.py`.

SD1.5 and SDXL in their own shapes with random weights, 16x16 latents, float32, batch 1, one thread of a CPU, on the
oldest ComfyUI found; counted and timed as benchmarks/speed.py does. SDXL's weights alone take 10 GB.
"""

from __future__ import annotations

from typing import Any

from each_host import on_each_host
from speed import OURS, beside_limit

ROUNDS = 3
DRAWINGS = {"sd15": OURS, "sdxl": dict(list(OURS.items())[:2])}
"""Without the last on SDXL, where its sixteen steps take many minutes."""
SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "num_heads": 8,
        "use_linear_in_transformer": False,
    },
    "sdxl": {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}


def full_model(kind: str):
    """The host's MODEL in the shapes of the real one. Weights come after loading, for two copies may not fit."""
    import comfy.sd
    import thin
    import torch

    weights = thin.unet(**SHAPES[kind]).state_dict()
    shapes = {name: torch.zeros(()).expand(weight.shape) for name, weight in weights.items()}
    model = comfy.sd.load_diffusion_model_state_dict(shapes, model_options={"dtype": torch.float32})
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.model.diffusion_model.named_parameters():
        weight.data = thin.random_weight(name, weight.shape, generator)
    return model


def measure(host, rounds: int) -> None:
    for kind in SHAPES:
        model = full_model(kind)
        count = sum(p.numel() for p in model.model.diffusion_model.parameters())
        name = f"{kind} of {count / 1e6:.0f} million weights"
        beside_limit(host, lambda model=model: model, kind, name, rounds, {}, DRAWINGS[kind])


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure, ROUNDS, only_first=True)
