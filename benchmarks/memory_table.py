"""Memory and arithmetic that one training step needs, computed without a GPU: `python benchmarks/memory_table.py`.

The real architectures (diffusers' configurations, no weights) run one policy forward and backward on torch's
meta device, with our LoRA attached, and seppo_core.training.estimate counts what autograd keeps. Arithmetic is counted
by torch's own counter; times follow from data sheets and a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.training.estimate import COPIES, GIB, META, kept_for_backward

PAIR = 2
"""winner and reference sample of one example go through the network together"""
CARDS = {"RTX 3060": 25.6, "RTX 4090": 165.2}
"""Dense bf16 tensor TFLOP/s with fp32 accumulation, from Nvidia's data sheets."""
UTILISATION = 0.4
"""Share of that which a step is taken to reach: a guess, so the times are no measurements."""
TERA = 1e12


@dataclass(frozen=True)
class Case:
    name: str
    network: Callable[[], nn.Module]
    call: Callable[[nn.Module, int], Tensor]
    sizes: tuple[int, ...]
    """for `call` and the name"""


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=META)


def sd15() -> nn.Module:
    return diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)


def call_sd15(network: nn.Module, pixels: int) -> Tensor:
    latents, timestep = empty(PAIR, 4, pixels // 8, pixels // 8), torch.ones(PAIR, device=META)
    return network(latents, timestep, empty(PAIR, 77, 768))[0]


def sdxl() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def call_sdxl(network: nn.Module, pixels: int) -> Tensor:
    added = {"text_embeds": empty(PAIR, 1280), "time_ids": empty(PAIR, 6)}
    latents, timestep = empty(PAIR, 4, pixels // 8, pixels // 8), torch.ones(PAIR, device=META)
    return network(latents, timestep, empty(PAIR, 77, 2048), added_cond_kwargs=added)[0]


def sd35_medium() -> nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        out_channels=16,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )


def call_sd35(network: nn.Module, pixels: int) -> Tensor:
    return network(
        empty(PAIR, 16, pixels // 8, pixels // 8),
        encoder_hidden_states=empty(PAIR, 333, 4096),
        pooled_projections=empty(PAIR, 2048),
        timestep=torch.ones(PAIR, device=META),
    )[0]


def flux() -> nn.Module:
    return diffusers.FluxTransformer2DModel(guidance_embeds=True)


def call_flux(network: nn.Module, pixels: int) -> Tensor:
    cells = (pixels // 16) ** 2
    return network(
        empty(PAIR, cells, 64),
        encoder_hidden_states=empty(PAIR, 512, 4096),
        pooled_projections=empty(PAIR, 768),
        timestep=torch.ones(PAIR, device=META, dtype=torch.bfloat16),
        guidance=torch.ones(PAIR, device=META, dtype=torch.bfloat16),
        img_ids=torch.zeros(cells, 3, device=META),
        txt_ids=torch.zeros(512, 3, device=META),
    )[0]


def wan() -> nn.Module:
    return diffusers.WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)


def call_wan(network: nn.Module, frames: int) -> Tensor:
    latents = empty(PAIR, 16, (frames + 3) // 4, 60, 104)  # 832x480
    return network(latents, torch.ones(PAIR, device=META), empty(PAIR, 512, 4096))[0]


CASES = (
    Case("SD 1.5, {} px", sd15, call_sd15, (512, 768)),
    Case("SDXL, {} px", sdxl, call_sdxl, (768, 1024)),
    Case("SD 3.5 medium, {} px", sd35_medium, call_sd35, (512, 1024)),
    Case("Flux, {} px", flux, call_flux, (512, 1024)),
    Case("Wan 2.1 1.3B, 832x480, {} frames", wan, call_wan, (33, 81)),
)


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def activations(network: nn.Module, lora: LoRA, call: Callable[[nn.Module], Tensor]) -> int:
    """Peak bytes that autograd keeps during forward and backward of a winner and its sample."""
    with lora.attached():
        return kept_for_backward(network, lambda: call(network))


def operations(network: nn.Module, call: Callable[[nn.Module], Tensor]) -> float:
    """Floating point operations of a forward of one sample."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(network)
    return counter.get_total_flops() / PAIR


def step_operations(forward: float, reuse: int) -> float:
    """Of a whole step on one winner: drawing its sample, reference and policy on both, and the policy's backward.

    The backward of a LoRA costs about one forward more, for the frozen weights need no gradient.
    """
    drawing = ReferenceConfig().sampling_steps / reuse
    return forward * (drawing + PAIR + 2 * PAIR)


def rows_of(case: Case, size: int) -> tuple[list[str], list[str]]:
    """Memory in GiB, and arithmetic, of a model at a size."""
    with META:
        network = case.network().to(torch.bfloat16).requires_grad_(False).eval()
    call, name = lambda model: case.call(model, size), case.name.format(size)
    lora = LoRA(network, LoRAConfig(), 0, META)
    trained = bytes_of(lora.parameters())
    forward = operations(network, call)
    plain = activations(network, lora, call)
    network.enable_gradient_checkpointing()
    checkpointed = activations(network, lora, call)
    cells = (
        bytes_of(network.parameters()),
        (1 + COPIES) * trained,
        plain,
        checkpointed,
        8 * trained,
    )
    steps = [step_operations(forward, reuse) for reuse in (1, 4)]
    seconds = [s / TERA / (card * UTILISATION) for card in CARDS.values() for s in steps]
    return (
        [name, *(f"{cell / GIB:.2f}" for cell in cells)],
        [name, *(f"{x / TERA:.1f}" for x in (forward, *steps)), *(f"{s:.1f}" for s in seconds)],
    )


def main() -> None:
    rows = [rows_of(case, size) for case in CASES for size in case.sizes]
    memory, arithmetic = ([*column] for column in zip(*rows, strict=True))
    print(
        f"One winner and its sample, bf16 network, LoRA rank {LoRAConfig().rank} on all linear layers; GiB"
    )
    print_table(
        [
            "model",
            "weights",
            "LoRA training state",
            "kept for backward",
            "checkpointed",
            "pool of 8 (RAM)",
        ],
        memory,
    )
    print(
        f"Arithmetic of a step on one winner, {ReferenceConfig().sampling_steps} sampler steps without guidance, "
        f"reuse 1 and 4; seconds at {UTILISATION:.0%} of the card's bf16 TFLOP/s"
    )
    cards = [f"{card} s, reuse {reuse}" for card in CARDS for reuse in (1, 4)]
    print_table(["model", "TFLOP a forward", "a step", "a step, reuse 4", *cards], arithmetic)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
