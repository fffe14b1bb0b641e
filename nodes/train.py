"""Training: the settings nodes and SePPOTrain, which adapts the graph's MODEL to the core's loop."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import comfy.samplers
import comfy.sd
import comfy.utils
from comfy_api.latest import io

from ..seppo_core.checkpoint import Run, choose_directory
from ..seppo_core.config import (
    PRECISIONS,
    PRESETS,
    SCHEDULES,
    LoRAConfig,
    LossConfig,
    OptimizerConfig,
    ReferenceConfig,
    RunConfig,
    SePPOConfig,
    apply_preset,
    from_dict,
)
from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.errors import CheckpointError, ConfigError
from ..seppo_core.lora import MODULES
from ..seppo_core.loss import CRITERIA
from ..seppo_core.optim import OPTIMIZERS
from ..seppo_core.references import SELECTIONS
from ..seppo_core.trainer import StepReport, run_description, train
from . import host, sockets


class SePPOReferenceSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        default = ReferenceConfig()
        return host.schema(
            node_id="SePPOReferenceSettings",
            display_name="SePPO Reference Settings",
            category=sockets.CATEGORY,
            description="How earlier checkpoints of the model are kept and draw reference samples.",
            search_aliases=["preference", "snapshot", "reference model", "self-play"],
            inputs=[
                io.Combo.Input(
                    "selection",
                    options=list(SELECTIONS),
                    default=default.selection,
                    tooltip="Which earlier checkpoint is the reference: a random one (the paper's "
                    "choice), the latest or the initial one. Only preset 'custom' reads this; the other "
                    "presets bring their own.",
                ),
                io.Int.Input(
                    "snapshot_every",
                    default=default.snapshot_every,
                    min=1,
                    max=100_000,
                    tooltip="Optimizer steps between checkpoints that join the reference pool.",
                ),
                io.Int.Input(
                    "capacity",
                    default=default.capacity,
                    min=1,
                    max=256,
                    tooltip="How many checkpoints the pool keeps (each is only a LoRA). The initial one "
                    "always stays; when full, the most closely spaced one goes.",
                ),
                io.Int.Input(
                    "reuse",
                    default=default.reuse,
                    min=1,
                    max=64,
                    tooltip="How many optimizer steps learn from the same drawn samples, each with new "
                    "noise. Drawing is most of the work: 4 is much faster than 1, on less fresh samples.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default=default.sampler,
                    tooltip="The sampler that draws reference samples.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default=default.scheduler,
                    tooltip="Spacing of the sampler's noise levels.",
                ),
                io.Int.Input(
                    "sampling_steps",
                    default=default.sampling_steps,
                    min=1,
                    max=200,
                    tooltip="Sampler steps per reference sample. Fewer are faster; 12 is a fair start.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=default.guidance_scale,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="CFG of the reference samples. 1 takes half the time; above 1 needs the "
                    "negative conditioning connected to SePPO Train.",
                ),
                io.Int.Input(
                    "sample_batch",
                    default=default.batch_size,
                    min=1,
                    max=64,
                    tooltip="How many reference samples are drawn at once. Lower it if memory is short.",
                ),
            ],
            outputs=[sockets.References.Output(display_name="references")],
        )

    @classmethod
    def execute(cls, sample_batch: int, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput({**settings, "batch_size": sample_batch})


class SePPOOptimizerSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        default, lora, run = OptimizerConfig(), LoRAConfig(), RunConfig()
        return host.schema(
            node_id="SePPOOptimizerSettings",
            display_name="SePPO Optimizer Settings",
            category=sockets.CATEGORY,
            description="Optimizer, LoRA layers, precision and how often a run is saved.",
            search_aliases=["adamw", "prodigy", "lora", "gradient checkpointing"],
            inputs=[
                io.Combo.Input(
                    "optimizer",
                    options=list(OPTIMIZERS),
                    default=default.name,
                    tooltip="adamw and adafactor are built in. lion, prodigy (set the learning rate to 1) "
                    "and adamw_schedule_free need the package pytorch-optimizer, adamw_8bit needs "
                    "bitsandbytes.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=default.schedule,
                    tooltip="How the learning rate goes on after the warm-up.",
                ),
                io.Float.Input(
                    "warmup",
                    default=default.warmup,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    tooltip="Share of the steps over which the learning rate rises from zero.",
                ),
                io.Float.Input(
                    "weight_decay",
                    default=default.weight_decay,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Pull of the LoRA's weights towards zero. 0 is fine.",
                ),
                io.Float.Input(
                    "clip",
                    default=default.clip,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Gradients longer than this are shortened to it; 0 turns that off.",
                ),
                io.Int.Input(
                    "accumulation",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Batches per optimizer step: a larger batch in the same memory, for more time.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="Arithmetic inside the network. auto takes what suits model and device; the "
                    "LoRA itself is always trained in fp32.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    tooltip="Compute parts of the network twice to need much less memory.",
                ),
                io.Float.Input(
                    "alpha",
                    default=lora.alpha,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="LoRA alpha; its strength is alpha / rank. 0 means alpha = rank.",
                ),
                io.Combo.Input(
                    "modules",
                    options=list(MODULES),
                    default=lora.modules,
                    tooltip="Which layers learn: all linear ones, those of attention only, or all "
                    "including convolutions.",
                ),
                io.String.Input(
                    "pattern",
                    default="",
                    tooltip="Only layers whose name contains this regular expression learn. Empty: all.",
                ),
                io.Float.Input(
                    "loser_weight",
                    default=LossConfig().loser_weight,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strongly samples are pushed away; read by criterion 'constant' alone.",
                ),
                io.Int.Input(
                    "checkpoint_every",
                    default=run.checkpoint_every,
                    min=1,
                    max=100_000,
                    tooltip="Optimizer steps between saves of the whole run, from which it can go on.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=run.preview_every,
                    min=0,
                    max=100_000,
                    tooltip="Optimizer steps between preview pictures; 0 shows none.",
                ),
            ],
            outputs=[sockets.Optimizer.Output(display_name="optimizer")],
        )

    @classmethod
    def execute(
        cls,
        optimizer: str,
        accumulation: int,
        precision: str,
        gradient_checkpointing: bool,
        alpha: float,
        modules: str,
        pattern: str,
        loser_weight: float,
        checkpoint_every: int,
        preview_every: int,
        **settings: Any,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            {
                "accumulation": accumulation,
                "optimizer": {"name": optimizer, **settings},
                "compute": {
                    "precision": precision,
                    "gradient_checkpointing": gradient_checkpointing,
                },
                "lora": {"alpha": alpha, "modules": modules, "pattern": pattern},
                "loss": {"loser_weight": loser_weight},
                "run": {"checkpoint_every": checkpoint_every, "preview_every": preview_every},
            }
        )


class SePPOTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        default = SePPOConfig()
        return host.schema(
            node_id="SePPOTrain",
            display_name="SePPO Train",
            category=sockets.CATEGORY,
            description="Aligns the model to winning images: a LoRA is trained to make more of what they "
            "show, held in place by earlier checkpoints of the model itself.",
            search_aliases=["preference", "alignment", "dpo", "spin", "train lora", "fine-tune"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
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
                    default="seppo",
                    tooltip="seppo: the paper's method. spin: every sample of the latest checkpoint loses. "
                    "sft: plain fine-tuning on the winners. dpo: needs a losing image for every winner. "
                    "custom: the criterion below and the selection of the reference settings.",
                ),
                io.Int.Input(
                    "steps",
                    default=default.steps,
                    min=1,
                    max=1_000_000,
                    tooltip="Optimizer steps. More steps move the model further.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=default.batch_size,
                    min=1,
                    max=64,
                    tooltip="Winners per batch. Larger is steadier and needs more memory.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=default.optimizer.learning_rate,
                    min=0.0,
                    max=10.0,
                    step=0.000001,
                    tooltip="How far each step moves the LoRA. 0.0001 is a careful start; prodigy wants 1.",
                ),
                io.Int.Input(
                    "rank",
                    default=default.lora.rank,
                    min=1,
                    max=1024,
                    tooltip="Size of the LoRA. Larger can learn more, and makes larger files.",
                ),
                io.Float.Input(
                    "beta",
                    default=default.loss.beta,
                    min=0.001,
                    max=1_000_000.0,
                    step=1.0,
                    tooltip="How strongly the model is held near its references; larger keeps it closer. "
                    "About 2000 for SD models, nearer 500 for flow models (SD3, Flux, Wan).",
                ),
                io.Combo.Input(
                    "criterion",
                    options=list(CRITERIA),
                    default=default.loss.criterion,
                    tooltip="What happens to a reference sample where the model is behind its reference: "
                    "sign learns from it, indicator leaves it out; none always pushes it away, constant "
                    "does so at a fixed weight. Only preset 'custom' reads this.",
                ),
                io.Int.Input(
                    "seed",
                    default=default.seed,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,
                    tooltip="The same seed and settings give the same LoRA.",
                ),
                io.String.Input(
                    "run_name",
                    default="my_run",
                    tooltip="The run is kept in output/seppo under this name. The same settings again "
                    "continue it; other settings start a numbered one beside it.",
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
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                sockets.LoraModel.Output(display_name="lora"),
                sockets.LossMap.Output(display_name="loss"),
                sockets.Run.Output(display_name="trained_run"),
            ],
        )

    @classmethod
    def validate_inputs(cls, run_name: str) -> bool | str:
        try:
            host.confined_name(host.runs_root(), run_name)
        except ConfigError as error:
            return f"run_name: {error}"
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        dataset: Any,
        run_name: str,
        negative: Any = None,
        run: Run | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        initial = run.weights_path() if run else None
        with host.gradients_allowed():
            config = configuration(**widgets, initial_weights=str(initial or ""))
            policy = ComfyDenoiser(model, negative=negative)
            about = run_description(policy, dataset, config)
            if run and run.about()["base"] != about["base"]:
                raise CheckpointError(
                    f"run {run.name!r} was trained on another model ({run.about()['base_name']}); "
                    "connect the model it was made with"
                )
            directory = host.confined_name(host.runs_root(), run_name)
            trained = Run(choose_directory(directory.parent, directory.name, about))
            config = replace(config, run=replace(config.run, directory=str(trained.directory)))
            progress = Progress(policy, config.steps, cls.hidden.unique_id)
            with closing(train(policy, dataset, config)) as reports:
                for report in reports:
                    progress.show(report)
        lora = comfy_state_dict(trained)
        aligned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
        loss = {"loss": [line["loss"] for line in trained.metrics()]}
        return io.NodeOutput(aligned, lora, loss, trained)


def configuration(
    preset: str,
    learning_rate: float,
    rank: int,
    beta: float,
    criterion: str,
    initial_weights: str,
    references: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    **top: Any,
) -> SePPOConfig:
    """The frozen configuration of SePPOTrain's widgets and of the settings connected to it."""
    sections: dict[str, Any] = {**(optimizer or {}), "references": references or {}, **top}
    widgets = {
        "loss": {"beta": beta, "criterion": criterion},
        "lora": {"rank": rank},
        "optimizer": {"learning_rate": learning_rate},
        "run": {"initial_weights": initial_weights},
    }
    for section, values in widgets.items():
        sections[section] = {**sections.get(section, {}), **values}
    from_dict(SePPOConfig, sections)  # also what a preset replaces: 0.3.64 checks no combo
    return from_dict(SePPOConfig, apply_preset(preset, sections))


