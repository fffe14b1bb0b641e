"""Keeping a run's result: LoRA files and merged checkpoints, and finding a run again."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io, ui
from comfy_extras.nodes_model_merging import save_checkpoint

from ..seppo_core.adapters.files import (
    FORMATS,
    LayerMap,
    Rows,
    component_of,
    file_tensors,
    save_lora,
)
from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.errors import CheckpointError, ConfigError, UnsupportedModelError
from ..seppo_core.runs.run import Run
from ..seppo_core.settings import Section, inputs, setting
from ..seppo_core.training.config import config_of
from ..seppo_core.training.continuation import check_writable
from ..seppo_core.training.metadata import describe
from . import host, queued, sockets
from .widgets import widgets

CHECKPOINT = "checkpoint"
NEWEST = -1
NUMBERED = "_{:05}_.safetensors"


@dataclass(frozen=True)
class Saving(Section):
    """What goes into the file, and where it lies."""

    filename_prefix: str = setting(
        "SePPO",
        "How the file's name begins; a number follows. Folders are made as named. LoRAs lie in "
        "output/loras, checkpoints in output/checkpoints.",
    )
    format: str = setting(
        "comfy",
        "comfy: a LoRA for this program's Load LoRA. diffusers: a LoRA for the Python library diffusers (PEFT "
        "keys). checkpoint: the whole model with the LoRA merged in. The last two need the base model connected.",
        choices=(*FORMATS, CHECKPOINT),
    )
    strength: float = setting(
        1.0,
        "How much of what was learned goes into the file. 1 is what was trained.",
        least=0,
        most=10,
        step=0.05,
    )
    snapshot: int = setting(
        NEWEST,
        "-1 saves the newest weights. The step of a snapshot in the run's pool saves that one, to go back "
        "behind a step where training went wrong.",
        least=NEWEST,
        most_shown=10_000_000,
    )


class SePPOSaveAligned(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOSaveAligned",
            display_name="SePPO Save Aligned",
            category=sockets.CATEGORY,
            description="Saves what a run has learned as a LoRA file, or merged into the model as a "
            "checkpoint. The file says which model, settings and run it comes from.",
            search_aliases=["save lora", "export", "merge", "safetensors"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                sockets.Run.Input(
                    "run", tooltip="The run to save, from SePPO Train or SePPO Load Run."
                ),
                *widgets(inputs(Saving)),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model, as it went into SePPO Train. Needed for 'diffusers' and "
                    "'checkpoint'.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Goes into a checkpoint with the model, so that Load Checkpoint finds it there.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Goes into a checkpoint with the model, so that Load Checkpoint finds it there.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        def check() -> None:
            given = queued.inputs()
            if filename_prefix is not None:  # else linked: known only when the graph runs
                checked_prefix("loras", filename_prefix)
            format = given.get("format")
            from_here = queued.linked_class("run") == "SePPOTrain"
            if "model" not in given and (
                format == CHECKPOINT or format == "diffusers" and from_here
            ):
                raise needs_base(format)
            folder = merged_folder(given) if format == CHECKPOINT else "loras"
            check_writable(host.output() / folder, "give ComfyUI the right to write there")

        return queued.checked(cls, check)

    @classmethod
    def execute(
        cls,
        run: Run,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        settings = Saving(**widgets)
        format, strength, prefix = settings.format, settings.strength, settings.filename_prefix
        about = run.about()
        config = config_of(about)
        if model is None and (format == CHECKPOINT or format == "diffusers" and is_comfy(about)):
            raise needs_base(format)
        if model is not None:
            run.require_base(ComfyDenoiser(model).base_fingerprint())
        step, weights = chosen_weights(run, settings.snapshot)
        scale = config.lora.scale * strength
        facts = describe(about, run.name, step, strength)
        component = component_of(about["family"], weights)
        if format == CHECKPOINT:
            lora = file_tensors(weights, scale=scale, format="comfy", component=component)
            path = save_merged(cls, model, clip, vae, lora, prefix, facts)
        else:
            layers = None
            if format == "diffusers" and is_comfy(about):
                component, layers = diffusers_layers(model)
            path = numbered("loras", prefix)
            save_lora(
                path,
                weights,
                scale=scale,
                format=format,
                component=component,
                metadata=facts,
                layers=layers,
            )
        return io.NodeOutput(str(path), ui=ui.PreviewText(f"step {step}: {path}"))


def needs_base(format: str) -> ConfigError:
    return ConfigError(f"format {format!r} needs the base model: connect it to `model`")


def merged_folder(inputs: dict[str, Any]) -> str:
    """Where a merged model goes below the output, as the host has it."""
    whole = inputs.get("clip") is not None and inputs.get("vae") is not None
    return "checkpoints" if whole else "diffusion_models"


def is_comfy(about: dict[str, Any]) -> bool:
    return about["family"] == ComfyDenoiser.family


def chosen_weights(run: Run, snapshot: int) -> tuple[int, dict[str, Any]]:
    """(step, weights) of the newest checkpoint or of a snapshot in the pool."""
    if snapshot == NEWEST:
        return run.step(), run.weights()
    if snapshot not in run.snapshot_steps():
        raise CheckpointError(
            f"run {run.name!r} keeps no snapshot of step {snapshot}; it keeps {run.snapshot_steps()}, "
            "and -1 is the newest weights"
        )
    return snapshot, run.snapshot(snapshot).weights


def checked_prefix(folder: str, prefix: str) -> str:
    """`prefix` below the output's `folder`, as the host's own saving takes it."""
    prefix = prefix.replace("\\", "/").strip().removeprefix(f"{folder}/")
    if prefix.rpartition("/")[2] in ("", ".", ".."):
        raise ConfigError(f"{prefix!r} names no file: give the beginning of a file name")
    root = Path(folder_paths.get_output_directory()) / folder
    path = host.confined(root, prefix + NUMBERED)
    return f"{folder}/{path.relative_to(root.resolve()).as_posix().removesuffix(NUMBERED)}"


def numbered(folder: str, prefix: str) -> Path:
    """The next free file that the host's counter gives for `prefix` below the output's `folder`."""
    full, name, counter, _, _ = folder_paths.get_save_image_path(
        checked_prefix(folder, prefix), folder_paths.get_output_directory()
    )
    return Path(full) / f"{name}{NUMBERED.format(counter)}"


def save_merged(
    node: type[io.ComfyNode],
    model: Any,
    clip: Any,
    vae: Any,
    lora: dict[str, Any],
    prefix: str,
    facts: dict[str, str],
) -> Path:
    """The model with the LoRA in its weights, through the host's own saving; metadata key `seppo`."""
    folder = merged_folder({"clip": clip, "vae": vae})
    path = numbered(folder, prefix)
    merged = host.with_lora(model, lora, compiled=False)
    hidden = node.hidden
    save_checkpoint(
        merged,
        clip=clip,
        vae=vae,
        filename_prefix=checked_prefix(folder, prefix),
        output_dir=folder_paths.get_output_directory(),
        prompt=getattr(hidden, "prompt", None),
        extra_pnginfo={**(getattr(hidden, "extra_pnginfo", None) or {}), "seppo": facts},
    )
    return path


