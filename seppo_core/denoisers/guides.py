"""Drawing away from weaker weights of the same network: the base, or a snapshot of the pool.

With p the prediction of the policy and q that of the weaker weights, for a caption c and the negative n:

    as usual            p(n) + g (p(c) - p(n))
    as the negative     q(n) + g (p(c) - q(n))                     as many forwards where g is not 1
    extrapolated        q(n) + g (q(c) + s (p(c) - q(c)) - q(n))   one forward more

Sources: autoguidance (arXiv 2406.02507), personalisation guidance (2508.00319), Self-NPO (2505.11777).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters.lora import Slot


@dataclass(frozen=True)
class Guide:
    """The weaker weights, and what they are used for."""

    slot: Slot | None = None
    """of the policy's LoRA; None: the bare base"""
    extrapolation: float = 1.0
    """s; at 1 the weights stand for the negative alone"""


def guided(
    predict: Callable[[dict[str, Tensor]], Tensor],
    positive: dict[str, Tensor],
    negative: dict[str, Tensor] | None,
    scale: float,
    guide: Guide | None,
    using: Callable[[Slot | None], AbstractContextManager[None]] | None,
) -> Tensor:
    """The guided prediction; `negative` is None where the guidance `scale` is 1.

    `predict` runs the active weights on a batch of conditionings, `using` makes others active. Without a guide both
    go through the network at once.
    """
    if guide is None and negative is not None:
        away, found = predict(
            {key: torch.cat([negative[key], positive[key]]) for key in positive}
        ).chunk(2)
        return away + scale * (found - away)
    found = predict(positive)
    if guide is None:
        return found
    with using(guide.slot):
        if guide.extrapolation != 1.0:
            weaker = predict(positive)
            found = weaker + guide.extrapolation * (found - weaker)
        if negative is None:
            return found
        away = predict(negative)
    return away + scale * (found - away)
