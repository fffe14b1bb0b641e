"""Drawing with an aligned model away from the model as it was, in one loaded network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..seppo_core.adapters.lora import LoRA, Slot, check_fit
from ..seppo_core.denoisers import autograd
from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.denoisers.guides import Guide, HostGuide
from ..seppo_core.denoisers.patcher import uncompiled as uncompiled_clone
from ..seppo_core.runs.run import Run
from ..seppo_core.settings import Section, inputs, setting
from ..seppo_core.training.config import config_of
from . import host, sockets
from .save import NEWEST, chosen_weights
from .widgets import widgets

BASE = -1


@dataclass(frozen=True)
class Guiding(Section):
    """How strongly the aligned model draws, and away from what."""

    strength: float = setting(
        1.0,
        "How much of what was learned is drawn with, as in Load LoRA. 1 is what was trained.",
        least=0,
        most=10,
        step=0.05,
    )
    away_from: int = setting(
        BASE,
        "The weaker model that the pictures move away from. -1: the base. The step of a snapshot in the run's "
        "pool: the model as it was then.",
        least=BASE,
        most_shown=10_000_000,
    )
    extrapolation: float = setting(
        1.0,
        "1: the weaker model draws the negative prompt, which costs nothing; cfg must be above 1. Above 1: the "
        "prompt, too, is drawn so many times as far away from it; half as slow again.",
        least=1,
        most=10,
        step=0.05,
    )


class SePPOGuide(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOGuide",
            display_name="SePPO Guide",
            category=sockets.CATEGORY,
            description="Draws with a run's aligned model away from the model as it was: the base draws the "
            "negative prompt, so that guidance stresses what was learned. Connect its model to the sampler instead of "
            "that of SePPO Train.",
            search_aliases=["autoguidance", "self guidance", "negative model", "cfg"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model, as it went into SePPO Train (not the aligned one).",
                ),
                sockets.Run.Input(
                    "run",
                    tooltip="The run whose aligned weights to draw with, from SePPO Train or SePPO Load Run.",
                ),
                *widgets(inputs(Guiding)),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The guided model, for a KSampler.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, run: Run, **widgets: Any) -> io.NodeOutput:
        settings = Guiding(**widgets)
        run.require_base(ComfyDenoiser(model).base_fingerprint())
        steps = [NEWEST] if settings.away_from == BASE else [NEWEST, settings.away_from]
        policy, *weaker = (chosen_weights(run, step)[1] for step in steps)
        guided = uncompiled_clone(model)
        network = guided.model.diffusion_model
        lora = LoRA(network, config_of(run.about()).lora, 0, torch.device("cpu"))
        GuideByRun(network, lora, policy, weaker, settings).wrap(guided)
        return io.NodeOutput(guided)


class GuideByRun(HostGuide):
    """Brings a run's weights along: they lie beside the network's layers while the host samples, and not after."""

    def __init__(
        self,
        network: torch.nn.Module,
        lora: LoRA,
        policy: Mapping[str, Tensor],
        weaker: Sequence[Mapping[str, Tensor]],
        settings: Guiding,
    ) -> None:
        super().__init__(lora, Guide(extrapolation=settings.extrapolation))
        for weights in (policy, *weaker):
            check_fit(weights, lora.paths)
        self.network = network
        self.policy = lora.slot(policy).scaled(settings.strength)
        self.weaker = [lora.slot(weights) for weights in weaker]

    def sample(self, executor: Any, *arguments: Any, **settings: Any) -> Tensor:
        """New slots each time: what a slot brings to the device goes with it."""
        lora, base = self.lora, self.guide
        lora.policy = Slot(self.policy.items())
        self.guide = replace(base, slot=Slot(self.weaker[0].items()) if self.weaker else None)
        try:
            with autograd.uncompiled(self.network), lora.attached():
                return super().sample(executor, *arguments, **settings)
        finally:
            lora.policy, self.guide = self.policy, base


NODES = [SePPOGuide]
