"""The small world a benchmark runs in: two styles of emoji, a base that draws both, winners in one, judges for both splits."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo import emoji, judges, pictures, pretrain, studio
from seppo_core.data import EncodedDataset, Example, in_memory

from .measure import Frame, Panel

EYES = {"final": "lite0", "tuning": "lite1"}
"""EfficientNet-lite0 judges the results; what is tuned sees lite1 only."""
SHIPPED = ("twemoji", "openmoji")
EVALUATION = replace(studio.EVALUATION, sampler="dpmpp_2m", sampling_steps=6)
"""How pictures are drawn for the judges: of the base they say R@10 .587 and style .171, with the demo's ten steps of DDIM .587 and .189."""
DRAWS = {"final": 2, "tuning": 4}
"""Pictures of each caption that are judged,"""
LOOKS = {"final": 1, "tuning": 4}
"""and how many of them at every other strength of the LoRA, and during a run."""
NAMES = studio.HERE / "names.json"


@dataclass(frozen=True)
class Description:
    """Which world: everything a worker process needs to build it."""

    base_style: str
    winner_style: str
    work: Path
    """where packages, features and trained bases are kept"""
    strict: bool = False
    """whether the base has never seen the test captions in the winners' style"""
    base: Path | None = None
    """folder of a diffusers UNet; none: the shipped one, or one trained for these styles"""
    winners: Path | None = None
    """folder of pictures named like emoji; none: the style's own"""
    names: Path = NAMES
    more_styles: tuple[tuple[str, str], ...] = ()
    """(style, npm package) besides emoji.PACKAGES"""

    @property
    def packages(self) -> dict[str, str]:
        return emoji.PACKAGES | dict(self.more_styles)

    @property
    def name(self) -> str:
        """Of its results; what is not as shipped has its part in it."""
        return self._named({"base": self.base, "winners": self.winners})

    @property
    def base_name(self) -> str:
        """Of the base that is trained for it, whatever the winners."""
        return self._named({})

    def _named(self, given: dict[str, Path | None]) -> str:
        plain = f"{self.base_style}-{self.winner_style}" + ("-strict" if self.strict else "")
        own = [what + _digest(path) for what, path in given.items() if path]
        own += [_digest(self.names)] if _digest(self.names) != _digest(NAMES) else []
        own += [f"{style}={package}" for style, package in self.more_styles]
        if not own:
            return plain
        return f"{plain}-{hashlib.sha256(' '.join(own).encode()).hexdigest()[:8]}"

    def require(self) -> None:
        """SystemExit with what to do, before any long work."""
        known = sorted(self.packages)
        for style in (self.base_style, self.winner_style):
            if style not in known:
                raise SystemExit(f"unknown style {style!r}; choose from {known}, or --package it")
        if self.base_style == self.winner_style:
            raise SystemExit("the winners' style must not be the base's own")
        if self.base and self.strict:
            raise SystemExit("--strict trains a base of its own; leave --base out")
        for file in ("config.json", "scheduler_config.json") if self.base else ():
            if not (self.base / file).is_file():
                raise SystemExit(f"{self.base} is no folder of a base like demo/model: no {file}")
        if not self.names.is_file():
            raise SystemExit(f"{self.names}: there is no such file")
        names, texts = self.read_names(), studio.Texts()
        unknown = [n for n in [*names.winners, *names.test] if not texts.knows(studio.caption(n))]
        if unknown:
            raise SystemExit(f"{self.names}: the demo has no caption for {unknown[:5]}")
        if shared := sorted(set(names.winners) & set(names.test)):
            raise SystemExit(f"{self.names}: winners must not be tested: {shared[:5]}")
        missing = (
            [n for n in names.winners if not (self.winners / f"{n}.png").is_file()]
            if self.winners
            else []
        )
        if missing:
            raise SystemExit(
                f"{self.winners}: {len(missing)} pictures are missing, first {missing[0]}.png"
            )

    def read_names(self) -> studio.Names:
        return studio.Names(**json.loads(self.names.read_text("utf-8")))


def _digest(path: Path) -> str:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


