"""A run that an earlier pack left in the output folder goes on, is saved and looked at (`old_run/make.py` made it)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_stopped_runs import Graph
from training import dataset

OLD = Path(__file__).parent / "old_run"
MADE_ON = (0, 33, 0)
STEPS = 5


@pytest.fixture
def made(host):
    """The graph of the old run, and in the output folder what was left when it was stopped at step 3."""
    graph = Graph(host, "old_run", steps=STEPS, rank=1)
    graph.prompt["optimizer"]["inputs"]["pattern"] = "attn"
    shutil.copytree(OLD / "stopped", graph.run.directory)
    yield graph
    shutil.rmtree(graph.run.directory)


def test_an_old_run_goes_on_to_where_the_old_pack_would_have_come(host, made):
    if host.version != MADE_ON:
        pytest.skip("another ComfyUI has other schedules, so there it is another run")
    assert made.queue(restarted=True)[2].startswith(f"old_run: stopped at step 3 of {STEPS}")
    before = made.run.metrics()
    made.run.ask_to_go_on()
    assert made.queue()[2].endswith(f"done at step {STEPS} of {STEPS}")
    assert made.run.metrics()[:3] == before and made.steps() == STEPS
    expected, _ = host.core("adapters.files").load_lora(OLD / "aligned.safetensors")
    found = made.run.weights()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name


@pytest.fixture
def model(host, made):
    """The MODEL as the graph's loader gives it."""
    import nodes

    return nodes.UNETLoader().load_unet(host.thin_name("sd3"), "default")[0]


@pytest.mark.parametrize("format", ["comfy", "diffusers", "checkpoint"])
def test_an_old_run_is_saved_in_each_format(host, made, model, format):
    (run,) = host.call("SePPOLoadRun", run_name="old_run")
    settings = {"filename_prefix": "old", "format": format, "strength": 1.0, "snapshot": -1}
    (path,) = host.call("SePPOSaveAligned", run=run, model=model, **settings)
    assert Path(path).stat().st_size > 10_000


def test_an_old_run_has_its_anchor_view_and_its_curves(host, made, model):
    (run,) = host.call("SePPOLoadRun", run_name="old_run")
    settings = {"winners": 2, "first": 0, "levels": 2, "draws": 2, "batch_size": 4, "seed": 0}
    settings |= {"reference": "step", "reference_step": 2, "criterion": "as trained"}
    picture, text = host.call(
        "SePPOAnchorPreview",
        model=model,
        dataset=dataset(host, "sd3"),
        run=run,
        draw_samples=True,
        **settings,
    )
    assert "policy of step 3 against the snapshot of step 2, criterion sign" in text
    assert picture.shape[2] == host.call("SePPOCurves", run=run)[0].shape[2] == 1200
