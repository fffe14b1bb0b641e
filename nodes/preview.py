"""Looking at a run: what the anchor criterion sees, and the curves of its steps."""

from importlib.util import find_spec
from typing import Any

from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.errors import MissingPackageError
from ..seppo_core.method.objectives import CRITERIA
from ..seppo_core.method.references import ReferenceConfig
from ..seppo_core.runs.run import Run
from ..seppo_core.settings import from_dict, inputs
from ..seppo_core.training.config import config_of
from ..seppo_core.views.anchor import PreviewSettings, preview, summary
from . import host, queued, sockets
from .encoders import decoded_picture
from .widgets import widgets

AS_TRAINED = "as trained"
SHOWN = list(inputs(PreviewSettings))
BEFORE_CRITERION = [one.name for one in SHOWN].index("draw_samples")


class SePPOAnchorPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOAnchorPreview",
            display_name="SePPO Anchor Preview",
            category=sockets.CATEGORY,
            description="Shows, for some winners and noise levels, whether the aligned model is ahead of "
            "an earlier checkpoint of itself, and what becomes of the reference samples. Without a run it "
            "shows how well the model explains the winners.",
            search_aliases=["heat map", "margin", "preference", "inspect"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model, as it went into SePPO Train (not the aligned one).",
                ),
                sockets.Dataset.Input(
                    "dataset", tooltip="The encoded winning images, from SePPO Encode Winners."
                ),
                *widgets(SHOWN[:BEFORE_CRITERION]),
                io.Combo.Input(
                    "criterion",
                    options=[AS_TRAINED, *CRITERIA],
                    default=AS_TRAINED,
                    tooltip="The rule that says what becomes of a reference sample: the run's own, or "
                    "another to see what it would do. Read only with a run.",
                ),
                *widgets(SHOWN[BEFORE_CRITERION:]),
                sockets.Run.Input(
                    "run",
                    optional=True,
                    tooltip="The run whose aligned weights to look at, from SePPO Train or SePPO Load Run.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes winners and samples into real pictures. Without it they are rough "
                    "previews.",
                ),
                sockets.References.Input(
                    "references",
                    optional=True,
                    tooltip="Sampler, steps and guidance for drawing the samples; without it the run's "
                    "own.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative prompt, needed for samples with a guidance above 1.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="picture",
                    tooltip="The heat map, with the winners and the samples beside it.",
                ),
                io.String.Output(display_name="summary", tooltip="The same in words and numbers."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None) -> bool | str:
        return queued.checked(cls, require_plots)

    @classmethod
    def execute(
        cls,
        model: Any,
        dataset: Any,
        criterion: str,
        run: Run | None = None,
        vae: Any = None,
        references: dict[str, Any] | None = None,
        negative: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        from ..seppo_core.views.plots import heat_map

        denoiser = ComfyDenoiser(model, negative=negative)
        settings = PreviewSettings(
            criterion="" if criterion == AS_TRAINED else criterion, **widgets
        )
        sampling = None if references is None else from_dict(ReferenceConfig, references)
        bar = host.progress(1)

        def on_call(done: int, total: int) -> None:
            host.throw_if_interrupted()
            bar.update_absolute(done, total)

        with host.gradients_allowed():
            shown = preview(denoiser, dataset, run, settings, sampling, on_call)
        samples = [verdict.sample[None] for verdict in shown.verdicts]
        picture = heat_map(
            shown.anchors,
            [thumbnail(denoiser, vae, latents) for latents in shown.latents],
            [thumbnail(denoiser, vae, latents) for latents in samples],
            shown.verdicts,
            shown.title,
            shown.subtitle,
        )
        image = host.image(picture)
        return io.NodeOutput(image, summary(shown), ui=ui.PreviewImage(image, cls=cls))


def require_plots() -> None:
    """MissingPackageError if pictures of numbers cannot be drawn; nothing is loaded."""
    if find_spec("matplotlib") is None:
        raise MissingPackageError(
            "this node draws with the package matplotlib: pip install matplotlib"
        )


def thumbnail(denoiser: ComfyDenoiser, vae: Any, latents: Tensor) -> Image.Image:
    """A picture of latents [1, C, ...] in the network's scale; of a video its middle frame."""
    if vae is not None:
        frame = decoded_picture(vae, denoiser.model, latents)
        return Image.fromarray((frame.clamp(0, 1) * 255).round().byte().cpu().numpy())
    return denoiser.latent_preview(latents) or Image.new("RGB", (8, 8), "#d0d0d0")


class SePPOCurves(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOCurves",
            display_name="SePPO Curves",
            category=sockets.CATEGORY,
            description="Draws how a run went: loss, margins, flip rate and implicit accuracy by step.",
            search_aliases=["loss graph", "plot", "metrics"],
            is_output_node=True,
            inputs=[
                sockets.Run.Input(
                    "run", tooltip="The run to draw, from SePPO Train or SePPO Load Run."
                ),
            ],
            outputs=[io.Image.Output(display_name="picture", tooltip="The curves.")],
        )

    @classmethod
    def validate_inputs(cls, run: Any = None) -> bool | str:
        return queued.checked(cls, require_plots)

    @classmethod
    def execute(cls, run: Run) -> io.NodeOutput:
        from ..seppo_core.views.plots import curves

        config = config_of(run.about())
        title = f"{run.name}: {len(run.metrics())} of {config.steps} steps"
        image = host.image(curves(run.metrics(), title))
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [SePPOAnchorPreview, SePPOCurves]
