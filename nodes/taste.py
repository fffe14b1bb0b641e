"""How winner-like pictures are, judged by the network that is aligned or by a CLIP_VISION that is connected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..seppo_core.data import EncodedDataset, Example
from ..seppo_core.data.captions import encodable
from ..seppo_core.denoisers import ComputeConfig
from ..seppo_core.denoisers.comfy import ComfyDenoiser
from ..seppo_core.errors import ConfigError
from ..seppo_core.evaluation.taste import (
    LEAST_CAPTIONS,
    features,
    judge,
    learn,
    report,
    require_captions,
)
from ..seppo_core.method.references import ReferenceConfig
from ..seppo_core.randomness import derived_seed, normal
from ..seppo_core.settings import Section, from_dict, inputs, setting
from . import host, sockets
from .encoders import decoded_picture, image_encoder, middle_frame, text_encoder
from .evaluate import captions_for, frames_of
from .widgets import widgets


@dataclass(frozen=True)
class TasteSettings(Section):
    winners: int = setting(
        48,
        "How many winners the taste is learned from, at most; the base draws as many pictures of their captions.",
        least=LEAST_CAPTIONS,
        most_shown=10_000,
    )
    batch_size: int = setting(
        4, "Pictures that go through the network at once.", least=1, most_shown=256
    )


class SePPOTaste(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOTaste",
            display_name="SePPO Taste",
            category=sockets.CATEGORY,
            description="Tells how much pictures are like your winners. It learns your taste from the winners and "
            "from what the base draws of the same captions, with the model itself as its eyes: nothing to download.",
            search_aliases=["score", "evaluate", "probe", "similarity", "overfitting"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model, as it went into SePPO Train (not the aligned one).",
                ),
                sockets.Dataset.Input(
                    "dataset", tooltip="The encoded winning images, from SePPO Encode Winners."
                ),
                io.Vae.Input("vae", tooltip="The VAE that the winners were encoded with."),
                io.Clip.Input("clip", tooltip="Encodes the prompts of the pictures."),
                io.Image.Input(
                    "images", tooltip="The pictures to judge, batches or lists of them."
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What the pictures were drawn from: one prompt for all, one on each line, or a list of "
                    "texts. Take prompts that are not among the winners' captions.",
                ),
                *widgets(inputs(TasteSettings)),
                io.Image.Input(
                    "images_b",
                    optional=True,
                    tooltip="What the base drew of the same prompts and seeds, in the same order, to see whether the model "
                    "stayed itself: base_images of SePPO Compare.",
                ),
                sockets.References.Input(
                    "references",
                    optional=True,
                    tooltip="Sampler, steps and guidance for what the base draws; without it the defaults hold. Take "
                    "those that the pictures were drawn with.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative prompt, needed where the base draws with a guidance above 1.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Eyes instead of the model's own, from Load CLIP Vision.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="Taste, how sure it is, whether the model stayed itself, copies, diversity.",
                ),
                io.Float.Output(
                    display_name="taste",
                    tooltip="Mean over the pictures: 0 as the base draws, 1 as your winners are.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: list[Any],
        dataset: list[EncodedDataset],
        vae: list[Any],
        clip: list[Any],
        images: list[Tensor],
        prompts: list[str],
        winners: list[int],
        batch_size: list[int],
        images_b: list[Tensor] | None = None,
        references: list[dict[str, Any]] | None = None,
        negative: list[Any] | None = None,
        clip_vision: list[Any] | None = None,
    ) -> io.NodeOutput:
        settings = TasteSettings(winners[0], batch_size[0])
        pictures = [image[..., :3] for image in frames_of(images, "image")]
        other = frames_of(images_b, "image of images_b") if images_b else []
        before = [image[..., :3] for image in other]
        if before and len(before) != len(pictures):
            raise ConfigError(
                f"images has {len(pictures)} pictures and images_b {len(before)}; connect one partner for each"
            )
        captions = [encodable(text) for text in captions_for(prompts, len(pictures), needed=True)]
        sampling = from_dict(ReferenceConfig, references[0] if references else {})
        denoiser = ComfyDenoiser(model[0], negative[0] if negative else None)
        known = spread(dataset[0], settings.winners)
        names = [example.caption for example in known]
        require_captions(names)
        drawn = drawn_by_base(denoiser, vae[0], dataset[0], known, sampling)
        if clip_vision:
            look = partial(seen_by_clip, clip_vision[0])
            shown = [vae[0].decode(example.latents[None])[0] for example in known]
            seen = [look(group) for group in (shown, drawn, pictures, before)]
        else:
            encode = image_encoder(vae[0])
            once = {text: text_encoder(clip[0])(text) for text in dict.fromkeys(captions)}
            texts = [once[caption] for caption in captions]
            conds = [example.cond for example in known]
            latents = [example.latents for example in known]
            groups = [(latents, conds), ([encode(picture) for picture in drawn], conds)]
            groups += [([encode(p) for p in group], texts) for group in (pictures, before)]
            seen = seen_by_model(denoiser, groups, settings.batch_size)
        of_winners, of_base, of_pictures, of_before = seen
        taste = learn(of_winners, of_base, names)
        found = judge(taste, of_pictures, names, of_before if before else None)
        text = report(found)
        mean = sum(found.scores) / len(found.scores)
        return io.NodeOutput(text, mean, ui=ui.PreviewText(text))


def spread(dataset: EncodedDataset, most: int) -> list[Example]:
    """At most so many winners, evenly over the dataset, each once."""
    count = min(len(dataset.examples), most)
    return [dataset.examples[place * len(dataset.examples) // count] for place in range(count)]


def drawn_by_base(
    denoiser: ComfyDenoiser,
    vae: Any,
    dataset: EncodedDataset,
    known: Sequence[Example],
    sampling: ReferenceConfig,
) -> list[Tensor]:
    """A picture [H, W, 3] of each winner's caption and size; of a video its middle frame."""
    denoiser.check(dataset, ComputeConfig(), sampling, paired=False)
    progress, drawn = host.ItemProgress(), []
    with host.models_leave_if_short(), denoiser.session(ComputeConfig()):
        for place, example in enumerate(known):
            progress(place, 2 * len(known))
            noise = normal(tuple(example.latents.shape), "taste", "base", place)[None]
            seed = derived_seed("taste", "base", place)
            drawn.append(denoiser.sample([example.cond], noise, sampling, seed).cpu())
    pictures = []
    for place, latents in enumerate(drawn):
        progress(len(known) + place, 2 * len(known))
        pictures.append(decoded_picture(vae, denoiser.model, latents))
    return pictures


