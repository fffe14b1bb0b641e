"""The settings nodes. Their inputs are made from the dataclasses of the core, as are those of SePPO Train."""

from typing import Any

from comfy_api.latest import io

from ..seppo_core.adapters.lora import LoRAConfig
from ..seppo_core.settings import inputs
from ..seppo_core.training.config import SePPOConfig
from ..seppo_core.training.optim import OptimizerConfig, require_installed
from . import host, queued, sockets
from .widgets import sections, widgets

SETTINGS = {one.path: one for one in inputs(SePPOConfig)}
OF_TRAIN = "steps batch_size optimizer.learning_rate lora.rank loss.beta loss.criterion seed"
TRAIN = [SETTINGS[path] for path in OF_TRAIN.split()]
"""What SePPO Train itself has; it and SePPO Reference Settings leave the rest to SePPO Optimizer Settings."""
REFERENCES = [one for one in SETTINGS.values() if one.section == "references"]
ORDER = ("optimizer", "", "compute", "lora", "loss", "run", "guard")
"""Sections as they stand on SePPO Optimizer Settings: saved graphs know its values by their place."""
OPTIMIZER = [
    one
    for section in ORDER
    for one in SETTINGS.values()
    if one.section == section and one not in TRAIN
]


class SePPOReferenceSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOReferenceSettings",
            display_name="SePPO Reference Settings",
            category=sockets.CATEGORY,
            description="How earlier checkpoints of the model are kept and draw reference samples.",
            search_aliases=["preference", "snapshot", "reference model", "self-play"],
            inputs=widgets(REFERENCES),
            outputs=[
                sockets.References.Output(
                    display_name="references", tooltip="For SePPO Train, or SePPO Anchor Preview."
                )
            ],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(sections(REFERENCES, values)["references"])


class SePPOOptimizerSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOOptimizerSettings",
            display_name="SePPO Optimizer Settings",
            category=sockets.CATEGORY,
            description="Optimizer, LoRA layers, precision and how often a run is saved.",
            search_aliases=["adamw", "prodigy", "lora", "gradient checkpointing"],
            inputs=widgets(OPTIMIZER),
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
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(sections(OPTIMIZER, values))


NODES = [SePPOReferenceSettings, SePPOOptimizerSettings]
