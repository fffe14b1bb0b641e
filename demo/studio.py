"""What the demo and its tuning share: the shipped model as a policy, the winners as a dataset, drawing and measuring."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from seppo_core.adapters.lora import LoRAConfig
from seppo_core.data import EncodedDataset, Example, in_memory, read_winners
from seppo_core.denoisers import ComputeConfig
from seppo_core.denoisers.diffusers import DiffusersDenoiser
from seppo_core.denoisers.guides import Guide
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import derived_seed, normal
from seppo_core.training.config import RunConfig, SePPOConfig
from seppo_core.training.optim import OptimizerConfig

from . import captions, pictures
from .judges import Judges, Score

HERE = Path(__file__).parent
MODEL = HERE / "model"
LATENT_SHAPE = (12, pictures.SIZE // 2, pictures.SIZE // 2)
EVALUATION = ReferenceConfig(sampler="ddim", sampling_steps=10, guidance_scale=2.0, batch_size=50)
"""How pictures are drawn for the judges, before and after alike."""
EVALUATION_SEED = 2024
DRAWS = 2
"""Pictures per caption that the judges see, from as many noises."""
REAL_COLUMNS = 15


@dataclass(frozen=True)
class Names:
    """Names of things, as lists without overlap: what the winners show, and what the test asks for."""

    winners: list[str]
    test: list[str]


def read_names() -> Names:
    return Names(**json.loads((HERE / "names.json").read_text("utf-8")))


def caption(name: str) -> str:
    return name.replace("-", " ")


class Texts:
    """Captions as conditioning, from the shipped states."""

    def __init__(self) -> None:
        self._states = captions.load(HERE / "captions.safetensors")

    def knows(self, text: str) -> bool:
        return text in self._states

    def __getitem__(self, text: str) -> dict[str, Tensor]:
        return {"embeds": captions.pad([self._states[text]])[0]}


def load_policy(folder: Path = MODEL) -> DiffusersDenoiser:
    """The shipped base in float32 behind the product's own adapter; the empty caption is its negative."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=False
    )
    empty = {"embeds": torch.zeros(captions.TOKENS, captions.TEXT_WIDTH)}
    scheduler = DDPMScheduler.from_pretrained(folder)
    return DiffusersDenoiser(network, scheduler, negative=empty, name="seppo-emoji-32")


def read_dataset(texts: Texts, keep: Sequence[str] | None = None) -> EncodedDataset:
    """The shipped winners, encoded; `keep` names those wanted."""
    winners = read_winners(HERE / "winners")
    wanted = [w for w in winners if keep is None or Path(w.name).stem in set(keep)]
    latents = pictures.encode([winner.load() for winner in wanted])
    return in_memory(
        [
            Example(picture, texts[winner.caption], winner.caption)
            for winner, picture in zip(wanted, latents, strict=True)
        ]
    )


def settings(steps: int, seed: int) -> SePPOConfig:
    """The demo's run; README.md says how these values were found."""
    return SePPOConfig(
        steps=steps,
        batch_size=12,
        seed=seed,
        loss=LossConfig(beta=200.0, criterion="indicator"),
        references=ReferenceConfig(
            selection="random",
            snapshot_every=30,
            reuse=2,
            sampler="ddim",
            sampling_steps=8,
            guidance_scale=1.0,
            batch_size=12,
        ),
        lora=LoRAConfig(rank=16, modules="linear", pattern=r"^(?!time_embedding)"),
        optimizer=OptimizerConfig(learning_rate=7e-4),
        run=RunConfig(preview_every=0),
    )


@contextmanager
def ready(policy: DiffusersDenoiser) -> Iterator[None]:
    """The policy with its LoRA, if it has one, ready to draw."""
    with policy.session(ComputeConfig()):
        with policy.lora.attached() if policy.lora else nullcontext():
            yield


def draw(
    policy: DiffusersDenoiser, texts: Texts, names: Sequence[str], sampling: ReferenceConfig
) -> Tensor:
    """One picture per name, pixels (names, 3, 32, 32) in [0, 1]; a name's noise depends on nothing else.

    A name that occurs again gets other noise.
    """
    with ready(policy):
        return draw_in_session(policy, texts, names, sampling)


def draw_in_session(
    policy: DiffusersDenoiser,
    texts: Texts,
    names: Sequence[str],
    sampling: ReferenceConfig,
    guide: Guide | None = None,
) -> Tensor:
    """As `draw`, where the policy is ready already."""
    seen: dict[str, int] = {}
    noise = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        noise.append(normal(LATENT_SHAPE, EVALUATION_SEED, name, seen[name]))
    drawn = []
    for first in range(0, len(names), sampling.batch_size):
        part = slice(first, first + sampling.batch_size)
        conds = [texts[caption(name)] for name in names[part]]
        seed = derived_seed(EVALUATION_SEED, first)
        drawn.append(policy.sample(conds, torch.stack(noise[part]), sampling, seed, guide))
    return pictures.decode(torch.cat(drawn))


def measure(
    policy: DiffusersDenoiser,
    texts: Texts,
    judges: Judges,
    names: Sequence[str],
    among: Sequence[str],
    sampling: ReferenceConfig = EVALUATION,
) -> tuple[Score, Tensor]:
    """What the judges say of the policy's pictures for `names`, and the pictures."""
    pixels = draw(policy, texts, names, sampling)
    return judges.score(pixels, list(names), list(among)), pixels


def real_pictures(style: str, count: int) -> list[Image.Image]:
    """The real pictures of the first `count` test names in `style` (a page in real/)."""
    page = Image.open(HERE / "real" / f"{style}.png").convert("RGB")
    size = pictures.SIZE
    rows = math.ceil(count / REAL_COLUMNS)
    places = [(x * size, y * size) for y in range(rows) for x in range(REAL_COLUMNS)]
    return [page.crop((x, y, x + size, y + size)) for x, y in places[:count]]


def judge_real(judges: Judges, names: Sequence[str], among: Sequence[str]) -> dict[str, float]:
    """The judges' own worth on real pictures of `names` (the first test names), which they never saw."""
    scores, right = {}, []
    for style in ("openmoji", "twemoji"):
        pixels = pictures.decode(pictures.encode(real_pictures(style, len(names))))
        seen = judges.features(pixels)
        probability = judges.style(seen, torch.zeros(len(seen), dtype=torch.bool))
        right.append((probability > 0.5) == (style == "openmoji"))
        scores[style] = probability.mean().item()
        found = judges.found(seen, list(names), list(among))
        scores[f"{style}_content"] = found.float().mean().item()
    scores["style_accuracy"] = torch.cat(right).float().mean().item()
    return scores
