"""The settings nodes: sections of the configuration that SePPOTrain and the anchor preview take."""

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..seppo_core.adapters.lora import MODULES, LoRAConfig
from ..seppo_core.denoisers import PRECISIONS
from ..seppo_core.method.objectives import LossConfig
from ..seppo_core.method.references import SELECTIONS, ReferenceConfig
from ..seppo_core.training.config import RunConfig
from ..seppo_core.training.guard import DRIFT, NON_FINITE, OUT_OF_MEMORY, GuardConfig
from ..seppo_core.training.optim import OPTIMIZERS, SCHEDULES, OptimizerConfig, require_installed
from . import host, queued, sockets


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
            outputs=[
                sockets.References.Output(
                    display_name="references", tooltip="For SePPO Train, or SePPO Anchor Preview."
                )
            ],
        )

    @classmethod
    def execute(cls, sample_batch: int, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput({**settings, "batch_size": sample_batch})


class SePPOOptimizerSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        default, lora, run = OptimizerConfig(), LoRAConfig(), RunConfig()
        guard = GuardConfig()
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
                    tooltip="How strongly samples are pushed away under criterion 'constant', "
                    "or how often under 'random'; the others do not read it.",
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
                io.Int.Input(
                    "held_out_every",
                    default=run.held_out_every,
                    min=0,
                    max=100_000,
                    optional=True,
                    tooltip="Optimizer steps between measurements on held-out winners; 0 measures never.",
                ),
                io.Combo.Input(
                    "out_of_memory",
                    options=list(OUT_OF_MEMORY),
                    default=guard.out_of_memory,
                    optional=True,
                    tooltip="When memory runs out: stop, with what to change; or split the batch into smaller "
                    "parts and go on, slower, with the same result.",
                ),
                host.input(
                    io.Combo.Input,
                    "non_finite",
                    options=list(NON_FINITE),
                    default=guard.non_finite,
                    optional=True,
                    advanced=True,
                    tooltip="When the loss is NaN or infinite some steps in a row, none of which is applied: "
                    "go back to the last checkpoint with half the learning rate, or stop.",
                ),
                host.input(
                    io.Int.Input,
                    "patience",
                    default=guard.patience,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="How many such steps in a row it takes.",
                ),
                io.Combo.Input(
                    "drift",
                    options=list(DRIFT),
                    default=guard.drift,
                    optional=True,
                    tooltip="When the model gets worse on its winners (their margin stays above zero) or on "
                    "held-out ones: warn, stop and keep what was trained, go back to the last "
                    "checkpoint with half the learning rate, or do nothing.",
                ),
                host.input(
                    io.Int.Input,
                    "drift_window",
                    default=guard.drift_window,
                    min=2,
                    max=100_000,
                    optional=True,
                    advanced=True,
                    tooltip="Optimizer steps over which the winners' margin is averaged for that.",
                ),
            ],
            outputs=[
                sockets.Optimizer.Output(display_name="optimizer", tooltip="For SePPO Train.")
            ],
        )

    @classmethod
    def validate_inputs(cls, optimizer: str | None = None) -> bool | str:
        def check() -> None:
            if optimizer is not None:  # else linked: known only when the graph runs
                OptimizerConfig(name=optimizer, learning_rate=1.0)  # the rate is known elsewhere
                require_installed(optimizer)
            if isinstance(pattern := queued.inputs().get("pattern"), str):
                LoRAConfig(pattern=pattern)

        return queued.checked(cls, check)

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
        held_out_every: int = RunConfig.held_out_every,
        out_of_memory: str = GuardConfig.out_of_memory,
        non_finite: str = GuardConfig.non_finite,
        patience: int = GuardConfig.patience,
        drift: str = GuardConfig.drift,
        drift_window: int = GuardConfig.drift_window,
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
                "run": {
                    "checkpoint_every": checkpoint_every,
                    "preview_every": preview_every,
                    "held_out_every": held_out_every,
                },
                "guard": {
                    "out_of_memory": out_of_memory,
                    "non_finite": non_finite,
                    "patience": patience,
                    "drift": drift,
                    "drift_window": drift_window,
                },
            }
        )


NODES = [SePPOReferenceSettings, SePPOOptimizerSettings]
