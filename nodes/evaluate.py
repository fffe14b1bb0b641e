"""Scores of pictures by models that people's preferences were put into."""

from collections.abc import Callable, Sequence

from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..seppo_core.data.pictures import picture_from_tensor
from ..seppo_core.errors import ConfigError
from ..seppo_core.evaluation import SCORERS, make_scorer
from ..seppo_core.evaluation.scoring import (
    Choice,
    fetch,
    find,
    require_fetchable,
    require_loadable,
    score,
)
from ..seppo_core.evaluation.statistics import compare, comparison_line, summary
from ..seppo_core.evaluation.weights import HUB
from . import host, queued, sockets

LISTED = 40
"""Pictures whose scores a report names one by one."""

WEIGHTS = (
    "Empty: the scorer's usual folder in models/seppo_scorers. Else a folder or file in there, or "
    "hub: and the scorer's repository to download it, as hub:yuvalkirstain/PickScore_v1."
)


class SePPOScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="SePPOScore",
            display_name="SePPO Score",
            category=sockets.CATEGORY,
            description="Scores pictures with a model of people's preferences, alone or against other "
            "pictures of the same prompts. Scores are kept: the same picture again takes no time.",
            search_aliases=["pickscore", "hps", "aesthetic", "clip score", "evaluate", "win rate"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="The pictures to score, batches or lists of them."
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What the pictures were drawn from: one prompt for all, one on each line, or a "
                    "list of texts. The aesthetic scorer reads none.",
                ),
                io.Combo.Input(
                    "scorer",
                    options=list(SCORERS),
                    default="pickscore",
                    tooltip="pickscore, hpsv2.1: what people preferred for a prompt. aesthetic: how it looks, "
                    "whatever the prompt. clip: how well it fits the prompt.",
                ),
                io.String.Input("weights", default="", tooltip=WEIGHTS),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Pictures scored at once. Lower it if memory is short; the scores stay the same.",
                ),
                io.Image.Input(
                    "images_b",
                    optional=True,
                    tooltip="Pictures to compare with: one for each of `images`, in the same order and for "
                    "the same prompts. The report says how often and by how much `images` scores higher.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="Mean and spread of the scores, and how the two sets of images compare.",
                ),
                io.Float.Output(
                    display_name="mean",
                    tooltip="Mean score of `images`.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, weights: Sequence[str | None] = queued.UNKNOWN) -> bool | str:
        given = queued.inputs()
        scorer, prompts = given.get("scorer"), given.get("prompts")

        def check() -> None:
            if weights[0] is not None:
                require_at_hand(scorer, weights[0])
            if isinstance(prompts, str) and not lines_of(prompts):
                captions_for([], 1, make_scorer(scorer).reads_captions)

        # What is linked is known only when the graph runs.
        return queued.checked(cls, check) if isinstance(scorer, str) else True

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        prompts: list[str],
        scorer: list[str],
        weights: list[str],
        batch_size: list[int],
        images_b: list[Tensor] | None = None,
    ) -> io.NodeOutput:
        name = scorer[0]
        sides = [pictures_of(images, "image")]
        if images_b:
            sides.append(pictures_of(images_b, "image of images_b"))
            if len(sides[1]) != len(sides[0]):
                raise ConfigError(
                    f"images has {len(sides[0])} pictures and images_b {len(sides[1])}; connect one partner "
                    "for each"
                )
        captions = captions_for(prompts, len(sides[0]), make_scorer(name).reads_captions)
        choice = chosen(name, weights[0])
        columns = scored(choice, sides, captions, batch_size[0])
        report = report_of(name, columns, captions)
        mean = sum(columns[0]) / len(columns[0])
        return io.NodeOutput(report, mean, ui=ui.PreviewText(report))


def frames_of(batches: Sequence[Tensor], word: str) -> list[Tensor]:
    """Every picture [H, W, C] of a list of batches; ConfigError if there is none."""
    every = [image for batch in batches if batch is not None for image in batch]
    if not every:
        raise ConfigError(f"no {word} is there; connect at least one")
    return every


