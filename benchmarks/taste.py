"""Does the taste probe agree with judges it never saw? `python -m benchmarks.taste [--styles BASE WINNERS]`.

In a world of the alignment benchmark the probe learns from the winners and from what the base draws of their captions. Then
runs of several modes are looked at, each with its LoRA at several strengths: the probe's taste beside the judges' style,
its "stayed itself" beside their content.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from demo import pictures, studio
from seppo_core import train
from seppo_core.denoisers.guides import Guide
from seppo_core.evaluation import taste

from .alignment.__main__ import WORK
from .alignment.modes import EVERY, Settings
from .alignment.world import EVALUATION, SHIPPED, Description, World

RUNS = (
    ("guided", Settings(3e-3, guidance=5.0), 180),
    ("guided", Settings(1e-3, guidance=2.0), 90),
    ("sft, equal evaluations", Settings(1e-3), 240),
    ("sft, equal evaluations", Settings(3e-4), 120),
    ("random + indicator", Settings(1e-3), 60),
    ("random + constant", Settings(1e-3), 60),
    ("latest + none", Settings(3e-4), 30),
)
"""Mode, settings, steps: some that are good and some that overdo it."""
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
BATCH = 50


@dataclass(frozen=True)
class Look:
    name: str
    style: float
    content: float
    taste: float
    kept: float

    def __str__(self) -> str:
        numbers = (self.style, self.content, self.taste, self.kept)
        return f"| {self.name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |"


def again_as_pictures(pixels: Tensor) -> list[Tensor]:
    """Latents of what was drawn [N, 3, H, W], once it was a picture with 256 levels, as winners are."""
    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return list(pictures.encode([Image.fromarray(picture) for picture in levels]))


def looks(world: World) -> Iterator[Look]:
    """The base's, then those of every run at every strength."""
    policy, panel, dataset = (
        studio.load_policy(world.base),
        world.panel("final"),
        world.dataset("final"),
    )
    known = [dataset[place] for place in range(len(dataset))]
    conds, captions = [one.cond for one in known], [one.caption for one in known]
    names = list(panel.names)
    texts = [world.texts[studio.caption(name)] for name in names]

    def drawn(names: list[str], guide: Guide | None = None) -> Tensor:
        return studio.draw_in_session(policy, world.texts, names, EVALUATION, guide)

    def seen(latents: list[Tensor], conds: list) -> Tensor:
        return taste.features(policy, latents, conds, BATCH)

    with studio.ready(policy):
        own = drawn(world.names.winners)
        probe = taste.learn(
            seen([one.latents for one in known], conds),
            seen(again_as_pictures(own), conds),
            captions,
        )
        before = drawn(names)
        of_base = seen(again_as_pictures(before), texts)
    say(f"told rightly of pictures not learned from: {probe.accuracy:.1%}\n")

    def look(name: str, guide: Guide | None = None) -> Look:
        pixels = drawn(names, guide)
        judged = panel.score(pixels, 1)
        found = taste.judge(probe, seen(again_as_pictures(pixels), texts), captions, of_base)
        liked = sum(found.scores) / len(found.scores)
        return Look(name, judged["style"], judged["content"], liked, found.kept)

    with studio.ready(policy):
        yield look("base")
    for mode, settings, steps in RUNS:
        policy.lora = None
        for _ in train(policy, dataset, EVERY[mode].config(settings, 0, steps)):
            pass
        weights = policy.lora.state()
        with studio.ready(policy):
            for strength in STRENGTHS:
                policy.lora.load(
                    {k: v * strength if k.endswith(".up") else v for k, v in weights.items()}
                )
                for way, guide in (("", None), (", away from the base", Guide())):
                    name = f"{mode}, {steps} steps, rate {settings.learning_rate:g}, at {strength:g}{way}"
                    yield look(name, guide)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.taste", description=__doc__)
    parser.add_argument("--styles", nargs=2, default=SHIPPED, metavar=("BASE", "WINNERS"))
    parser.add_argument("--base", type=Path)
    parser.add_argument("--work", type=Path, default=WORK)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    description = Description(*options.styles, work=options.work, base=options.base)
    description.require()
    found = []
    for look in looks(World(description)):
        if not found:
            say("| | style | content | taste | stayed itself |\n|---|---|---|---|---|")
        found.append(look)
        say(str(look))
    for mine, theirs in (("taste", "style"), ("kept", "content")):
        columns = [[getattr(look, name) for look in found] for name in (mine, theirs)]
        say(f"rank correlation of {mine} with {theirs}: {spearmanr(*columns).statistic:.3f}")


if __name__ == "__main__":
    main()
