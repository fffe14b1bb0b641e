"""The base and the aligned model on the same prompts and seeds, side by side and scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io, ui
from einops import rearrange
from torch import Tensor

from ..seppo_core.data.captions import encodable
from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.errors import ConfigError
from ..seppo_core.evaluation.scoring import Choice, choices
from ..seppo_core.evaluation.statistics import compare, comparison_line
from ..seppo_core.runs.run import Run
from ..seppo_core.settings import Section, inputs, setting
from . import host, queued, sockets
from .evaluate import (
    WEIGHTS,
    chosen,
    lines_of,
    pictures_of,
    require_at_hand,
    require_usable,
    scored,
)
from .train import comfy_state_dict
from .widgets import require_of_the_host, widgets

PIXELS = 8
"""What a latent's value spans in most models; the host fits empty latents to the others."""
BATCH = 8
NOTHING_ALIGNED = "connect a `run` whose aligned model to draw with, or another model to `aligned`"


@dataclass(frozen=True)
class Comparison(Section):
    """What both models draw, and who judges it."""

    prompts: str = setting(
        "a red fox in a snowy forest\na lighthouse in a storm",
        "One prompt on each line. Take ones that are not among the winners.",
        multiline=True,
    )
    negative: str = setting(
        "", "Negative prompt for all of them; read where cfg is above 1.", multiline=True
    )
    seeds: int = setting(
        2, "Pictures for each prompt and model, each from a seed of its own.", least=1, most=1000
    )
    first_seed: int = setting(
        1,
        "The first seed; the others count up from it. Both models get the same.",
        least=0,
        most=2**63 - 1,
    )
    steps: int = setting(20, "Sampling steps for each picture.", least=1, most=1000)
    cfg: float = setting(
        7.0,
        "Guidance: how strongly pictures follow their prompt. 1 for models that need none.",
        least=0,
        most=100,
        step=0.1,
    )
    sampler_name: str = setting("euler", "How noise is taken away, as in KSampler.")
    scheduler: str = setting(
        "normal", "How steps are spread over the noise levels, as in KSampler."
    )
    width: int = setting(512, "Of the pictures, in pixels.", least=64, most=8192, step=8)
    height: int = setting(512, "Of the pictures, in pixels.", least=64, most=8192, step=8)
    scorers: str = setting(
        "",
        "Scorers to compare with, one on each line: pickscore, hpsv2.1, aesthetic or clip, or the name, = "
        f"and its weights. Weights: {WEIGHTS}",
        multiline=True,
    )


SETTINGS = list(inputs(Comparison))
SAMPLING = ("steps", "cfg", "sampler_name", "scheduler")
"""Settings that go to the host's sampler as they are."""


class SePPOCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOCompare",
            display_name="SePPO Compare",
            category=sockets.CATEGORY,
            description="Draws the same prompts from the same seeds with the base and with the aligned "
            "model: whatever differs was learned. Scorers say how often the aligned picture is better.",
            search_aliases=[
                "before after",
                "side by side",
                "win rate",
                "evaluate",
                "grid",
                "xy plot",
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model, as it went into SePPO Train (not the aligned one).",
                ),
                io.Clip.Input("clip", tooltip="Encodes the prompts, for both models."),
                io.Vae.Input("vae", tooltip="Turns what the models drew into pictures."),
                *widgets(SETTINGS),
                sockets.Run.Input(
                    "run",
                    optional=True,
                    tooltip="The run whose aligned weights to draw with, from SePPO Train or SePPO Load Run.",
                ),
                io.Model.Input(
                    "aligned",
                    optional=True,
                    tooltip="Instead of a run: any other model to compare with the base.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="grid",
                    tooltip="All pairs with their captions, the base above the aligned model.",
                ),
                io.Image.Output(
                    display_name="base_images",
                    tooltip="What the base drew.",
                ),
                io.Image.Output(
                    display_name="aligned_images",
                    tooltip="What the aligned model drew, in the same order.",
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="Win rate and mean difference for each scorer.",
                ),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The prompt of each picture of base_images and aligned_images, for SePPO Score.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, scorers: str | None = None) -> bool | str:
        def check() -> None:
            for name, weights in choices((scorers or "").splitlines()):  # None: linked, not known
                require_at_hand(name, weights)
            given = queued.inputs()
            if isinstance(prompts := given.get("prompts"), str):
                prompts_in(prompts)
            require_of_the_host(
                {name: value for name, value in given.items() if isinstance(value, str)}
            )
            if given and "run" not in given and "aligned" not in given:
                raise ConfigError(NOTHING_ALIGNED)

        return queued.checked(cls, check)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        run: Run | None = None,
        aligned: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        from ..seppo_core.views.grid import Pair, pairs_grid

        if clip is None:
            raise ConfigError("`clip` is empty: this checkpoint brings no text encoder, load one")
        settings = Comparison(**widgets)
        texts = prompts_in(settings.prompts)
        sampling = {name: getattr(settings, name) for name in SAMPLING}
        require_of_the_host(sampling)
        ratings = scorers_in(settings.scorers)
        for choice in ratings:
            require_usable(choice)
        sides = (model, aligned_model(model, run, aligned))
        seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
        drawn = [(text, seed) for text in texts for seed in seeds]
        negative, size = encodable(settings.negative), (settings.width, settings.height)
        batches = draw(sides, clip, vae, drawn, negative, size, sampling)
        base, after = (pictures_of([batch], "picture") for batch in batches)
        rows = [
            Pair(text, seed, *both) for (text, seed), *both in zip(drawn, base, after, strict=True)
        ]
        captions = [text for text, _ in drawn]
        columns = {
            choice.name: scored(choice, (base, after), captions, BATCH) for choice in ratings
        }
        summary = told_of(len(texts), settings.seeds, columns)
        grid = host.image(pairs_grid(rows))
        shown = ui.PreviewImage(grid, cls=cls).as_dict()
        shown["text"] = (summary,)
        shown["seppo_pairs"] = listed(rows, saved(batches, cls), columns)
        return io.NodeOutput(grid, *batches, summary, captions, ui=shown)


