"""How winner-like pictures are, told by the network that is aligned itself: nothing to download, no taste but the user's.

Winners and the base's own pictures of the same captions go, lightly noised, through the base; what its middle blocks
make of them are the features. A logistic regression tells the two apart. It is fitted in folds, so that no picture is
judged by a fit that saw it, or saw its caption.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Conditioning
from ..denoisers import Denoiser
from ..denoisers.autograd import find_blocks
from ..errors import DatasetError, UnsupportedModelError
from ..randomness import derived_seed, generator, isolated_global_rng, normal
from ..training.batch import of_one_shape
from .statistics import mean_with_interval

NOISES = 4
"""Draws over which a picture's features are averaged."""
LEVEL = 0.1
"""Of the noise, as a share of the schedule: the picture is still there, the network still has something to do."""
FOLDS = 5
LEAST_CAPTIONS = 2 * FOLDS
PENALTY = 0.01
"""Of the squared weights, features having a spread of one."""
CERTAIN = 0.65
"""Accuracy on pictures not fitted on below which the two kinds are not told apart."""

OnItem = Callable[[int, int], None]


def middle_blocks(network: nn.Module) -> list[nn.Module]:
    """The middle third of a network's repeated blocks; UnsupportedModelError if it has none."""
    blocks = find_blocks(network)
    if not blocks:
        raise UnsupportedModelError(f"{type(network).__name__} has no repeated blocks to look into")
    return blocks[len(blocks) // 3 : -(-2 * len(blocks) // 3)]


def pooled(output: Any, count: int) -> Tensor:
    """Mean and spread [count, 2 C] of a block's output over positions; [B, T, C], or [B, C, ...] with more dimensions."""
    if not isinstance(output, Tensor):
        output = next(part for part in output if isinstance(part, Tensor))
    values = output.detach().float().flatten(2) if output.ndim > 3 else output.detach().float().mT
    values = (
        values.reshape(count, -1, values.shape[-2], values.shape[-1]).transpose(1, 2).flatten(2)
    )
    return torch.cat([values.mean(-1), values.std(-1)], 1)


@contextmanager
def watched(blocks: Sequence[nn.Module], count: int) -> Iterator[dict[int, Tensor]]:
    """Features of each block, by its place, once the network has run on `count` examples in the block."""
    found: dict[int, Tensor] = {}

    def keep(place: int) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            found[place] = pooled(output, count)

        return hook

    handles = [block.register_forward_hook(keep(place)) for place, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def features(
    denoiser: Denoiser,
    latents: Sequence[Tensor],
    conds: Sequence[Conditioning],
    batch_size: int = 4,
    on_item: OnItem = lambda done, total: None,
) -> Tensor:
    """[N, D], float32, on the CPU, of latents [C, ...] in the network's scale; inside a session, of the bare base."""
    blocks, rows = middle_blocks(denoiser.network), []
    with denoiser.lora.using(None) if denoiser.lora else nullcontext():
        for part in of_one_shape([tuple(one.shape) for one in latents], batch_size):
            on_item(part.start, len(latents))
            batch = torch.stack([*latents[part.start : part.stop]]).to(denoiser.device)
            rows.append(_features(denoiser, blocks, batch, conds[part.start : part.stop]).cpu())
    on_item(len(latents), len(latents))
    return torch.cat(rows)


def _features(
    denoiser: Denoiser, blocks: Sequence[nn.Module], latents: Tensor, conds: Sequence[Conditioning]
) -> Tensor:
    """Averaged over the noises, which are the same for every picture."""
    shape, count = tuple(latents.shape[1:]), len(latents)
    prepared = denoiser.prepare(conds, shape)
    levels = denoiser.levels(torch.full((count,), LEVEL))
    total: Tensor | float = 0.0
    for draw in range(NOISES):
        noise = normal(shape, "taste", draw).expand(count, *shape)
        with watched(blocks, count) as found, isolated_global_rng(derived_seed("taste", draw)):
            denoiser.residuals(latents, noise, levels, prepared)
        total = total + torch.cat([found[place] for place in sorted(found)], 1)
    return total / NOISES


@dataclass(frozen=True)
class Fit:
    """One logistic regression on features of a spread of one."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, seen: Tensor) -> Tensor:
        """Probability [N] that a picture with features [N, D] is a winner."""
        return torch.sigmoid((seen - self.mean) / self.deviation @ self.weight + self.bias)


@torch.inference_mode(False)
@torch.enable_grad()
def fitted(seen: Tensor, is_winner: Tensor) -> Fit:
    """On features [N, D]; `is_winner` [N] bool. A host's nodes run in inference mode, where nothing can be fitted."""
    mean, deviation = seen.mean(0), seen.std(0).clamp(min=1e-6)
    x, wanted = (seen - mean) / deviation, is_winner.float()
    weight, bias = (torch.zeros(size, requires_grad=True) for size in (x.shape[1], ()))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ weight + bias, wanted)
        loss = loss + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Fit(mean, deviation, weight.detach(), bias.detach())


@dataclass(frozen=True)
class Taste:
    """Tells how winner-like pictures are; `accuracy` says how sure it is."""

    fits: tuple[Fit, ...]
    accuracy: float
    """share of winners and of the base's pictures that are told rightly by a fit that did not see them"""
    winners: Tensor
    """[N, D], features, as of the base's pictures"""
    base: Tensor
    winner_scores: tuple[float, ...]
    """of each winner, by the fit that did not see it; as of the base's pictures"""
    base_scores: tuple[float, ...]

    @property
    def is_certain(self) -> bool:
        return self.accuracy >= CERTAIN

    def score(self, seen: Tensor) -> Tensor:
        """How winner-like [N] pictures with features [N, D] are, from 0 to 1: the mean of the folds' probabilities."""
        return torch.stack([fit(seen) for fit in self.fits]).mean(0)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines [N, M] of features [N, D] and [M, D], around the mean and in the spread of winners and base."""
        known = torch.cat([self.winners, self.base])
        mean, deviation = known.mean(0), known.std(0).clamp(min=1e-6)
        a, b = (F.normalize((one - mean) / deviation, dim=1) for one in (a, b))
        return a @ b.T


def require_captions(captions: Sequence[str]) -> list[str]:
    """Those that differ; DatasetError if they are fewer than folds need."""
    different = list(dict.fromkeys(captions))
    if len(different) < LEAST_CAPTIONS:
        raise DatasetError(
            f"the winners have {len(different)} different captions; a taste is learned from {LEAST_CAPTIONS} or more"
        )
    return different


def learn(winners: Tensor, base: Tensor, captions: Sequence[str]) -> Taste:
    """From features [N, D] of winners and of the base's pictures of the same captions, in the same order.

    DatasetError for fewer captions than folds need.
    """
    different = require_captions(captions)
    order = torch.randperm(len(different), generator=generator("taste", "folds")).tolist()
    fold_of = {different[place]: number % FOLDS for number, place in enumerate(order)}
    folds = torch.tensor([fold_of[caption] for caption in captions]).repeat(2)
    seen = torch.cat([winners, base])
    is_winner = torch.arange(len(seen)) < len(winners)
    fits, scores = [], torch.zeros(len(seen))
    for fold in range(FOLDS):
        inside = folds != fold
        fits.append(fitted(seen[inside], is_winner[inside]))
        scores[~inside] = fits[-1](seen[~inside])
    accuracy = ((scores > 0.5) == is_winner).float().mean().item()
    of_winners, of_base = scores.split([len(winners), len(base)])
    return Taste(
        tuple(fits), accuracy, winners, base, tuple(of_winners.tolist()), tuple(of_base.tolist())
    )


@dataclass(frozen=True)
class Judgement:
    """What the taste says of pictures."""

    taste: Taste
    scores: tuple[float, ...]
    """how winner-like each picture is, from 0 to 1"""
    kept: float | None
    """similarity to the base's pictures of the same prompts and seeds, from -1 to 1; None where there are none"""
    nearest: float
    """mean similarity of a picture to the winner most like it"""
    nearest_of_winners: float
    """the same of a winner to another winner"""
    copies: int
    """pictures more like one winner than any two winners of different captions are"""
    diversity: float
    """mean distance of two pictures, divided by that of two pictures of the base; below 1 they are more alike"""


def judge(
    taste: Taste, seen: Tensor, captions: Sequence[str], before: Tensor | None = None
) -> Judgement:
    """Of pictures with features [N, D]; `before` [N, D]: the base's of the same prompts and seeds.

    `captions` are those of the winners, among which copies of one caption do not count as alike.
    """
    among = taste.similarity(taste.winners, taste.winners)
    same = torch.tensor([[a == b for b in captions] for a in captions])
    among = among.masked_fill(same, -1.0)
    nearest = taste.similarity(seen, taste.winners).amax(1)
    kept = None
    if before is not None:
        kept = taste.similarity(seen, before).diagonal().mean().item()
    return Judgement(
        taste,
        tuple(taste.score(seen).tolist()),
        kept,
        nearest.mean().item(),
        among.amax(1).mean().item(),
        int((nearest > among.max()).sum()),
        _spread(taste, seen) / _spread(taste, taste.base),
    )


def _spread(taste: Taste, seen: Tensor) -> float:
    """Mean distance (1 - cosine) of two different pictures; NaN of one."""
    count = len(seen)
    if count < 2:
        return math.nan
    distances = 1 - taste.similarity(seen, seen)
    return distances.sum().item() / (count * (count - 1))


def report(found: Judgement) -> str:
    """In words, the answer first."""
    taste = found.taste
    if not taste.is_certain:
        return (
            f"Cannot tell your winners from what the base draws: {taste.accuracy:.0%} right on pictures not learned from, "
            f"{CERTAIN:.0%} are needed. Give more winners, or such as have more in common."
        )
    lines = [
        f"taste {told(found.scores)}, from 0 (as the base draws) to 1 (as your winners are)",
        f"the same of winners {told(taste.winner_scores)}, of the base {told(taste.base_scores)}",
        f"sure: {taste.accuracy:.0%} of pictures not learned from were told rightly",
    ]
    if found.kept is not None:
        lines.append(
            f"stayed itself: similarity {found.kept:.2f} to the base's pictures, 1 is the same"
        )
    copied = "none is a copy" if not found.copies else f"{found.copies} look copied"
    lines += [
        f"not copied: {copied}; nearest winner {found.nearest:.2f}, among winners {found.nearest_of_winners:.2f}",
        f"diversity: {found.diversity:.2f} of the base's",
    ]
    return "\n".join(lines)


def told(scores: Sequence[float]) -> str:
    found = mean_with_interval(scores)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
