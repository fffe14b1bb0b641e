"""What only this benchmark does to a run: gates that know the noise level, the sample or the judges' verdict, and a moving beta.

Upper bounds and ideas; what pays moves to seppo_core.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from demo import judges, pictures
from seppo_core import gradients
from seppo_core.data import EncodedDataset
from seppo_core.denoisers.diffusers import DiffusersDenoiser
from seppo_core.loss import CRITERIA, DenoisingErrors, LossTerms, seppo_loss
from seppo_core.randomness import normal

from .measure import Panel
from .modes import WINNERS_PER_STEP

NEIGHBOURS = 3
SEEN = 10
"""windows whose samples are remembered"""
LEVEL_SHARE, BINS, FORGET = 0.3, 8, 0.9
LOGIT = 1.0
"""what the moving beta makes of the usual margin"""


class Gate:
    """Watches a policy train; called as a criterion."""

    def __init__(self, policy: DiffusersDenoiser, dataset: EncodedDataset, panel: Panel) -> None:
        self.policy, self.dataset, self.panel = policy, dataset, panel

    def saw_samples(self, conds: Sequence[Any], samples: Tensor) -> None:
        """A window's samples were drawn."""

    def saw_levels(self, uniform: Tensor) -> None:
        """Noise levels were drawn, as a share."""

    def __call__(self, anchor: Tensor, loser_weight: float) -> Tensor:
        raise NotImplementedError


class Judge(Gate):
    """A sample that the judges of the results see in the winners' style is left out, every other one pushed away.

    No criterion can know the style of a sample better: what this does not gain, no look at the sample gains.
    """

    def saw_samples(self, conds: Sequence[Any], samples: Tensor) -> None:
        pixels = pictures.decode(samples)
        jury = self.panel.judges
        self.is_other = jury.style(jury.features(pixels), judges.is_blank(pixels)) < 0.5

    def __call__(self, anchor: Tensor, loser_weight: float) -> Tensor:
        return self.is_other.to(anchor) * loser_weight


class Nearest(Gate):
    """A sample nearer to winners than to other samples is left out, by mean and spread of what the base makes of them."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seen: deque[Tensor] = deque(maxlen=SEEN)
        self.winners: Tensor | None = None

    def saw_samples(self, conds: Sequence[Any], samples: Tensor) -> None:
        with self.policy.lora.using(None):
            if self.winners is None:
                examples = [self.dataset[i] for i in range(len(self.dataset))]
                latents = self.policy.scale_latents(torch.stack([e.latents for e in examples]))
                self.winners = self._features(latents, [e.cond for e in examples])
            found = self._features(samples, conds)
        mean, spread = self.winners.mean(0), self.winners.std(0).clamp(min=1e-3)
        here, winners = (found - mean) / spread, (self.winners - mean) / spread
        self.seen.append(here)
        to_samples = torch.cdist(here, torch.cat([*self.seen]))
        to_samples[to_samples < 1e-3] = torch.inf  # itself
        self.is_far = _near(torch.cdist(here, winners)) > _near(to_samples)

    @torch.no_grad()
    def _features(self, latents: Tensor, conds: Sequence[Any]) -> Tensor:
        kept: list[Tensor] = []
        hook = self.policy.network.up_blocks[1].register_forward_hook(
            lambda module, args, output: kept.append(output.flatten(2))
        )
        shape = tuple(latents.shape[1:])
        levels = self.policy.levels(torch.full((len(latents),), LEVEL_SHARE))
        noise = normal(shape, 0, "gate").expand_as(latents)
        self.policy.errors(latents, noise, levels, self.policy.prepare(conds, shape))
        hook.remove()
        return torch.cat([kept[0].mean(2), kept[0].std(2)], dim=1)

    def __call__(self, anchor: Tensor, loser_weight: float) -> Tensor:
        return self.is_far.to(anchor) * loser_weight


def _near(distances: Tensor) -> Tensor:
    return distances.topk(NEIGHBOURS, largest=False).values.mean(1)


class Level(Gate):
    """The indicator, asking whether the policy is further ahead on the winner than it lately was at that noise level."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.usual = torch.zeros(BINS)

    def saw_levels(self, uniform: Tensor) -> None:
        self.bins = (uniform * BINS).long()

    def __call__(self, anchor: Tensor, loser_weight: float) -> Tensor:
        bins = self.bins[: len(anchor)]
        role = (anchor > self.usual[bins]).to(anchor.dtype)
        for at, value in zip(bins.tolist(), anchor, strict=True):
            self.usual[at] = FORGET * self.usual[at] + (1 - FORGET) * value
        return role


GATES: dict[str, type[Gate]] = {"judge": Judge, "nearest": Nearest, "level": Level}
MOVING_BETA = "moving beta"


class MovingBeta:
    """The loss with the beta under which the usual difference of margins makes a logit of LOGIT."""

    def __init__(self) -> None:
        self.usual = 0.0

    def __call__(
        self, policy: DenoisingErrors, reference: DenoisingErrors, *, beta: float, **given: Any
    ) -> LossTerms:
        if self.usual:
            beta = 2 * LOGIT / self.usual
        terms = seppo_loss(policy, reference, beta=beta, **given)
        here = 2 / beta * terms.logits.detach().abs().mean().item()
        self.usual = FORGET * self.usual + (1 - FORGET) * here if self.usual else here
        return terms


@contextmanager
def installed(
    name: str, policy: DiffusersDenoiser, dataset: EncodedDataset, panel: Panel
) -> Iterator[None]:
    """Inside, gate `name` is an anchor criterion, or beta moves; for an empty name nothing changes."""
    if name == MOVING_BETA:
        gradients.seppo_loss = MovingBeta()
        try:
            yield
        finally:
            gradients.seppo_loss = seppo_loss
        return
    if not name:
        yield
        return
    gate = GATES[name](policy, dataset, panel)

    def saw(given: tuple, found: Tensor) -> None:
        if len(given[0]) == WINNERS_PER_STEP:  # else the run is being looked at
            gate.saw_samples(given[0], found)

    policy.sample = _followed(policy.sample, saw)
    policy.levels = _followed(policy.levels, lambda given, found: gate.saw_levels(given[0]))
    CRITERIA[name] = gate
    try:
        yield
    finally:
        del CRITERIA[name], policy.sample, policy.levels


def _followed(call: Callable, then: Callable) -> Callable:
    def both(*given: Any) -> Any:
        found = call(*given)
        then(given, found)
        return found

    return both