# Layer names of diffusers.

OTHER_FLUX = re.compile(r"\.linear_(in|out)\.|\.to_qkv_mlp_proj\.|^single_.*\.attn\.to_out\.")
"""Names in the host's map that belong to Flux 2 and to LyCORIS files, not to diffusers' Flux."""


OTHER_EMBEDDING = "class_embedding."
"""A second name in the host's map for what SDXL calls add_embedding."""


def unet_names(config: dict[str, Any]) -> dict[str, Any]:
    found = comfy.utils.unet_to_diffusers(config)
    return {name: at for name, at in found.items() if not name.startswith(OTHER_EMBEDDING)}


def mmdit_names(config: dict[str, Any]) -> dict[str, Any]:
    return comfy.utils.mmdit_to_diffusers(config)


def flux_names(config: dict[str, Any]) -> dict[str, Any]:
    found = comfy.utils.flux_to_diffusers(config)
    return {name: at for name, at in found.items() if not OTHER_FLUX.search(name)}


DIFFUSERS_NAMES = {
    "UNetModel": ("unet", unet_names),
    "OpenAISignatureMMDITWrapper": ("transformer", mmdit_names),
    "Flux": ("transformer", flux_names),
}
"""Class of the host's network -> diffusers' component, and the host's map of names."""


def diffusers_layers(model: Any) -> tuple[str, LayerMap]:
    """(component, names) of the model's layers in diffusers; UnsupportedModelError where none are known."""
    kind = type(model.model.diffusion_model).__name__
    if kind not in DIFFUSERS_NAMES or type(model.model).__name__ == "Flux2":
        raise UnsupportedModelError(
            f"{type(model.model).__name__} has no known layer names in diffusers; "
            "save in format 'comfy' instead"
        )
    component, names = DIFFUSERS_NAMES[kind]
    found = names(model.model.model_config.unet_config)
    return component, {
        f"{component}.{name.removesuffix('.weight')}": rows_at(place)
        for name, place in found.items()
        if name.endswith(".weight")
    }


def rows_at(place: str | tuple) -> Rows:
    """One entry of the host's map: a name, (name, (axis, start, count)) or (name, None, swap halves)."""
    if isinstance(place, str):
        return Rows(place.removesuffix(".weight"))
    name, cut, *change = place
    start, count = cut[1:] if cut else (0, None)
    return Rows(name.removesuffix(".weight"), start, count, swapped=bool(change))


class SePPOLoadRun(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOLoadRun",
            display_name="SePPO Load Run",
            category=sockets.CATEGORY,
            description="Finds an earlier run again, to look at it, save it or train on from it.",
            search_aliases=["resume", "continue", "checkpoint"],
            inputs=[
                io.String.Input(
                    "run_name",
                    default="my_run",
                    tooltip="The name that SePPO Train kept it under: a folder in output/seppo, or in the "
                    "folder that the settings name.",
                ),
            ],
            outputs=[
                sockets.Run.Output(
                    display_name="run",
                    tooltip="The run, for Save Aligned, Curves, Anchor Preview or Train.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None = None) -> bool | str:
        if run_name is None:
            return True
        return queued.checked(cls, lambda: existing_run(run_name))

    @classmethod
    def fingerprint_inputs(cls, run_name: str | None) -> str | float:
        """Changes when the run goes on, so that what hangs on it is computed anew."""
        if run_name is None:
            return float("nan")  # a linked name is not known here, so the run is always read anew
        files = sorted(host.run_directory(run_name).glob("weights/*"))
        return " ".join(f"{path.name} {path.stat().st_mtime_ns}" for path in files)

    @classmethod
    def execute(cls, run_name: str) -> io.NodeOutput:
        return io.NodeOutput(existing_run(run_name))


def existing_run(name: str) -> Run:
    """The run directory of that name; CheckpointError lists those that are there."""
    run = Run(host.run_directory(name))
    if not run.exists():
        there = ", ".join(host.run_names()) or "none yet"
        raise CheckpointError(f"there is no run {name!r} in {host.runs_root()}; there are: {there}")
    return run


NODES = [SePPOSaveAligned, SePPOLoadRun]
