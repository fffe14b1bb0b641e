"""Small CLIPs of the real architecture, as scorers' weights are published: by transformers, and by open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    import transformers

SIDE, WIDTH, DIMENSION = 28, 32, 24
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
TEXT = {
    **{"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 16, "vocab_size": len(WORDS)},
    **{"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53},
}
VISION = {
    **{"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "image_size": SIDE, "patch_size": 14},
}
HEAD = "sac+logos+ava1-l14-linearMSE.pth"
HPS = "HPS_v2.1_compressed.pt"


def picture(seed: int, size: tuple[int, int] = (40, 31)) -> Image.Image:
    """Coloured blocks: smooth enough to resize, different for every seed."""
    values = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)


def write_words(folder: Path) -> Path:
    """CLIP's tokenizer over single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def tokens(captions: list[str]) -> Tensor:
    """By hand: start, letters, those that end a word marked, end; shorter rows are filled up with ends."""
    rows = []
    for caption in captions:
        words = (f"{'|'.join(word)}</w>".split("|") for word in caption.split())
        ids = [WORDS.index(letter) for word in words for letter in word]
        rows.append([52, *ids[:14], 53])
    longest = max(map(len, rows))
    return torch.tensor([row + [53] * (longest - len(row)) for row in rows])


def make_clip(folder: Path, seed: int = 0, words: bool = True) -> transformers.CLIPModel:
    """A random CLIP, and in `folder` what transformers saves of it."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.CLIPConfig(
            text_config=TEXT, vision_config=VISION, projection_dim=DIMENSION
        )
        network = transformers.CLIPModel(config).eval()
    network.save_pretrained(folder)
    if words:
        write_words(folder)
    return network


def make_head(path: Path, seed: int = 0) -> nn.Sequential:
    """The layers of the improved aesthetic predictor, thinner, saved under their published names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Linear(DIMENSION, 16), nn.Dropout(0.2), nn.Linear(16, 12), nn.Dropout(0.2),
            nn.Linear(12, 8), nn.Dropout(0.1), nn.Linear(8, 4), nn.Linear(4, 1),
        ).eval()  # fmt: skip
    torch.save({f"layers.{name}": value for name, value in layers.state_dict().items()}, path)
    return layers


class Block(nn.Module):
    """A residual block in the names and the order of open_clip's, on torch's own attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads=16) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 14, 14, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // 14) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Tower(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, DIMENSION))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).movedim(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """ViT-H-14 of open_clip, thinner, with its names for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Tower(WIDTH)
        self.token_embedding = nn.Embedding(len(WORDS), WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(16, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, DIMENSION))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        for norm in (m for m in self.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1.0, 0.1)
            nn.init.normal_(norm.bias, 0.0, 0.1)

    def encode_text(self, ids: Tensor) -> Tensor:
        count = ids.shape[1]
        ahead = torch.full((count, count), float("-inf")).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:count]
        x = self.ln_final(self.transformer(x, ahead))
        return x[torch.arange(len(x)), ids.argmax(1)] @ self.text_projection


def make_open_clip(folder: Path, seed: int = 0) -> OpenClip:
    """A random one, and in `folder` the checkpoint as HPSv2 publishes it, with the tokenizer beside it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = OpenClip().eval()
    write_words(folder)
    state = network.state_dict() | {"attn_mask": torch.zeros(16, 16)}
    torch.save({"epoch": 3, "state_dict": state}, folder / HPS)
    return network
