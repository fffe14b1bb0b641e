"""Memory that one training step needs, computed without a GPU: `python benchmarks/memory_table.py`.

The real architectures (diffusers' configurations, no weights) run one policy forward and backward on torch's
meta device, with our LoRA attached. Every tensor that autograd keeps is counted while it lives, attention as
a fused kernel keeps it (q, k, v, output). Temporary buffers inside one operation, the CUDA context and
fragmentation are not in the numbers; a real card needs more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch
from torch import Tensor, nn

from seppo_core.config import LoRAConfig
from seppo_core.lora import LoRA

META = torch.device("meta")
GIB = 2**30
PAIR = 2
"""winner and reference sample of one example go through the network together"""


class FusedAttention(torch.autograd.Function):
    """What a fused attention kernel keeps for its backward."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, **settings: object) -> Tensor:
    """In place of torch's scaled dot product attention."""
    return FusedAttention.apply(query, key, value)


class Kept:
    """Counts the bytes of distinct storages that autograd holds, and their peak.

    Storages that live anyway (weights) are left out.
    """

    def __init__(self, resident: nn.Module) -> None:
        self.resident = {id(p) for p in resident.parameters()}
        self.held: dict[int, list[int]] = {}
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> Holder | Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) in self.resident or isinstance(base, nn.Parameter):
            return tensor
        return Holder(self, base, tensor)

    def unpack(self, holder: Holder | Tensor) -> Tensor:
        return holder.tensor if isinstance(holder, Holder) else holder

    def hold(self, base: Tensor) -> None:
        entry = self.held.setdefault(id(base), [0, base.numel() * base.element_size()])
        if entry[0] == 0:
            self.now += entry[1]
            self.peak = max(self.peak, self.now)
        entry[0] += 1

    def release(self, base: Tensor) -> None:
        entry = self.held[id(base)]
        entry[0] -= 1
        if entry[0] == 0:
            self.now -= entry[1]
            del self.held[id(base)]


class Holder:
    """One saved tensor; counted until autograd lets it go."""

    def __init__(self, kept: Kept, base: Tensor, tensor: Tensor) -> None:
        self.kept, self.base, self.tensor = kept, base, tensor
        kept.hold(base)

    def __del__(self) -> None:
        self.kept.release(self.base)


@dataclass(frozen=True)
class Case:
    name: str
    network: Callable[[], nn.Module]
    call: Callable[[nn.Module], Tensor]


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=META)


def sd15() -> nn.Module:
    return diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)


def call_sd15(network: nn.Module) -> Tensor:
    return network(empty(PAIR, 4, 64, 64), torch.ones(PAIR, device=META), empty(PAIR, 77, 768))[0]


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


def call_sdxl(network: nn.Module) -> Tensor:
    added = {"text_embeds": empty(PAIR, 1280), "time_ids": empty(PAIR, 6)}
    latents, timestep = empty(PAIR, 4, 128, 128), torch.ones(PAIR, device=META)
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


def call_sd35(network: nn.Module) -> Tensor:
    return network(
        empty(PAIR, 16, 128, 128),
        encoder_hidden_states=empty(PAIR, 333, 4096),
        pooled_projections=empty(PAIR, 2048),
        timestep=torch.ones(PAIR, device=META),
    )[0]


def flux() -> nn.Module:
    return diffusers.FluxTransformer2DModel(guidance_embeds=True)


def call_flux(network: nn.Module) -> Tensor:
    return network(
        empty(PAIR, 4096, 64),
        encoder_hidden_states=empty(PAIR, 512, 4096),
        pooled_projections=empty(PAIR, 768),
        timestep=torch.ones(PAIR, device=META, dtype=torch.bfloat16),
        guidance=torch.ones(PAIR, device=META, dtype=torch.bfloat16),
        img_ids=torch.zeros(4096, 3, device=META),
        txt_ids=torch.zeros(512, 3, device=META),
    )[0]


CASES = (
    Case("SD 1.5, 512 px", sd15, call_sd15),
    Case("SDXL, 1024 px", sdxl, call_sdxl),
    Case("SD 3.5 medium, 1024 px", sd35_medium, call_sd35),
    Case("Flux, 1024 px", flux, call_flux),
)


def size(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def activations(network: nn.Module, lora: LoRA, call: Callable[[nn.Module], Tensor]) -> int:
    """Peak bytes that autograd keeps during forward and backward of a winner and its sample."""
    kept = Kept(network)
    with lora.attached(), torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        call(network).sum().backward()
    return kept.peak


def main() -> None:
    torch.nn.functional.scaled_dot_product_attention = fused_attention
    rank = LoRAConfig().rank
    print(
        f"One winner and its sample, bf16 network, LoRA rank {rank} on all linear layers; GiB, computed"
    )
    print(
        "| model | weights bf16 | LoRA training state | kept for backward | checkpointed | pool of 8 (RAM) |"
    )
    print("|---|---|---|---|---|---|")
    for case in CASES:
        with META:
            network = case.network().to(torch.bfloat16).requires_grad_(False).eval()
        lora = LoRA(network, LoRAConfig(), 0, META)
        trained = size(lora.parameters())
        plain = activations(network, lora, case.call)
        network.enable_gradient_checkpointing()
        checkpointed = activations(network, lora, case.call)
        cells = (size(network.parameters()), 5 * trained, plain, checkpointed, 8 * trained)
        print(
            f"| {case.name} | " + " | ".join(f"{cell / GIB:.2f}" for cell in cells) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
