"""A headless run from one JSON file: a diffusers pipeline on disk, a folder of winners, the settings.

The file holds the fields of `config.SePPOConfig` and two sections of its own, `model` and `data`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .data import Conditioning, EncodedDataset
from .data.captions import LINES, SOURCES
from .data.encode import encode
from .data.prepare import Preparation
from .data.readers import AUTOMATIC, read_winners
from .data.similar import examine
from .data.winners import Winners
from .data.wording import Wording, reworded
from .denoisers.diffusers import DTYPES, DiffusersDenoiser
from .errors import ConfigError, MissingPackageError, UnsupportedModelError
from .files import first_line
from .identity import digest_tensors
from .runs.report import StepReport
from .settings import from_dict
from .training.batch import BatchPlan
from .training.config import SePPOConfig
from .training.trainer import train

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class ModelConfig:
    path: str = ""
    """Folder of a pipeline that diffusers saved (it holds model_index.json)."""
    dtype: str = "fp32"
    """In which the weights are loaded: fp32, bf16 or fp16."""
    device: str = "auto"
    negative: str = ""
    """Negative prompt of reference samples, read where references.guidance_scale is above 1."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"model.dtype: unknown {self.dtype!r}; choose from {sorted(DTYPES)}")
        if self.device not in DEVICES:
            raise ConfigError(f"model.device: unknown {self.device!r}; choose from {DEVICES}")
        if not (Path(self.path) / "model_index.json").is_file():
            raise ConfigError(
                f"model.path: {self.path or 'empty'!r} is no diffusers pipeline (no model_index.json)"
            )


@dataclass(frozen=True)
class DataConfig:
    folder: str = ""
    """Winning images with their captions, in any layout of `data.READERS`; or one file of such a layout."""
    reader: str = AUTOMATIC
    caption: str = ""
    """For what has none of its own."""
    captions: str = SOURCES[0]
    """Where captions are looked for: one of `data.captions.SOURCES`."""
    ties: str = "skip"
    """Which picture of a pair wins that nobody decided: a row of `data.parquet.TIES`."""
    near_duplicates: str = "report"
    """A row of `data.similar.DUPLICATES`."""
    strict: bool = False
    """Whatever cannot be used is an error."""
    caption_lines: str = LINES[0]
    """What becomes of a caption file's lines: one of `data.captions.LINES`."""
    wording: Wording = field(default_factory=Wording)
    held_out: float = 0.0
    """Share of the winners that is not trained on; metrics.jsonl tells the margin on them."""
    cache: str = ""
    """Where encoded winners are kept; empty: `cache` beside the run directory."""
    preparation: Preparation = field(default_factory=Preparation)

    def __post_init__(self) -> None:
        if not Path(self.folder).exists() or not self.folder:
            raise ConfigError(f"data.folder: {self.folder or 'empty'!r} is no folder")

    def winners(self) -> Winners:
        """What is there, read, compared and worded as set."""
        found = read_winners(
            Path(self.folder),
            reader=self.reader,
            caption=self.caption,
            captions=self.captions,
            ties=self.ties,
            strict=self.strict,
            caption_lines=self.caption_lines,
        )
        examined = examine(found, self.near_duplicates, strict=self.strict)
        return reworded(examined, self.wording)


@dataclass(frozen=True)
class Job:
    model: ModelConfig
    data: DataConfig
    training: SePPOConfig


def make_job(values: dict[str, Any]) -> Job:
    """The checked job of a JSON object; ConfigError names what does not fit."""
    known = {f.name for f in fields(SePPOConfig)}
    if unknown := sorted(set(values) - known - {"model", "data"}):
        raise ConfigError(
            f"unknown setting {', '.join(unknown)}; known here: {sorted(known | {'model', 'data'})}"
        )
    training = {name: value for name, value in values.items() if name in known}
    job = Job(
        from_dict(ModelConfig, values.get("model", {}), "model."),
        from_dict(DataConfig, values.get("data", {}), "data."),
        from_dict(SePPOConfig, training),
    )
    if not job.training.run.directory:
        raise ConfigError("run.directory is missing: name the folder that the run is kept in")
    return job


@dataclass(frozen=True)
class TextEncoding:
    """What a pipeline class does with a prompt."""

    component: str
    """the pipeline's attribute that holds the network"""
    keys: tuple[str, ...]
    """names of the conditioning's tensors"""
    places: tuple[int, ...]
    """where `encode_prompt` returns them"""
    more_prompts: tuple[str, ...] = ()
    """arguments of `encode_prompt` that default to the prompt but must be given"""


