"""A denoiser of a few hundred weights and winners for it; everything runs in under a second on a CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seppo_core.data import EncodedDataset, Example
from seppo_core.denoisers import ComputeConfig
from seppo_core.identity import digest_tensors
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal

CHANNELS, SIDE, WIDTH = 2, 4, 8


class TinyNetwork(nn.Module):
    """A per-pixel MLP and one convolution over latents [B, 2, 4, 4], a level [B] and text [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.text = nn.Linear(3, WIDTH)
        self.attn_mix = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, CHANNELS)

    def forward(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        hidden = self.conv(x) + (self.text(text) + level[:, None])[:, :, None, None]
        hidden = torch.tanh(self.attn_mix(torch.tanh(hidden).movedim(1, -1)))
        return self.out(hidden).movedim(-1, 1)


class TinyDenoiser:
    """A flow model (prediction: noise - x0) behind the denoiser protocol."""

    family = "diffusers"

    def __init__(self, seed: int = 0) -> None:
        self.network = TinyNetwork()
        for name, parameter in self.network.named_parameters():
            parameter.data = normal(tuple(parameter.shape), "tiny", seed, name) * 0.5
        self.network.requires_grad_(False)
        self.device = torch.device("cpu")
        self.compute_dtype = torch.float32
        self.lora = None
        self.in_session = False
        self.fail_at_call = 0
        self.calls = 0

    def check(
        self,
        dataset: EncodedDataset,
        compute: ComputeConfig,
        sampling: ReferenceConfig | None,
        paired: bool,
    ) -> None:
        assert not self.in_session

    def base_fingerprint(self) -> str:
        return digest_tensors(sorted(self.network.state_dict().items()))

    def base_name(self) -> str:
        return "tiny"

    def context_fingerprint(self, guided: bool) -> str:
        return ""

    @contextmanager
    def session(self, compute: ComputeConfig) -> Iterator[None]:
        self.in_session = True
        try:
            yield
        finally:
            self.in_session = False

    def scale_latents(self, latents: Tensor) -> Tensor:
        return latents * 2

    def levels(self, uniform: Tensor) -> Tensor:
        return uniform

    def prepare(self, conds: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.stack(list(conds))

    def residuals(self, latents: Tensor, noise: Tensor, levels: Tensor, prepared: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at_call:
            raise RuntimeError("injected fault")
        sigma = levels.view(-1, 1, 1, 1)
        noisy = (1 - sigma) * latents + sigma * noise
        raw = self.network(noisy, levels, prepared)
        return raw - (noise - latents)

    def sample(
        self,
        conds: Sequence[Tensor],
        noise: Tensor,
        sampling: ReferenceConfig,
        seed: int,
        guide=None,
    ) -> Tensor:
        x, count = noise, sampling.sampling_steps
        for step in range(count):
            sigma = torch.full((len(x),), 1 - step / count)
            x = x - self.network(x, sigma, self.prepare(conds, x.shape[1:])) / count
        return x


def examples(count: int, paired: bool = False) -> list[Example]:
    shape = (CHANNELS, SIDE, SIDE)
    return [
        Example(
            latents=0.3 * normal(shape, "winner", i) + 0.5,
            cond=normal((3,), "text", i),
            caption=f"winner {i}",
            losing=normal(shape, "losing", i) if paired else None,
        )
        for i in range(count)
    ]