def pictures_of(batches: Sequence[Tensor], word: str) -> list[Image.Image]:
    """Every picture of a list of batches [B, H, W, C]; ConfigError if there is none."""
    every = enumerate(frames_of(batches, word), 1)
    return [picture_from_tensor(image, f"{word} {i}").load() for i, image in every]


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def captions_for(prompts: Sequence[str], count: int, needed: bool) -> list[str]:
    """One for each of `count` pictures: a list as it is, a single text by its lines."""
    given = lines_of(prompts[0]) if len(prompts) == 1 else list(prompts)
    if not needed and len(given) != count:
        return [""] * count
    if not given:
        raise ConfigError("write one prompt for all pictures, or one on each line for each")
    if len(given) not in (1, count):
        raise ConfigError(
            f"{count} pictures but {len(given)} prompts; write one prompt for all, or one on each line for "
            "each picture"
        )
    return given * count if len(given) == 1 else given


def chosen(name: str, weights: str) -> Choice:
    """The scorer with its files; ConfigError or ScorerError says what is wrong with them."""
    if from_hub(name, weights):
        return find(name, fetch(name, weights.strip()), host.clip_words())
    return on_disk(name, weights)


def on_disk(name: str, weights: str) -> Choice:
    place = host.scorers_path(weights.strip() or make_scorer(name).folder)
    return find(name, place, host.clip_words())


def from_hub(name: str, weights: str) -> bool:
    """Whether the weights are fetched; ConfigError if graphs may not ask for these."""
    scorer, weights = make_scorer(name), weights.strip()
    if weights.startswith(HUB) and weights.removeprefix(HUB) not in scorer.hub:
        known = ", ".join(HUB + repository for repository in scorer.hub) or "none"
        raise ConfigError(
            f"{host.quoted(weights)} is not downloaded for {name}; graphs may ask for {known}. Others "
            f"you download yourself, into models/{host.SCORERS}"
        )
    return weights.startswith(HUB)


def require_at_hand(name: str, weights: str) -> None:
    """When a graph is queued: ConfigError or ScorerError if these weights cannot be had; nothing is fetched."""
    if from_hub(name, weights):
        require_fetchable(name, weights.strip())
    else:
        on_disk(name, weights)


def scored(
    choice: Choice,
    sides: Sequence[Sequence[Image.Image]],
    captions: Sequence[str],
    batch_size: int,
    on_item: Callable[[int, int], None] | None = None,
) -> list[list[float]]:
    """Scores of each side's pictures with the same captions; both go through the scorer as one."""
    cache = host.cache_root() / "scores"
    size = sum(path.stat().st_size for path in choice.files)
    every = score(
        choice,
        [picture for side in sides for picture in side],
        [*captions] * len(sides),
        cache=cache,
        device=host.room_for(2 * size),
        batch_size=batch_size,
        on_item=on_item or host.ItemProgress(),
    )
    return [every[start : start + len(captions)] for start in range(0, len(every), len(captions))]


def require_usable(choice: Choice) -> None:
    """Before long work: ScorerError if these weights cannot be used."""
    require_loadable(choice, host.cache_root() / "scores")


def report_of(name: str, columns: Sequence[Sequence[float]], captions: Sequence[str]) -> str:
    """The means, the comparison if there is one, and the single scores."""
    numbers = [str(place) for place in range(1, len(captions) + 1)]
    lines = [summary(name, columns[0], numbers)]
    if len(columns) == 2:
        lines.append(comparison_line(name, compare(columns[1], columns[0]), "images_b", "images"))
    for number, caption, *values in zip(numbers, captions, *columns, strict=True):
        if int(number) > LISTED:
            lines.append(f"and {len(captions) - LISTED} more")
            break
        lines.append(" ".join([f"{number}.", *(f"{v:.4g}" for v in values), caption]).strip())
    return "\n".join(lines)


NODES = [SePPOScore]
