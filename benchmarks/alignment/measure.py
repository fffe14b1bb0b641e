"""What is measured of a model's pictures. Judges for the results and judges for tuning look through different eyes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from demo.judges import Judges, is_blank

DIMENSIONS = 64
"""Principal directions of real pictures' features in which distances are taken."""


@dataclass(frozen=True)
class Frame:
    """Features of real pictures, in their own principal directions."""

    mean: Tensor
    axes: Tensor
    """[D, K]"""

    @classmethod
    def of(cls, seen: Tensor, dimensions: int = DIMENSIONS) -> "Frame":
        """From features [N, D] of real pictures."""
        mean = seen.mean(0)
        _, _, directions = torch.linalg.svd(seen - mean, full_matrices=False)
        return cls(mean, directions[:dimensions].T)

    def __call__(self, seen: Tensor) -> Tensor:
        """Coordinates [N, K] of features [N, D]."""
        return (seen - self.mean) @ self.axes


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the normal distributions fitted to points [N, K] and [M, K] (Dowson and Landau, 1982)."""
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = _root(first)
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + first.trace() + second.trace() - 2 * overlap)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


@dataclass(frozen=True)
class Panel:
    """Judges, the captions they judge and the real pictures they compare with."""

    judges: Judges
    frame: Frame
    names: Sequence[str]
    """captions judged"""
    among: Sequence[str]
    """captions in which content is looked up"""
    held_out: Tensor
    """[names, D] features of real pictures of `names` in the winners' style"""
    real: Tensor
    """[M, D] features of real pictures in both styles"""

    def score(self, pixels: Tensor, draws: int) -> dict[str, float]:
        """Of pixels [draws * names, 3, H, W]: first one picture of each name, then another, and so on.

        style: mean probability of the winners' style, 0 for a blank picture. content: R@10, share of
        pictures whose own caption is among the ten nearest. frechet: distance to the held-out winners.
        diversity: mean distance of two pictures of one caption (0 with one draw). damage: mean distance to
        the nearest real picture. Distances are in principal directions of real pictures' features.
        """
        names = list(self.names) * draws
        seen, blank = self.judges.features(pixels), is_blank(pixels)
        found = self.judges.found(seen, names, list(self.among)) & ~blank
        points = self.frame(seen)
        return {
            "style": self.judges.style(seen, blank).mean().item(),
            "content": found.float().mean().item(),
            "frechet": frechet_distance(points, self.frame(self.held_out)),
            "diversity": _mean_distance_of_draws(points, draws),
            "damage": torch.cdist(points, self.frame(self.real)).min(1).values.mean().item(),
            "blank": blank.float().mean().item(),
        }


def _mean_distance_of_draws(points: Tensor, draws: int) -> float:
    by_draw = rearrange(points, "(draw name) direction -> draw name direction", draw=draws)
    pairs = [(by_draw[i] - by_draw[j]).norm(dim=1) for i in range(draws) for j in range(i)]
    return torch.stack(pairs).mean().item() if pairs else 0.0


def rounded(value: float) -> float | None:
    """Four significant digits; None for what is not a number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