def seen_by_clip(clip_vision: Any, pictures: Sequence[Tensor]) -> Tensor:
    """Embeddings [N, D] of pictures [H, W, 3], or of clips by their middle frames."""
    rows = [
        clip_vision.encode_image(middle_frame(picture)[None])["image_embeds"].float().cpu()
        for picture in pictures
    ]
    return torch.cat(rows) if rows else torch.zeros(0, 1)


def seen_by_model(
    denoiser: ComfyDenoiser,
    groups: Sequence[tuple[Sequence[Tensor], Sequence[Any]]],
    batch_size: int,
) -> list[Tensor]:
    """Features [N, D] of each group of VAE latents and their conditionings."""
    progress = host.ItemProgress()
    total, done = sum(len(latents) for latents, _ in groups), 0
    seen = []

    def on_item(before: int) -> Callable[[int, int], None]:
        return lambda count, _: progress(before + count, total)

    with host.models_leave_if_short(), denoiser.session(ComputeConfig()):
        for latents, conds in groups:
            scaled = [denoiser.scale_latents(one[None])[0] for one in latents]
            found = torch.zeros(0, 1)
            if scaled:
                found = features(denoiser, scaled, conds, batch_size, on_item(done))
            seen.append(found)
            done += len(latents)
    return seen


NODES = [SePPOTaste]
