"""Each row of docs/contributing.md is followed: what it says is written here, and nothing else is needed to train with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from tiny import TinyDenoiser, examples
from torch import Tensor, nn

from seppo_core.adapters import files
from seppo_core.adapters.lora import ADAPTERS, MODULES, LoRAConfig, is_linear
from seppo_core.data import in_memory
from seppo_core.data.pictures import PictureFile
from seppo_core.data.readers import READERS, Reader, read_winners
from seppo_core.data.winners import Winner, Winners
from seppo_core.errors import ConfigError
from seppo_core.evaluation import SCORERS, make_scorer
from seppo_core.method.levels import DISTRIBUTIONS, LevelConfig
from seppo_core.method.objectives import (
    CRITERIA,
    OBJECTIVES,
    LossConfig,
    Objective,
    winner_error,
)
from seppo_core.method.references import SELECTIONS, ReferenceConfig
from seppo_core.runs.run import Run
from seppo_core.settings import Section, inputs, setting
from seppo_core.training.config import RunConfig, SePPOConfig
from seppo_core.training.optim import OPTIMIZERS, SCHEDULES, OptimizerConfig
from seppo_core.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "contributing.md"
CONFIG = SePPOConfig(
    steps=3,
    batch_size=2,
    lora=LoRAConfig(rank=2),
    references=ReferenceConfig(sampling_steps=2, snapshot_every=1),
    optimizer=OptimizerConfig(learning_rate=0.01),
)


def trained(**sections) -> list:
    dataset = in_memory(examples(4))
    return list(train(TinyDenoiser(), dataset, replace(CONFIG, **sections)))


def a_criterion(patch):
    patch.setitem(CRITERIA, "half", lambda anchor, weight: torch.full_like(anchor, 0.5))
    rows = [row for report in trained(loss=LossConfig(criterion="half")) for row in report.examples]
    assert len(rows) == 6 and {row.role for row in rows} == {0.5}


def an_objective(patch):
    def margin(policy, reference, config):
        terms = winner_error(policy, reference, config)
        ahead = policy.winner - reference.winner
        return replace(terms, loss=terms.loss + ahead, winner_margin=ahead)

    patch.setitem(OBJECTIVES, "margin", Objective(margin, compares=True, contrasts=False))
    reports = trained(loss=LossConfig(objective="margin"))
    assert [report.reference_step for report in reports][0] == 0
    assert reports[0].winner_margin == 0 and reports[2].winner_margin is not None
    assert reports[2].flip_rate is None and reports[2].sample_margin_losing is None


def a_selection(patch):
    patch.setitem(SELECTIONS, "second", lambda count, generator: min(1, count - 1))
    references = replace(CONFIG.references, selection="second")
    reports = trained(references=references, loss=LossConfig())
    assert [report.reference_step for report in reports] == [0, 1, 1]


def a_distribution(patch):
    patch.setitem(DISTRIBUTIONS, "noisiest", lambda numbers: numbers * 0.1 + 0.9)
    for report in trained(levels=LevelConfig("noisiest")):
        assert all(row.level >= 0.9 for row in report.examples)


@dataclass(frozen=True)
class Bias:
    """An adapter of one part: what is added to a layer's output."""

    parts: ClassVar[tuple[str, ...]] = ("bias",)

    name: str
    module: nn.Module

    @classmethod
    def of(cls, name, module, config):
        return cls(name, module)

    @property
    def shapes(self):
        return ((self.module.out_features,),)

    def initial(self, seed: int) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(shape) for shape in self.shapes)

    def ready(self, *weights: Tensor) -> tuple[Tensor, ...]:
        return weights

    def __call__(self, x: Tensor, output: Tensor, scale: float, bias: Tensor) -> Tensor:
        return output + scale * bias


def an_adapter(patch, home):
    patch.setitem(ADAPTERS, "bias", Bias)
    lora = LoRAConfig(adapter="bias", rank=4, alpha=2)
    run = RunConfig(directory=str(home))
    assert trained(lora=lora, run=run)[-1].loss is not None
    read, _ = files.load_lora(Run(home).weights_path(), lora.scale)
    assert set(read) == {"text.bias", "attn_mix.bias", "out.bias"}
    assert all(weight.any() for weight in read.values())
    longer = replace(CONFIG, steps=5, lora=lora, run=run)
    reports = list(train(TinyDenoiser(), in_memory(examples(4)), longer))
    assert [report.step for report in reports] == [4, 5]


def layers(patch):
    patch.setitem(MODULES, "last", lambda name, module: is_linear(name, module) and name == "out")
    dataset, policy = in_memory(examples(4)), TinyDenoiser()
    list(train(policy, dataset, replace(CONFIG, lora=LoRAConfig(rank=2, modules="last"))))
    assert set(policy.lora.state()) == {"out.down", "out.up"}


