"""The anchor preview and the curves on a real host: their numbers, their picture, and what they leave."""

from __future__ import annotations

import re

import pytest
import torch
from inprocess import GraphError
from runs import dataset, make_run, sampled


@pytest.fixture(scope="module")
def model(host):
    """Float32 weights, so that merging a LoRA rounds nothing worth a name."""
    return host.thin_model("sd15", dtype="fp32")


@pytest.fixture(scope="module")
def run(host, model):
    return make_run(host, "sd15", "preview_run", model=model)


WIDGETS = {
    "winners": 2,
    "first": 0,
    "levels": 3,
    "draws": 2,
    "reference": "initial",
    "reference_step": 0,
    "criterion": "as trained",
    "draw_samples": False,
    "batch_size": 4,
    "seed": 5,
}


def preview(host, model, run=None, kind: str = "sd15", **inputs) -> tuple[torch.Tensor, str]:
    data = inputs.pop("dataset", None) or dataset(host, kind)
    with torch.inference_mode():
        return host.call(
            "SePPOAnchorPreview", model=model, dataset=data, run=run, **{**WIDGETS, **inputs}
        )


def numbers(text: str, what: str) -> list[float]:
    return [float(x) for x in re.findall(rf"{what} ([-+\d.e]+)", text)]


def errors(host, model, position: int) -> torch.Tensor:
    """Errors [6] of a winner on the preview's grid under a MODEL without any path of ours."""
    example = dataset(host, "sd15")[position]
    normal = host.core("randomness").normal
    noise = torch.stack(
        [normal((4, 8, 8), 5, "anchor", position, lv, d) for lv in range(3) for d in range(2)]
    )
    uniform = torch.tensor([1, 1, 3, 3, 5, 5]) / 6
    policy = host.core("denoisers.comfy").ComfyDenoiser(model)
    with torch.inference_mode(False), torch.no_grad():
        with policy.session(host.core("training.config").ComputeConfig()):
            latents = policy.scale_latents(example.latents[None]).expand(6, 4, 8, 8)
            prepared = policy.prepare([example.cond] * 6, (4, 8, 8))
            return (
                policy.residuals(latents, noise, policy.levels(uniform), prepared)
                .square()
                .flatten(1)
                .mean(1)
                .cpu()
            )


def test_margins_are_those_of_the_merged_model_against_the_base(host, model, run):
    """The oracle merges the LoRA by the host's own loader; nothing of ours switches weights there."""
    import comfy.sd
    import comfy.utils

    _, text = preview(host, model, run)
    lora = comfy.utils.load_torch_file(str(run.weights_path()), safe_load=True)
    aligned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    shown = numbers(text, "winner margin")
    assert len(shown) == 2
    for position, value in enumerate(shown):
        after, before = errors(host, aligned, position), errors(host, model, position)
        margin = float((after - before).mean())
        assert abs(margin) > 1e-4
        assert value == pytest.approx(margin, rel=0.01, abs=1e-5)


def test_summary_names_run_entry_and_criterion(host, model, run):
    _, text = preview(host, model, run, criterion="indicator")
    assert text.splitlines()[0].startswith("preview_run")
    assert "policy of step 4 against the initial weights, criterion indicator" in text
    assert "winner 0 (winner 0)" in text and "winner 1 (winner 1)" in text


def test_policy_against_its_own_newest_snapshot_flips_everything(host, model, run):
    """The last step also made the last snapshot: all margins are exactly 0, so sign gives 0."""
    _, text = preview(host, model, run, reference="latest", criterion="sign")
    assert numbers(text, "winner margin") == [0.0, 0.0]
    assert text.count("flips 100%") == 2
    _, text = preview(host, model, run, reference="latest")  # the run's own: none
    assert text.count("flips 0%") == 2


def test_samples_are_drawn_with_a_verdict_for_each(host, model, run):
    without, _ = preview(host, model, run)
    picture, text = preview(host, model, run, draw_samples=True)
    assert text.count("its sample loses") == 2  # criterion none: whatever the margin
    assert picture.shape == without.shape == (1, 580, 1200, 3)
    beside = picture[0, 130:430, 880:1008]
    assert beside.std() > 0.05  # pictures, not paper
    assert 0 <= picture.min() and picture.max() <= 1


