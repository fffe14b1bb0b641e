"""Runs that earlier code left on disk load, go on and are saved (`old_run/make.py` made this one)."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import TinyDenoiser, examples

from seppo_core import train
from seppo_core.adapters.files import COMPONENTS, FORMATS, load_lora, save_lora
from seppo_core.data import in_memory
from seppo_core.runs.run import Run
from seppo_core.training.config import config_of
from seppo_core.training.metadata import describe
from seppo_core.views.anchor import PreviewSettings, preview, summary
from seppo_core.views.plots import curves, series

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def run(tmp_path) -> Run:
    """A copy of the run that its user stopped after 5 of 9 steps, within a window of two."""
    return Run(shutil.copytree(OLD / "stopped", tmp_path / "stopped"))


def gone_on(run: Run) -> list[int]:
    """The steps taken when training goes on with the settings that run.json holds."""
    dataset = in_memory(examples(6))
    dataset.held_out = in_memory(examples(8)[6:])
    config = config_of(run.about())
    config = replace(config, run=replace(config.run, directory=str(run.directory)))
    return [report.step for report in train(TinyDenoiser(), dataset, config)]


def test_an_old_run_is_whole_and_stopped(run):
    status = run.status()
    assert (status.state, status.step, status.steps) == ("stopped", 5, 9)
    assert run.snapshot_steps() == [0, 2, 4]
    assert run.newest(thoroughly=True).step == 5
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5]


def test_an_old_run_goes_on_to_where_the_old_code_would_have_come(run):
    created, lines = run.about()["created"], run.metrics()
    assert gone_on(run) == [6, 7, 8, 9]
    assert run.about()["created"] == created
    assert run.metrics()[:5] == lines and run.status().state == "done"
    expected, about = load_lora(OLD / "aligned.safetensors")
    found = run.weights()
    assert about["seppo.step"] == "9" and found.keys() == expected.keys()
    for name, value in expected.items():
        # Equal to the bit with the torch and the one thread that made it; others add up in another order.
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("format", FORMATS)
def test_an_old_run_is_saved_in_each_key_format(run, tmp_path, format, component):
    weights, config = run.weights(), config_of(run.about())
    path = tmp_path / "saved.safetensors"
    facts = describe(run.about(), run.name, run.step())
    scale = config.lora.scale
    save_lora(path, weights, scale=scale, format=format, component=component, metadata=facts)
    again, told = load_lora(path, scale)
    assert told["seppo.run"] == "stopped" and told["seppo.step"] == "5"
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_an_old_run_has_its_anchor_view_and_its_curves(run):
    settings = PreviewSettings(winners=2, levels=2, draws=2, reference="step", reference_step=4)
    shown = preview(TinyDenoiser(), in_memory(examples(6)), run, settings)
    assert "policy of step 5 against the snapshot of step 4, criterion sign" in summary(shown)
    assert shown.anchors.means.abs().min() > 0 and len(shown.verdicts) == 2
    assert series(run.metrics(), "held_out_margin")[0] == [2, 4]
    assert curves(run.metrics(), run.name).width == 1200
