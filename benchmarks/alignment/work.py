"""One job from beginning to end: train, count, draw, judge."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial

import torch

from demo import studio
from seppo_core import train
from seppo_core.adapters.lora import LoRA
from seppo_core.data import EncodedDataset
from seppo_core.denoisers.diffusers import DiffusersDenoiser
from seppo_core.denoisers.guides import Guide
from seppo_core.errors import NonFiniteLossError

from . import records
from .front import STRONGER, WEAKER, is_base
from .measure import Panel, rounded
from .modes import EVERY
from .records import Job, Record
from .world import DRAWS, EVALUATION, LOOKS, Description, World

CURVE = (1 / 3, 2 / 3)
"""Parts of a run after which its pictures are judged in between."""
METRICS = ("loss", "winner_margin", "flip_rate", "implicit_accuracy", "grad_norm")


class Evaluations:
    """Counts samples that go through a network; one with a gradient counts three, for its backward."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def of(self, network: torch.nn.Module) -> Iterator[None]:
        def count(module: torch.nn.Module, inputs: tuple) -> None:
            self.count += len(inputs[0]) * (3 if torch.is_grad_enabled() else 1)

        hook = network.register_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()


@cache
def world_of(description: Description) -> World:
    return World(description)


@cache
def panel_of(description: Description, split: str) -> Panel:
    return world_of(description).panel(split)


def pictures_of(
    policy: DiffusersDenoiser, world: World, panel: Panel, draws: int, guide: Guide | None = None
) -> torch.Tensor:
    """Inside a session: `draws` pictures of each caption judged, from noise that no run changes."""
    names = list(panel.names) * draws
    drawn = studio.draw_in_session(policy, world.texts, names, EVALUATION, guide)
    return drawn.nan_to_num(0.0)  # black, which is blank


def run(
    description: Description, job: Job, least_content: float, both_ways: bool = False
) -> Record:
    """In a process of its own: torch keeps to one thread, which is faster where several run at once.

    `least_content`: what was learned is looked at with the LoRA weaker or stronger until its content crosses that;
    `both_ways`: drawn with the base as the negative of guidance, too.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    world, panel = world_of(description), panel_of(description, job.split)
    began = time.perf_counter()
    policy = studio.load_policy(world.base)
    policy.network.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    look = partial(scores_of, policy, world, panel, LOOKS[job.split])
    trained = Training() if is_base(job) else align(policy, world.dataset(job.split), job, look)
    with studio.ready(policy):
        draws = DRAWS[job.split]
        pixels = pictures_of(policy, world, panel, draws)
        looked_at = pixels[: LOOKS[job.split] * len(panel.names)]
        front = [{"strength": 1.0} | rounded_all(panel.score(looked_at, LOOKS[job.split]))]
        away: list[dict[str, float]] = []
        if not is_base(job):
            front += crossing(policy.lora, look, front[0]["content"], least_content)
        if both_ways and not is_base(job):
            look_away = partial(look, guide=Guide())
            away = [{"strength": 1.0} | look_away()]
            away += crossing(policy.lora, look_away, away[0]["content"], least_content)
    return Record(
        job,
        rounded_all(panel.score(pixels, draws)),
        front,
        trained.curve,
        trained.metrics,
        len(trained.metrics.get("loss", ())),
        trained.evaluations,
        round(time.perf_counter() - began, 1),
        machine=records.machine(),
        base=world.base_digest,
        away_from_base=away,
    )


@dataclass
class Training:
    """What is kept of a training run besides its weights."""

    curve: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    evaluations: int = 0


def align(
    policy: DiffusersDenoiser, dataset: EncodedDataset, job: Job, look: Callable[[], dict]
) -> Training:
    """Train `policy` as the job says."""
    counted, found, reports = Evaluations(), Training(), []
    looks = {round(part * job.steps) for part in CURVE} if is_shown(job) else set()
    steps = train(policy, dataset, EVERY[job.mode].config(job.settings, job.seed, job.steps))
    for _ in range(job.steps):
        try:
            with counted.of(policy.network):
                reports.append(next(steps).metrics())
        except (
            NonFiniteLossError
        ):  # judged as far as it came: no step that was not finite is applied
            break
        if (step := reports[-1]["step"]) in looks:
            found.curve.append({"step": step} | look())
    steps.close()
    found.metrics = {name: [rounded(report[name]) for report in reports] for name in METRICS}
    found.evaluations = counted.count
    return found


def is_shown(job: Job) -> bool:
    """Whether the pictures are judged during the run, too, for the learning curves."""
    return job.split == "final" and job.seed == 0


def crossing(
    lora: LoRA, look: Callable[[], dict], content: float, least: float
) -> list[dict[str, float]]:
    """What is seen with the LoRA stronger, as long as `content` is at least `least`; or weaker, until it is."""
    weights, seen = lora.state(), []

    def look_at(strength: float) -> None:
        lora.load({k: v * strength if k.endswith(".up") else v for k, v in weights.items()})
        seen.append({"strength": strength} | look())

    was_enough, before = content >= least, 1.0
    for strength in STRONGER if was_enough else WEAKER:
        look_at(strength)
        if (seen[-1]["content"] >= least) != was_enough:
            look_at(round(math.sqrt(before * strength), 3))
            break
        before = strength
    lora.load(weights)
    return seen


def scores_of(
    policy: DiffusersDenoiser, world: World, panel: Panel, draws: int, guide: Guide | None = None
) -> dict[str, float | None]:
    """Of `draws` pictures for each caption."""
    return rounded_all(panel.score(pictures_of(policy, world, panel, draws, guide), draws))


def rounded_all(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: rounded(value) for name, value in scores.items()}