PIPELINES: dict[str, TextEncoding] = {
    "StableDiffusionPipeline": TextEncoding("unet", ("embeds",), (0,)),
    "StableDiffusionXLPipeline": TextEncoding("unet", ("embeds", "pooled"), (0, 2)),
    "StableDiffusion3Pipeline": TextEncoding(
        "transformer", ("embeds", "pooled"), (0, 2), ("prompt_2", "prompt_3")
    ),
}


class LoadedPipeline:
    """A diffusers pipeline taken apart into what training needs."""

    def __init__(self, config: ModelConfig) -> None:
        try:
            from diffusers import DiffusionPipeline
        except ImportError:
            raise MissingPackageError(
                "headless training needs the package diffusers: pip install 'seppo[diffusers]'"
            ) from None
        dtype = {} if config.dtype == "fp32" else {"torch_dtype": DTYPES[config.dtype]}
        try:
            self.pipe = DiffusionPipeline.from_pretrained(
                config.path, local_files_only=True, use_safetensors=True, **dtype
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"model.path: {config.path} cannot be loaded ({first_line(error).rstrip('.')}). Its weights have to be "
                "safetensors; others can hold programs and are not opened"
            ) from None
        kind = type(self.pipe).__name__
        if kind not in PIPELINES:
            raise UnsupportedModelError(
                f"{config.path}: {kind} is not among the pipelines handled: {sorted(PIPELINES)}"
            )
        self.text = PIPELINES[kind]
        self.device = torch.device(best_device() if config.device == "auto" else config.device)
        self.negative = config.negative
        self.name = Path(config.path).name

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """Float32 [H, W, 3] in 0..1 to latents [C, h, w]."""
        vae = self.pipe.vae.to(self.device)
        pixels = rearrange(image * 2 - 1, "height width colour -> 1 colour height width")
        return vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()[0].float().cpu()

    @torch.no_grad()
    def encode_text(self, caption: str) -> Conditioning:
        for encoder in self._text_encoders():
            encoder.to(self.device)
        found = self.pipe.encode_prompt(
            prompt=caption,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **{name: None for name in self.text.more_prompts},
        )
        pairs = zip(self.text.keys, self.text.places, strict=True)
        return {key: found[place][0].float().cpu() for key, place in pairs}

    def _text_encoders(self) -> list[torch.nn.Module]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        found = [getattr(self.pipe, name, None) for name in names]
        return [encoder for encoder in found if encoder is not None]

    def pixel_step(self) -> int:
        """What the sides of pictures should be multiples of, in pixels."""
        config = getattr(self.pipe, self.text.component).config
        patch = getattr(config, "patch_size", None) or 2 ** (len(config.block_out_channels) - 1)
        return self.pipe.vae_scale_factor * patch

    def dataset(self, data: DataConfig, winners: Winners, cache: Path) -> EncodedDataset:
        """The winners, encoded; then VAE and text encoders leave the device."""
        texts = [
            (f"{i}.{k}", v)
            for i, e in enumerate(self._text_encoders())
            for k, v in e.state_dict().items()
        ]
        dataset = encode(
            winners,
            self.encode_image,
            self.encode_text,
            data.preparation.with_step(self.pixel_step()),
            image_identity=digest_tensors(self.pipe.vae.state_dict().items()),
            text_identity=digest_tensors(texts),
            cache=cache,
            held_out=data.held_out,
        )
        for module in (self.pipe.vae, *self._text_encoders()):
            module.to("cpu")
        return dataset

    def denoiser(self, guided: bool) -> DiffusersDenoiser:
        vae = self.pipe.vae.config
        return DiffusersDenoiser(
            getattr(self.pipe, self.text.component),
            self.pipe.scheduler,
            negative=self.encode_text(self.negative) if guided else None,
            latent_scale=vae.scaling_factor,
            latent_shift=getattr(vae, "shift_factor", None) or 0.0,
            device=self.device,
            name=self.name,
        )


def best_device() -> str:
    """The accelerator that torch sees, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def run_job(
    job: Job, on_message: Callable[[str], None] = lambda text: None
) -> Iterator[StepReport]:
    """Load, encode, train: one report per optimizer step; the run directory as `train` leaves it."""
    winners = job.data.winners()
    on_message(winners.report())
    on_message(f"loading {job.model.path}")
    pipeline = LoadedPipeline(job.model)
    guided = job.training.references.guidance_scale != 1.0
    denoiser = pipeline.denoiser(guided)
    on_message(f"encoding {job.data.folder}")
    run_directory = Path(job.training.run.directory)
    cache = Path(job.data.cache) if job.data.cache else run_directory.parent / "cache"
    dataset = pipeline.dataset(job.data, winners, cache)
    on_message(dataset.report())
    training = job.training
    plan = BatchPlan(dataset.shapes, training.winners_per_step, training.seed)
    on_message(f"training: {plan.report(training.steps, training.steps_per_batch)}")
    yield from train(denoiser, dataset, training)