def comfy_state_dict(run: Run) -> dict[str, Any]:
    """The run's LoRA in the keys that the host loads and its Save LoRA node writes."""
    return comfy.utils.load_torch_file(str(run.weights_path()), safe_load=True)


class Progress:
    """The node's bar, its preview picture and its line of text."""

    def __init__(self, policy: ComfyDenoiser, steps: int, node_id: str) -> None:
        self.policy = policy
        self.node_id = node_id
        self.bar = host.progress(steps)
        self.seconds: list[float] = []

    def show(self, report: StepReport) -> None:
        picture = None
        if report.preview is not None:
            picture = host.preview_message(self.policy.latent_preview(report.preview))
        self.bar.update_absolute(report.step, report.steps, picture)
        self.seconds = [*self.seconds[-19:], report.seconds]
        pace = sum(self.seconds) / len(self.seconds)
        left = pace * (report.steps - report.step)
        text = f"step {report.step}/{report.steps}  loss {report.loss:.4f}"
        if report.winner_margin is not None:
            text += f"  winner margin {report.winner_margin:+.2e}  flips {report.flip_rate:.0%}"
        host.progress_text(f"{text}  {pace:.2f} s/step, {left / 60:.0f} min left", self.node_id)


NODES = [SePPOReferenceSettings, SePPOOptimizerSettings, SePPOTrain]