def a_format(patch, home):
    short = files.Format({"down": ".a", "up": ".b"}, "")
    patch.setitem(files.FORMATS, "short", short)
    weights = {"x.down": torch.ones(2, 3), "x.up": torch.ones(4, 2)}
    about = {"scale": 0.5, "format": "short", "component": "transformer", "metadata": {}}
    files.save_lora(home.with_suffix(".safetensors"), weights, **about)
    read, _ = files.load_lora(home.with_suffix(".safetensors"), 0.5)
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in weights.items()
    }


def an_optimizer(patch):
    def sgd(parameters, config):
        return torch.optim.SGD(parameters, lr=config.learning_rate)

    patch.setitem(OPTIMIZERS, "sgd", sgd)
    assert trained(optimizer=OptimizerConfig(name="sgd"))[-1].loss is not None


def a_schedule(patch):
    patch.setitem(SCHEDULES, "halved", lambda progress: 0.5)
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="halved", warmup=0.0)
    assert [report.lr for report in trained(optimizer=optimizer)] == [0.005] * 3


def a_sampler(patch):
    from diffusers import DDPMScheduler, EulerDiscreteScheduler

    from seppo_core.denoisers import diffusers as denoisers

    def heun_like(scheduler, is_flow, karras):
        return EulerDiscreteScheduler.from_config(scheduler.config, use_karras_sigmas=karras)

    patch.setitem(denoisers.SAMPLERS, "mine", heun_like)
    denoiser = denoisers.DiffusersDenoiser.__new__(denoisers.DiffusersDenoiser)
    denoiser.scheduler, denoiser.is_flow = DDPMScheduler(), False
    solver = denoiser._make_solver(ReferenceConfig(sampler="mine"))
    assert isinstance(solver, EulerDiscreteScheduler)


def a_reader(patch, home):
    def read(path, reading):
        """Lists of pictures that lie beside them, each by its name and a caption."""
        rows = [line.split(" ", 1) for line in (path / "all.list").read_text("utf-8").splitlines()]
        return Winners([Winner(PictureFile(path / n, n), text) for n, text in rows], path.name)

    patch.setitem(READERS, "list", Reader(read, frozenset({".list"})))
    home.mkdir()
    Image.new("RGB", (8, 8), "red").save(home / "a.png")
    (home / "all.list").write_text("a.png a red square")
    (winner,) = read_winners(home, reader="list")
    assert winner.caption == "a red square" and winner.load().size == (8, 8)


def a_scorer(patch):
    patch.setitem(SCORERS, "mine", SCORERS["pickscore"])
    assert make_scorer("mine") is SCORERS["pickscore"]


def a_setting(patch):
    @dataclass(frozen=True)
    class Share(Section, section="part"):
        share: float = setting(0.5, "How much. More is stronger.", least=0, most=1)

    (one,) = inputs(Share)
    assert (one.name, one.type, one.default, one.about.most) == ("share", float, 0.5, 1)
    with pytest.raises(ConfigError, match=r"part.share must lie in \[0, 1\], got 2"):
        Share(2)


def a_node(patch):
    files_with_nodes = {
        path.stem
        for path in (ROOT / "nodes").glob("*.py")
        if "\nNODES = [" in path.read_text("utf-8")
    } - {"__init__"}
    rows = re.findall(r"\*(\w+)\.NODES", (ROOT / "nodes" / "__init__.py").read_text("utf-8"))
    assert set(rows) == files_with_nodes and len(rows) == len(files_with_nodes)


def a_panel(patch):
    for path in (ROOT / "web").glob("*.js"):
        assert "registerExtension({" in path.read_text("utf-8"), path.name


FOLLOWED = {
    "setting": a_setting,
    "anchor criterion": a_criterion,
    "objective": an_objective,
    "reference selection": a_selection,
    "noise-level distribution": a_distribution,
    "adapter": an_adapter,
    "layers that learn": layers,
    "key format of LoRA files": a_format,
    "optimizer": an_optimizer,
    "learning-rate schedule": a_schedule,
    "sampler of diffusers pipelines": a_sampler,
    "reader of a dataset format": a_reader,
    "scorer": a_scorer,
    "node": a_node,
    "page panel": a_panel,
}


def test_every_row_of_the_page_is_followed_here():
    rows = re.findall(r"^\| ([a-zA-Z -]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows == ["new", *FOLLOWED]


@pytest.mark.parametrize("row", FOLLOWED)
def test_what_a_row_says_is_enough(row, monkeypatch, tmp_path):
    follow = FOLLOWED[row]
    home = {"home": tmp_path / "home"} if follow.__code__.co_argcount == 2 else {}
    follow(monkeypatch, **home)