def prompts_in(text: str) -> list[str]:
    """Each once; ConfigError if there is none."""
    texts = list(dict.fromkeys(encodable(line) for line in lines_of(text)))
    if not texts:
        raise ConfigError("prompts: write at least one, each on a line of its own")
    return texts


def scorers_in(text: str) -> list[Choice]:
    return [chosen(name, weights) for name, weights in choices(text.splitlines())]


def aligned_model(model: Any, run: Run | None, aligned: Any) -> Any:
    """The model with the run's LoRA; without a run the other model that is connected."""
    if run is not None:
        run.require_base(ComfyDenoiser(model).base_fingerprint())
        return host.with_lora(model, comfy_state_dict(run))
    if aligned is None:
        raise ConfigError(NOTHING_ALIGNED)
    return aligned


def draw(
    sides: Sequence[Any],
    clip: Any,
    vae: Any,
    drawn: Sequence[tuple[str, int]],
    negative: str,
    size: tuple[int, int],
    sampling: dict[str, Any],
) -> list[Tensor]:
    """A batch [N, H, W, 3] from each model, of the same prompts and seeds.

    One model draws everything before the other one does, and only then the VAE decodes, so that a GPU without
    room for all holds one at a time.
    """
    conditions = {text: encoded(clip, text) for text, _ in drawn}
    nothing = encoded(clip, negative)
    progress = host.ItemProgress()
    total, latents = len(sides) * len(drawn), []
    progress(0, total)
    for side in sides:
        for text, seed in drawn:
            latents.append(latent(side, conditions[text], nothing, seed, size, sampling))
            progress(len(latents), total)
    pictures = [*decoded(vae, latents)]
    return [torch.cat(pictures[: len(drawn)]), torch.cat(pictures[len(drawn) :])]


def encoded(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def latent(
    model: Any,
    positive: Any,
    negative: Any,
    seed: int,
    size: tuple[int, int],
    sampling: dict[str, Any],
) -> Tensor:
    """What one model draws from one seed, as its VAE decodes it; Cancel is noticed at every step."""
    width, height = size
    empty = torch.zeros([1, 4, height // PIXELS, width // PIXELS])
    fit = comfy.sample.fix_empty_latent_channels
    empty = fit(model, empty, **host.known_only(fit, {"downscale_ratio_spacial": PIXELS}))
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(empty, seed),
        positive=positive,
        negative=negative,
        latent_image=empty,
        seed=seed,
        disable_pbar=True,
        callback=lambda *_: host.throw_if_interrupted(),
        **sampling,
    )


def decoded(vae: Any, latents: Sequence[Tensor]) -> Iterator[Tensor]:
    """A picture [1, H, W, 3] of each; of a video its middle frame."""
    for one in latents:
        host.throw_if_interrupted()
        frames = rearrange(vae.decode(one), "... height width colour -> (...) height width colour")
        yield frames[len(frames) // 2, ..., :3][None].float().cpu().clamp(0, 1)


def told_of(prompts: int, seeds: int, columns: dict[str, list[list[float]]]) -> str:
    """What was drawn, and what each scorer says of it."""
    heading = f"base and aligned: {prompts} prompts x {seeds} seeds = {prompts * seeds} pairs"
    lines = [comparison_line(name, compare(*scores)) for name, scores in columns.items()]
    return "\n".join([heading, *(lines or ["no scorer was named; judge for yourself"])])


def saved(batches: Sequence[Tensor], node: type[io.ComfyNode]) -> list[list[dict[str, Any]]]:
    """Where the page finds each picture: file name, subfolder and type, in the host's temp folder."""
    return [
        [dict(found) for found in ui.PreviewImage(batch, cls=node).as_dict()["images"]]
        for batch in batches
    ]


def listed(
    rows: Sequence[Any],
    files: Sequence[Sequence[dict[str, Any]]],
    columns: dict[str, list[list[float]]],
) -> list[dict[str, Any]]:
    """What a page needs for a slider over each pair."""
    return [
        {
            "prompt": pair.prompt,
            "seed": pair.seed,
            "base": files[0][place],
            "aligned": files[1][place],
            "scores": {
                name: {"base": before[place], "aligned": after[place]}
                for name, (before, after) in columns.items()
            },
        }
        for place, pair in enumerate(rows)
    ]


NODES = [SePPOCompare]