def test_same_seed_draws_the_same_picture_and_another_does_not(host, model, run):
    first, again = (preview(host, model, run)[0] for _ in range(2))
    other, _ = preview(host, model, run, seed=6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_step_of_a_snapshot_is_taken_and_an_unknown_one_refused(host, model, run):
    _, text = preview(host, model, run, reference="step", reference_step=2)
    assert "against the snapshot of step 2" in text
    with pytest.raises(
        host.core("errors").ConfigError, match=r"no snapshot of step 3.*\[0, 2, 4\]"
    ):
        preview(host, model, run, reference="step", reference_step=3)


def test_without_a_run_every_architecture_shows_errors_alone(host, kind):
    picture, text = preview(host, host.thin_model(kind), kind=kind, levels=2, draws=1)
    assert picture.shape == (1, 580, 1200, 3)
    assert "flips" not in text and "sample" not in text
    values = numbers(text, "denoising error")
    assert len(values) == 2 and all(0 < value < 100 for value in values)


def test_winners_beyond_the_end_are_left_out_and_a_start_beyond_it_refused(host, model):
    picture, text = preview(host, model, winners=5, first=1, levels=2, draws=1)
    assert picture.shape[1] == 130 + 150 + 150 and "winner 1 (" in text and "winner 0 (" not in text
    with pytest.raises(host.core("errors").DatasetError, match="no winner 2: the dataset counts 2"):
        preview(host, model, first=2)


def test_model_stays_as_it_is(host, model, run):
    before = {key: value.clone() for key, value in model.model_state_dict().items()}
    latents = sampled(model, "sd15")
    preview(host, model, run, draw_samples=True)
    assert torch.equal(sampled(model, "sd15"), latents)
    after = model.model_state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_aligned_or_other_model_is_refused_before_anything_is_loaded(host, model, run):
    import comfy.sd
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(run.weights_path()), safe_load=True)
    aligned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    for wrong in (aligned, host.thin_model("sd15", seed=1)):
        with pytest.raises(host.core("errors").CheckpointError, match="not the aligned one"):
            preview(host, wrong, run)


def test_guidance_without_a_negative_is_refused_only_where_samples_are_drawn(host, model, run):
    references = {"guidance_scale": 4.0, "sampling_steps": 2}
    with pytest.raises(host.core("errors").ConfigError, match="needs a negative"):
        preview(host, model, run, draw_samples=True, references=references)
    preview(host, model, run, references=references, levels=2, draws=1)


def test_cancel_ends_it_and_the_model_samples_as_before(host, model, run):
    import comfy.model_management as management

    latents = sampled(model, "sd15")
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        preview(host, model, run)
    management.interrupt_current_processing(False)
    assert torch.equal(sampled(model, "sd15"), latents)


def test_vae_shows_real_pictures(host, checkpoint):
    model, _, vae = host.node("CheckpointLoaderSimple")().load_checkpoint(checkpoint)
    rough, _ = preview(host, model, levels=2, draws=1)
    real, _ = preview(host, model, vae=vae, levels=2, draws=1)
    left, right = (picture[0, 138:266, 20:148] for picture in (rough, real))
    assert (left - right).abs().mean() > 0.02
    assert torch.equal(rough[0, :, 400:], real[0, :, 400:])


def graph(host, model, run=None) -> dict:
    inputs = {"model": ["1", 0], "dataset": ["2", 0], **WIDGETS, "levels": 2, "draws": 1}
    nodes = {
        "1": host.constant(model),
        "2": host.constant(dataset(host, "sd15")),
        "3": {"class_type": "SePPOAnchorPreview", "inputs": inputs},
    }
    if run is not None:
        nodes["4"] = host.constant(run)
        nodes["5"] = {"class_type": "SePPOCurves", "inputs": {"run": ["4", 0]}}
        inputs["run"] = ["4", 0]
    return nodes


def test_graph_shows_both_pictures_on_their_nodes(host, model, run):
    done = host.run_graph(graph(host, model, run))
    for node in ("3", "5"):
        (shown,) = done.ui[node]["images"]
        assert shown["type"] == "temp" and shown["filename"].endswith(".png")
    assert done["3"][0].shape[2] == done["5"][0].shape[2] == 1200
    assert "winner margin" in done["3"][1]
    assert [m[1].max for m in done.messages if m[0] == "progress"][-1] == 4  # 2 winners, 2 sides


@pytest.mark.parametrize("name, value", [("winners", 0), ("levels", 1), ("draws", 0)])
def test_range_of_a_widget_is_kept(host, model, name, value):
    wrong = graph(host, model)
    wrong["3"]["inputs"][name] = value
    with pytest.raises(GraphError, match=name):
        host.run_graph(wrong)


def test_curves_of_a_finished_run(host, run):
    (picture,) = host.call("SePPOCurves", run=run)
    assert picture.shape == (1, 60 + 3 * 310, 1200, 3)
    assert picture.max() == 1 and picture.min() < 0.3


def test_a_run_that_aims_beyond_the_winners_is_shown_drawn_back(host, model):
    c = host.core("training.config")
    config = c.from_dict(
        c.SePPOConfig,
        c.apply_preset(
            "guided",
            {
                "steps": 12,
                "lora": {"rank": 4},
                "optimizer": {"learning_rate": 0.01, "warmup": 0.0},
                "run": {"directory": str(host.output / "seppo" / "beyond"), "preview_every": 0},
            },
        ),
    )
    run = make_run(host, "sd15", "beyond", model=model, config=config)
    assert run.metrics()[0]["winner_margin"] == 0.0 > run.metrics()[-1]["winner_margin"]
    _, text = preview(host, model, run)
    assert all(margin < 0 for margin in numbers(text, "winner margin"))
    (picture,) = host.call("SePPOCurves", run=run)
    assert picture.shape[2] == 1200


def test_every_input_has_a_tooltip_and_a_working_default(host):
    for node in host.module("nodes.preview").NODES + host.module("nodes.save").NODES:
        for entry in node.define_schema().inputs:
            assert len(entry.tooltip) > 20, f"{node.__name__}.{entry.id}"
            if hasattr(entry, "default") and getattr(entry, "socketless", None):
                assert entry.default is not None
