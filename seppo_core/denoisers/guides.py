"""Drawing away from weaker weights of the same network: the base, or a snapshot of the pool.

With p the prediction of the policy and q that of the weaker weights, for a caption c and the negative n:

    as usual            p(n) + g (p(c) - p(n))
    as the negative     q(n) + g (p(c) - q(n))                     as many forwards where g is not 1
    extrapolated        q(n) + g (q(c) + s (p(c) - q(c)) - q(n))   one forward more

Sources: autoguidance (arXiv 2406.02507), personalisation guidance (2508.00319), Self-NPO (2505.11777).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapters.lora import LoRA, Slot

DRAWN_TOWARDS = ("positive", "middle")
"""What ComfyUI's guiders call the conditionings that the policy predicts; the weaker weights predict the others."""


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


class HostGuide:
    """A `Guide` inside ComfyUI's sampling of one network, by the wrappers that its MODEL takes."""

    def __init__(self, lora: LoRA, guide: Guide) -> None:
        self.lora, self.guide = lora, guide
        self.guider: Any = None
        """the host's guider, while it samples"""

    def wrap(self, patcher: Any) -> None:
        patcher.add_wrapper_with_key("outer_sample", "seppo_guide", self.sample)
        patcher.add_wrapper_with_key("calc_cond_batch", "seppo_guide", self.predict)

    def unwrap(self, patcher: Any) -> None:
        for kind in ("outer_sample", "calc_cond_batch"):
            patcher.remove_wrappers_with_key(kind, "seppo_guide")

    def sample(self, executor: Any, *arguments: Any, **settings: Any) -> Tensor:
        before, self.guider = self.guider, executor.class_obj
        try:
            return executor(*arguments, **settings)
        finally:
            self.guider = before

    def predict(
        self, executor: Any, model: Any, conds: Sequence[Any], *arguments: Any
    ) -> list[Tensor]:
        """One prediction for each of `conds`, in two calls of the network, as the host makes them."""
        away = self._drawn_away_from()
        weak = [bool(cond) and all(entry.get("uuid") in away for entry in cond) for cond in conds]
        toward = [None if is_weak else cond for cond, is_weak in zip(conds, weak, strict=True)]
        stretch = self.guide.extrapolation
        weaker = [
            cond if is_weak or stretch != 1.0 else None
            for cond, is_weak in zip(conds, weak, strict=True)
        ]
        found = others = None
        if any(toward):
            found = executor(model, toward, *arguments)
        if any(weaker):
            with self.lora.using(self.guide.slot):
                others = executor(model, weaker, *arguments)
        if found is None or others is None:
            return others if found is None else found
        return [
            other if is_weak else (one if stretch == 1.0 else other + stretch * (one - other))
            for one, other, is_weak in zip(found, others, weak, strict=True)
        ]

    def _drawn_away_from(self) -> set[Any]:
        """The host's marks of conditionings; context windows copy the entries and keep the marks."""
        groups = self.guider.conds if self.guider is not None else {}
        return {
            entry.get("uuid")
            for name, entries in groups.items()
            if name not in DRAWN_TOWARDS
            for entry in entries
        }


@contextmanager
def guiding(patcher: Any, lora: LoRA | None, guide: Guide | None) -> Iterator[None]:
    """What ComfyUI samples with `patcher` in the block is guided so; the LoRA is attached already."""
    if guide is None:
        yield
        return
    wrappers = HostGuide(lora, guide)
    wrappers.wrap(patcher)
    try:
        yield
    finally:
        wrappers.unwrap(patcher)
