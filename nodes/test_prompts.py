"""Prompts that are drawn now and then while a model trains, from the same noise each time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io

from ..seppo_core.data.captions import encodable
from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.denoisers.guides import Guide
from ..seppo_core.errors import ConfigError
from ..seppo_core.method.references import ReferenceConfig
from ..seppo_core.randomness import normal
from ..seppo_core.runs.report import StepReport
from ..seppo_core.settings import Section, inputs, setting
from . import host, queued, sockets
from .recorder import Recorder
from .widgets import widgets

MOST_PROMPTS = 16


@dataclass(frozen=True)
class TestPrompts:
    """What to draw, how and how often. Prompt i has noise from (seed, i) at every step and in every run."""

    prompts: Sequence[str]
    conds: Sequence[Any]
    """CONDITIONING of each prompt"""
    shape: tuple[int, ...]
    """of one latent, as it came"""
    ratios: Mapping[str, int]
    """pixels to a latent's cell, by the names that the host has for them, where its empty latents tell"""
    every: int
    seed: int
    sampling: ReferenceConfig
    guide: Guide | None = None

    def fitted(self, model: Any, policy: ComfyDenoiser) -> "TestPrompts":
        """With latents of as many channels as `model` takes; ConfigError if guidance lacks its negative."""
        guidance, has_negative = self.sampling.guidance_scale, policy.negative is not None
        require_negative("SePPO Test Prompts", guidance, has_negative)
        fit = comfy.sample.fix_empty_latent_channels
        empty = fit(model, torch.zeros(1, *self.shape), **host.known_only(fit, self.ratios))
        return replace(self, shape=tuple(empty.shape[1:]))

    def draw(self, policy: ComfyDenoiser, report: StepReport, recorder: Recorder) -> None:
        """Draw if it is time; with a run's first step the base, too, as step 0. Inside a session."""
        if report.step == 1:
            with policy.lora.using(None):
                self._draw(policy, 0, recorder)
        if report.step % self.every == 0 or report.step == report.steps:
            with policy.lora.evaluation():
                self._draw(policy, report.step, recorder)

    @torch.no_grad()
    def _draw(self, policy: ComfyDenoiser, step: int, recorder: Recorder) -> None:
        for number, (prompt, cond) in enumerate(zip(self.prompts, self.conds, strict=True)):
            noise = normal(self.shape, self.seed, "test", number)[None]
            seed, guide = self.seed + number, self.guide if step else None
            latents = policy.sample([cond], noise, self.sampling, seed, guide)
            if (picture := policy.latent_preview(latents)) is not None:
                recorder.test(step, number, prompt, picture)
        recorder.flush()


@dataclass(frozen=True)
class Drawing(Section):
    """The node's settings."""

    prompts: str = setting(
        "",
        f"One prompt a line, up to {MOST_PROMPTS}. Take some that the winners do not show.",
        multiline=True,
    )
    every: int = setting(
        25,
        "Optimizer steps between drawings. The first one is of the base.",
        least=1,
        most_shown=1_000_000,
    )
    seed: int = setting(
        0, "The same seed draws from the same noise.", least=0, most=2**63 - 1 - MOST_PROMPTS
    )
    sampling_steps: int = setting(20, "Steps of the sampler for each drawing.", least=1, most=1000)
    guidance: float = setting(
        ReferenceConfig.guidance_scale,
        "CFG. Above 1 it needs the negative prompt of SePPO Train and takes twice as long.",
        least=0,
        most=100,
        step=0.1,
    )
    sampler: str = setting(ReferenceConfig.sampler, "The sampler to draw with, as in the KSampler.")
    scheduler: str = setting(
        ReferenceConfig.scheduler, "The spacing of the sampler's steps, as in the KSampler."
    )
    away_from_base: bool = setting(
        False,
        "Draw as SePPO Guide does: the base draws the negative prompt, so that guidance stresses what was learned. "
        "Needs a guidance above 1.",
        optional=True,
    )


class SePPOTestPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOTestPrompts",
            display_name="SePPO Test Prompts",
            category=sockets.CATEGORY,
            description="Prompts that SePPO Train draws now and then, from the same noise each time, so that "
            "the panel shows how the model changes.",
            search_aliases=["samples while training", "preview prompts", "validation"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder, for the prompts."),
                io.Latent.Input("latent", tooltip="The size to draw, from an Empty Latent node."),
                *widgets(inputs(Drawing)),
            ],
            outputs=[
                sockets.Tests.Output(
                    display_name="tests", tooltip="For the input of that name on SePPO Train."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, prompts: str | None = None) -> bool | str:
        if prompts is None:  # linked: known only when the graph runs
            return True
        return queued.checked(cls, lambda: prompts_in(prompts))

    @classmethod
    def execute(
        cls,
        clip: Any,
        latent: dict[str, Any],
        **widgets: Any,
    ) -> io.NodeOutput:
        settings = Drawing(**widgets)
        lines = prompts_in(settings.prompts)
        sampling = ReferenceConfig(
            sampler=settings.sampler,
            scheduler=settings.scheduler,
            sampling_steps=settings.sampling_steps,
            guidance_scale=settings.guidance,
        )
        conds = [clip.encode_from_tokens_scheduled(clip.tokenize(line)) for line in lines]
        guide = Guide() if settings.away_from_base else None
        shape = tuple(latent["samples"].shape[1:])
        ratios = {
            name: value for name, value in latent.items() if name.startswith("downscale_ratio")
        }
        return io.NodeOutput(
            TestPrompts(lines, conds, shape, ratios, settings.every, settings.seed, sampling, guide)
        )


def prompts_in(text: str) -> list[str]:
    lines = [encodable(line.strip()) for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= MOST_PROMPTS:
        raise ConfigError(
            f"prompts: {len(lines)} lines with text; write 1 to {MOST_PROMPTS} prompts, one a line"
        )
    return lines


def require_negative(node: str, guidance: Any, has_negative: bool) -> None:
    """ConfigError if the guidance of a node lacks its negative; what is no number is not known yet."""
    if isinstance(guidance, int | float) and guidance != 1.0 and not has_negative:
        raise ConfigError(
            f"{node} has guidance {guidance:g}, which needs a negative prompt: connect `negative` of SePPO "
            "Train, or set guidance to 1"
        )


NODES = [SePPOTestPrompts]
