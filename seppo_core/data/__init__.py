"""What training reads: winners as latents and conditioning, without knowing where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import DatasetError
from ..identity import digest_value
from .readers import READERS, read_winners
from .winners import LeftOut, listed, printable

__all__ = ["READERS", "Conditioning", "EncodedDataset", "Example", "in_memory", "read_winners"]

Conditioning = Any
"""What one image's text became. ComfyUI: its own list [[Tensor[1, T, C], {...}]]; diffusers: dict of
Tensor[T, C] / Tensor[C]. Only the denoiser looks inside."""


@dataclass(frozen=True)
class Example:
    """One winner, encoded."""

    latents: Tensor
    """[C, H, W], or [C, F, H, W] for video, as the VAE gave it (not yet scaled), float32, on the CPU"""
    cond: Conditioning
    caption: str = ""
    losing: Tensor | None = None
    """the losing image of a pair, shaped like `latents`"""


class EncodedDataset:
    """Winners ready for training: a sequence of `Example`, counted with repeats.

    `examples` is any sequence (it may read from disk); `shapes` are the latent shapes of its items, so
    that batches can be planned without reading; `repeats` says how often each item counts.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        shapes: Sequence[tuple[int, ...]],
        identity: str,
        repeats: Sequence[int] | None = None,
        paired: bool = False,
        held_out: "EncodedDataset | None" = None,
    ) -> None:
        if len(examples) == 0:
            raise DatasetError("the dataset is empty; give at least one winning image")
        self.examples = examples
        self.item_shapes = list(shapes)
        self.identity = identity
        """Changes when any latent, conditioning or repeat changes."""
        self.paired = paired
        self.held_out = held_out
        """Winners that are not trained on: the trainer reports the margin on them."""
        self.left_out: list[LeftOut] = []
        """winners that could not be encoded"""
        self.notes: list[str] = []
        """lines for the report"""
        self.order = [i for i in range(len(examples)) for _ in range(repeats[i] if repeats else 1)]
        """position -> index into `examples`"""

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Example:
        return self.examples[self.order[position]]

    def drawn(self, position: int, *key: int | str) -> Example:
        """The example as one optimizer step reads it: `key` alone decides which of its captions it has."""
        return self[position]

    def report(self) -> str:
        """What is trained on, in a few lines, and what was left out and why."""
        lines = [f"{len(self.examples)} winners to train on"]
        if len(self) != len(self.examples):
            lines.append(f"with repeats they count as {len(self)} per pass")
        if self.held_out:
            lines.append(f"{len(self.held_out.examples)} more are held out")
        lines += map(printable, self.notes)
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)}{listed(self.left_out, 20)}")
        return "\n".join(lines)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The latent shape at every position."""
        return [self.item_shapes[index] for index in self.order]


def in_memory(examples: Sequence[Example], repeats: Sequence[int] | None = None) -> EncodedDataset:
    """A dataset of examples that are at hand; its identity is a hash over their content."""
    content = [(example.latents, example.cond, example.losing) for example in examples]
    identity = digest_value([content, list(repeats or [])])
    shapes = [tuple(example.latents.shape) for example in examples]
    return EncodedDataset(examples, shapes, identity, repeats, all_paired(examples))


def all_paired(items: Sequence[Any]) -> bool:
    """Whether every one of these winners, or examples, has its losing image."""
    return all(item.losing is not None for item in items)
