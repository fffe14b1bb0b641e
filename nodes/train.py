"""Training: SePPOTrain adapts the graph's MODEL to the core's loop."""

import logging
from contextlib import closing
from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.errors import ConfigError
from ..seppo_core.files import load_tensors
from ..seppo_core.method.objectives import CHANGES
from ..seppo_core.runs.report import StepReport
from ..seppo_core.runs.run import Run
from ..seppo_core.settings import choice, from_dict
from ..seppo_core.training.config import PRESETS, RunConfig, SePPOConfig, apply_preset
from ..seppo_core.training.continuation import check_writable, choose_directory, stays_stopped
from ..seppo_core.training.trainer import run_description, train
from . import host, queued, sockets, user_settings
from .recorder import Recorder
from .settings import TRAIN
from .test_prompts import TestPrompts, require_negative
from .widgets import sections, widgets
from .workflow import field, panel_of

log = logging.getLogger(__name__)

DEEPEST = 20
"""Nodes between a dataset and its winners that are looked through: links may run in a circle."""

WITHOUT_SAMPLES = [
    name
    for name in PRESETS
    if not from_dict(SePPOConfig, apply_preset(name, {})).loss.draws_samples
]
"""Presets that draw nothing but previews."""


class SePPOTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOTrain",
            display_name="SePPO Train",
            category=sockets.CATEGORY,
            description="Aligns the model to winning images: a LoRA is trained to make more of what they "
            "show, held in place by earlier checkpoints of the model itself.",
            search_aliases=["preference", "alignment", "dpo", "spin", "train lora", "fine-tune"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to align. It stays as it is; the aligned one comes out.",
                ),
                sockets.Dataset.Input(
                    "dataset",
                    tooltip="The encoded winning images, from SePPO Encode Winners.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="indicator",
                    tooltip="seppo: the paper's method. indicator: the same, but a sample that seppo learns from is "
                    "left out; on small drawings it made more of the winners' style in two of three comparisons, and "
                    "as much in the third. spin: every sample of the latest checkpoint loses. "
                    "sft: plain fine-tuning on the winners. guided: fine-tuning that aims beyond them, away from the model as it was, as "
                    "far as `change` says; draws no samples. dpo: needs a losing image for every winner. "
                    "custom: the criterion below and the selection of the reference settings.",
                ),
                *widgets(TRAIN),
                io.String.Input(
                    "run_name",
                    default="my_run",
                    tooltip="The run is kept in output/seppo, or in the folder that the settings name, under this "
                    "name. The same settings again continue it, a run that you stopped only after Continue on the panel or "
                    "with more steps; other settings start a numbered one beside it.",
                ),
                sockets.References.Input(
                    "references",
                    optional=True,
                    tooltip="From SePPO Reference Settings; without it the defaults hold.",
                ),
                sockets.Optimizer.Input(
                    "optimizer",
                    optional=True,
                    tooltip="From SePPO Optimizer Settings; without it the defaults hold.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative prompt for drawing reference samples with a guidance above 1.",
                ),
                sockets.Run.Input(
                    "run",
                    optional=True,
                    tooltip="Start from the aligned weights of this run instead of from the model itself.",
                ),
                sockets.Tests.Input(
                    "tests",
                    optional=True,
                    tooltip="Prompts to draw now and then while training, from SePPO Test Prompts.",
                ),
                io.Combo.Input(
                    "change",
                    options=list(CHANGES),
                    default="medium",
                    optional=True,
                    tooltip="How far preset 'guided' goes beyond the winners. More makes more of what they share, and keeps "
                    "less of the rest. The other presets do not read this.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The aligned model, for a KSampler."),
                sockets.LoraModel.Output(
                    display_name="lora",
                    tooltip="What was learned, for ComfyUI's Save LoRA or Load LoRA Model.",
                ),
                sockets.LossMap.Output(
                    display_name="loss",
                    tooltip="The loss of every step, for ComfyUI's Plot Loss Graph.",
                ),
                sockets.Run.Output(
                    display_name="trained_run",
                    tooltip="The run on disk, for SePPO Save Aligned, Curves or Anchor Preview.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None = None) -> bool | str:
        def check() -> None:
            has_negative = "negative" in queued.inputs()
            check_writable(host.runs_root() if run_name is None else host.run_directory(run_name))
            guidance = queued.linked("tests").get("guidance")
            require_negative("SePPO Test Prompts", guidance, has_negative)
            if queued.inputs().get("preset") not in WITHOUT_SAMPLES or has_previews():
                guidance = queued.linked("references").get("guidance_scale")
                require_negative("SePPO Reference Settings", guidance, has_negative)
            if queued.inputs().get("preset") == "dpo" and not may_have_pairs():
                raise ConfigError(
                    "preset dpo needs a losing image for every winner: give the losing images, too, or "
                    "choose another preset"
                )

        return queued.checked(cls, check)

    @classmethod
    def fingerprint_inputs(cls, run_name: str | None, **others: Any) -> str:
        """Changes when a stopped run is asked to go on, so that the host does not answer with what it has.

        A linked name is not known here: then that of any run counts.
        """
        return host.continued(run_name)

    @classmethod
    def execute(
        cls,
        model: Any,
        dataset: Any,
        run_name: str,
        negative: Any = None,
        run: Run | None = None,
        tests: TestPrompts | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        host.run_directory(
            run_name
        )  # a name that cannot be used is refused before anything is computed
        initial = run.weights_path() if run else None
        with host.models_leave_if_short(), host.gradients_allowed():
            config = configuration(
                **with_user_settings(widgets), initial_weights=str(initial or "")
            )
            policy = ComfyDenoiser(model, negative=negative)
            about = run_description(policy, dataset, config)
            if run:
                run.require_base(about["base"])
            trained = choose_run(run_name, about)
            config = replace(config, run=replace(config.run, directory=str(trained.directory)))
            if tests is not None:
                tests = tests.fitted(model, policy)
            node_id = cls.hidden.unique_id
            panel = panel_of(field(cls.hidden.extra_pnginfo, "workflow"), node_id)
            with Recorder(trained, dataset, panel, config.steps, node_id) as recorder:
                if not stays_stopped(trained, config.steps):
                    progress = Progress(policy, config.steps, node_id, has_panel=bool(panel))
                    with closing(train(policy, dataset, config)) as reports:
                        for report in reports:
                            picture = progress.show(report)
                            recorder.step(report, picture)
                            if tests is not None and not report.undone:
                                tests.draw(policy, report, recorder)
        lora = comfy_state_dict(trained)
        aligned = host.with_lora(model, lora)
        losses = (line["loss"] for line in trained.metrics())
        loss = {"loss": [value for value in losses if value is not None]}
        text = f"{trained.name}: {trained.status().text}"
        log.info("%s", text)
        return io.NodeOutput(aligned, lora, loss, trained, ui=ui.PreviewText(text))


def may_have_pairs() -> bool:
    """Whether the dataset of a queued graph may have losing images; of files and other people's nodes nothing is known."""
    way = ["dataset"]
    source, given = queued.behind(*way)
    while source in ("SePPOEncodeWinners", "SePPOEditCaptions") and len(way) < DEEPEST:
        way.append("winners")
        source, given = queued.behind(*way)
    needed = {
        "SePPODatasetFromLatents": "losing_latents",
        "SePPOWinnersFromImages": "losing_images",
        "SePPOWinnersFromVideos": "losing_images",  # which it does not take
    }
    return needed.get(source, "") in ("", *given)


def has_previews() -> bool:
    """Whether a queued graph draws some while it trains, as far as is known."""
    if "optimizer" in queued.inputs():
        every = queued.linked("optimizer").get("preview_every")
    else:
        every = user_settings.chosen(user_settings.PREVIEW_EVERY, RunConfig.preview_every)
    return isinstance(every, int) and every > 0


def choose_run(name: str, about: dict[str, Any]) -> Run:
    """The very run that is described, in whatever folder it lies; else a new one where new ones do."""
    found = []
    for root in host.runs_roots(name):
        directory = host.confined_name(root, name)
        found.append(Run(choose_directory(directory.parent, directory.name, about)))
    return next((run for run in found if run.exists()), found[0])


def with_user_settings(widgets: dict[str, Any]) -> dict[str, Any]:
    """The widgets' values; where no optimizer settings are connected, with the user's own preview interval."""
    if widgets.get("optimizer") is not None:
        return widgets
    every = user_settings.chosen(user_settings.PREVIEW_EVERY, RunConfig.preview_every)
    return {**widgets, "optimizer": {"run": {"preview_every": every}}}


def configuration(
    preset: str,
    initial_weights: str,
    references: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    change: str = "medium",
    **widgets: Any,
) -> SePPOConfig:
    """The frozen configuration of SePPOTrain's widgets and of the settings connected to it."""
    given = {**(optimizer or {}), "references": references or {}}
    choice("change", change, CHANGES)
    own = {**sections(TRAIN, widgets), "run": {"initial_weights": initial_weights}}
    if preset == "guided":  # a run with another preset is the same run whatever `change` says
        own["loss"] = {**own.get("loss", {}), "guidance": CHANGES[change]}
    for name, values in own.items():
        given[name] = {**given.get(name, {}), **values} if isinstance(values, dict) else values
    from_dict(SePPOConfig, given)  # also what a preset replaces: 0.3.64 checks no combo
    return from_dict(SePPOConfig, apply_preset(preset, given))


def comfy_state_dict(run: Run) -> dict[str, Tensor]:
    """The run's LoRA in the keys that the host loads and its Save LoRA node writes; not mapped from disk."""
    return load_tensors(run.weights_path())[0]


class Progress:
    """The node's bar, its line of text, and its preview picture where no panel of ours shows it."""

    def __init__(
        self, policy: ComfyDenoiser, steps: int, node_id: str, has_panel: bool = False
    ) -> None:
        self.has_panel = has_panel
        self.policy = policy
        self.node_id = node_id
        self.bar = host.progress(steps)
        self.seconds: list[float] = []

    def show(self, report: StepReport) -> Image.Image | None:
        """Tell the node; returns the preview as a picture if there is one."""
        picture = None
        if report.preview is not None:
            picture = self.policy.latent_preview(report.preview)
        shown = None if self.has_panel else picture
        self.bar.update_absolute(report.step, report.steps, host.preview_message(shown))
        self.seconds = [*self.seconds[-19:], report.seconds]
        pace = sum(self.seconds) / len(self.seconds)
        left = pace * (report.steps - report.step)
        loss = "not finite" if report.loss is None else f"{report.loss:.4f}"
        text = f"step {report.step}/{report.steps}  loss {loss}"
        if report.winner_margin is not None:
            text += f"  winner margin {report.winner_margin:+.2e}"
        if report.flip_rate is not None:
            text += f"  flips {report.flip_rate:.0%}"
        text += f"  {pace:.2f} s/step, {left / 60:.0f} min left"
        host.progress_text(f"{text}\n{report.alarm}".strip(), self.node_id)
        return picture


NODES = [SePPOTrain]