class World:
    """What jobs share; built once in each process."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.names = description.read_names()
        folder, styles = description.work / "emoji", description.packages
        emoji.fetch(folder, styles)
        self.sets = {style: emoji.EmojiSet(folder, style) for style in styles}
        self.texts = studio.Texts()

    @cached_property
    def base(self) -> Path:
        """Folder of the base; trained first where there is none yet, which takes an hour and more."""
        wanted, styles = (
            self.description,
            (self.description.base_style, self.description.winner_style),
        )
        if wanted.base:
            return wanted.base
        if styles == SHIPPED and not wanted.strict:
            return studio.MODEL
        folder = wanted.work / "bases" / wanted.base_name
        if not (folder / "config.json").is_file():
            pretrain.build(
                wanted.work / "emoji",
                wanted.work / "bases" / f"{wanted.base_name}.pt",
                folder,
                vars(self.names),
                styles,
                pretrain.Plan(),
                withhold_test=wanted.strict,
            )
        return folder

    @cached_property
    def base_digest(self) -> str:
        """The first digits of the sha256 of its weights, by which results name it."""
        found = hashlib.sha256()
        for file in sorted(self.base.glob("diffusion_pytorch_model*")):
            found.update(file.read_bytes())
        return found.hexdigest()[:10]

    def held_out(self) -> list[str]:
        """The third of the winners' names that the tuning judges."""
        return self.names.winners[::3]

    def dataset(self, split: str) -> EncodedDataset:
        """The winners of a split, each with a losing image: the same thing in the base's style."""
        held_out = set(self.held_out()) if split == "tuning" else set()
        names = [n for n in self.names.winners if n not in held_out]
        winning = pictures.encode([self._winner(n) for n in names])
        losing = pictures.encode([self.sets[self.description.base_style].image(n) for n in names])
        return in_memory(
            [
                Example(picture, self.texts[studio.caption(name)], studio.caption(name), other)
                for name, picture, other in zip(names, winning, losing, strict=True)
            ]
        )

    def _winner(self, name: str) -> Image.Image:
        folder = self.description.winners
        if folder is None:
            return self.sets[self.description.winner_style].image(name)
        picture = Image.open(folder / f"{name}.png").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)

    # Judges

    def panel(self, split: str) -> Panel:
        """Final: all test captions. Tuning: the held-out third of the winners, by other eyes."""
        style, base = self.description.winner_style, self.description.base_style
        names = self.names.test if split == "final" else self.held_out()
        among = self.names.test if split == "final" else self.names.winners
        judged = set(self.names.test) | set(self.names.winners)
        unjudged = [n for n in self.everything if n not in judged]
        others = [s for s in self.sets if s not in (style, base)][:2]
        eyes = EYES[split]
        known = torch.stack([self.features(eyes, s, among) for s in others], 1)
        winning, losing = (self.features(eyes, s, unjudged) for s in (style, base))
        jury = judges.fit(
            judges.build_eyes(eyes), winning, losing, dict(zip(among, known, strict=True))
        )
        real = torch.cat([self.features(eyes, s, self.everything) for s in (style, base)])
        held_out = self.features(eyes, style, names)
        return Panel(jury, Frame.of(torch.cat([winning, losing])), names, among, held_out, real)

    @cached_property
    def everything(self) -> list[str]:
        """Names that every style draws."""
        return emoji.picturable_names(self.description.work / "emoji", self.sets)

    def features(self, eyes: str, style: str, names: Sequence[str]) -> Tensor:
        """Features [names, D] of real pictures; kept on disk."""
        drawn_for = hashlib.sha256(" ".join(self.everything).encode()).hexdigest()[:8]
        path = self.description.work / f"features-{eyes}-{style}-{drawn_for}.safetensors"
        if not path.exists():
            drawn = [self.sets[style].image(name) for name in self.everything]
            pixels = pictures.decode(pictures.encode(drawn))
            seen = judges.features(judges.build_eyes(eyes), pixels)
            part = path.with_suffix(".part")
            save_file({"seen": seen}, part)
            part.replace(path)
        seen = load_file(path)["seen"]
        place = {name: i for i, name in enumerate(self.everything)}
        return seen[[place[name] for name in names]]

    def prepare(self) -> None:
        """Whatever takes long and is kept: packages, features, the base. Once, before workers start."""
        for eyes in EYES.values():
            for style in self.sets:
                self.features(eyes, style, self.everything[:1])
        self.base  # noqa: B018
