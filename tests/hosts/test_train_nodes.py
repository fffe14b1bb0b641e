"""SePPOTrain on a real host: what comes out, and what stays as it was."""

from __future__ import annotations

import json

import pytest
import torch
from inprocess import GraphError
from runs import config_of
from thin import thin_conditioning, thin_latent
from training import conditionings, dataset, graph, run_of, sampled


def test_every_architecture_trains_and_the_aligned_model_differs(host, kind):
    prompt = graph(host, kind, f"arch_{kind}")
    outputs = host.run_graph(prompt, wanted=["train"])
    base, aligned = outputs["model"][0], outputs["train"][0]
    before = sampled(host, kind, base)
    after = sampled(host, kind, aligned)
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    lines = run_of(host, f"arch_{kind}").metrics()
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert (lines[0]["winner_margin"], lines[0]["flip_rate"]) == (0.0, 1.0)


def test_the_model_it_was_given_is_left_to_the_bit(host, kind):
    model = host.thin_model(kind)
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    before = sampled(host, kind, model)
    prompt = graph(host, kind, f"left_{kind}", optimizer={"gradient_checkpointing": True})
    prompt["model"] = host.constant(model)
    host.run_graph(prompt, wanted=["train"])
    after = model.model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[k], after[k]) for k in weights)
    assert torch.equal(sampled(host, kind, model), before)
    assert not any(m._forward_hooks for m in model.model.modules())
    assert not any("forward" in vars(m) for m in model.model.modules())


def test_the_lora_is_not_mapped_from_a_file_of_the_run(host):
    """Windows can neither replace nor remove a mapped file, and the run goes on."""
    outputs = host.run_graph(graph(host, "sd3", "mapped", train={"steps": 1}), wanted=["train"])
    lora, path = outputs["train"][1], outputs["train"][3].weights_path()
    before = {key: value.clone() for key, value in lora.items()}
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\1" * 4096)
    assert all(torch.equal(lora[key], before[key]) for key in before)


def test_the_weights_of_the_base_are_hashed_once(host, monkeypatch):
    core = host.core("denoisers.comfy")
    hashed, original = [], core.patcher_identity

    def counted(patcher, *args, **kwargs):
        hashed.append(patcher)
        return original(patcher, *args, **kwargs)

    monkeypatch.setattr(core, "patcher_identity", counted)
    host.run_graph(graph(host, "sd3", "hashed", train={"steps": 1}), wanted=["train"])
    assert len(hashed) == 1


def test_training_inside_equals_sampling_with_the_lora_applied(host):
    """The paths beside the layers and the host's own patching of weights are the same model."""
    kind = "sd15"
    outputs = host.run_graph(graph(host, kind, "inside", dtype="fp32"), wanted=["train"])
    aligned, run = outputs["train"][0], outputs["train"][3]
    core = host.core("denoisers.comfy")
    lora_module, config = host.core("adapters.lora"), config_of(host, run)
    with torch.inference_mode(False):
        policy = core.ComfyDenoiser(outputs["model"][0])
        with policy.session(config.compute):
            lora = lora_module.LoRA(policy.network, config.lora, 0, policy.device)
            lora.load(run.weights())
            noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
            with lora.attached():
                inside = policy.sample(
                    [thin_conditioning(kind, seed=1)], noise, config.references, 5
                )
        patched = core.ComfyDenoiser(aligned)
        with patched.session(config.compute):
            outside = patched.sample([thin_conditioning(kind, seed=1)], noise, config.references, 5)
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-4)


def test_same_seed_same_lora_whatever_the_global_generator_did(host):
    first = host.run_graph(graph(host, "sd15", "seed_a"), wanted=["train"])["train"][1]
    torch.manual_seed(987)
    torch.rand(5)
    again = host.run_graph(graph(host, "sd15", "seed_b"), wanted=["train"])["train"][1]
    other = host.run_graph(graph(host, "sd15", "seed_c", train={"seed": 1}), wanted=["train"])
    assert first.keys() == again.keys()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other["train"][1][k]) for k in first)


@pytest.mark.parametrize("kind", ["sd15", "sd3", pytest.param("sdxl", marks=pytest.mark.thorough)])
def test_a_batch_equals_as_many_accumulated_batches_of_one(host, kind):
    """The native trainer mixes the captions of a batch; here every winner has its own, and its sample too.

    Four steps in which every sample is pushed away. Float32 sums in another order differ by about 1e-7, a
    LoRA amplifies that in the rows whose gradient all but cancels; Adafactor scales whole rows and columns,
    where Adam would blow up single entries. Asked is 1e-5 of the largest weight for every weight, and
    2e-5 of its norm for each half, since `up` is small.
    """

    def trained(size, accumulation, **links):
        prompt = graph(
            host,
            kind,
            f"batch_{kind}",
            dtype="fp32",
            train={
                "preset": "custom",
                "criterion": "none",
                "batch_size": size,
                "steps": 4,
                "learning_rate": 1e-4,
            },
            optimizer={"optimizer": "adafactor", "accumulation": accumulation},
            **links,
        )
        run = host.run_graph(prompt, wanted=["train"])["train"][3]
        assert [line["flip_rate"] for line in run.metrics()] == [0.0] * 4
        return run.weights()

    def halves(weights):
        ordered = sorted(weights.items())
        return [
            torch.cat([value.flatten() for name, value in ordered if name.endswith(half)])
            for half in ("down", "up")
        ]

    together, apart = halves(trained(2, 1)), halves(trained(1, 2))
    largest = max(half.abs().max() for half in together)
    for one, other in zip(together, apart, strict=True):
        assert (one - other).abs().max() <= 1e-5 * largest
        assert (one - other).norm() <= 2e-5 * one.norm()

    captions = conditionings(kind)
    exchanged = dataset(host, kind, positive=captions[1:] + captions[:1])
    _, up = halves(trained(2, 1, dataset=host.constant(exchanged)))
    assert (up - together[1]).norm() > 0.1 * together[1].norm()


def test_the_loss_map_plots_in_the_hosts_own_node(host):
    prompt = graph(host, "sd3", "plotted")
    prompt["plot"] = {
        "class_type": "LossGraphNode",
        "inputs": {"loss": ["train", 2], "filename_prefix": "loss"},
    }
    outputs = host.run_graph(prompt)
    assert len(outputs["train"][2]["loss"]) == 3
    assert "images" in outputs.ui["plot"]


def test_queueing_again_resumes_and_other_settings_start_a_numbered_run(host):
    host.run_graph(graph(host, "sd3", "again"), wanted=["train"])
    first = (host.output / "seppo" / "again" / "metrics.jsonl").read_text()
    host.run_graph(graph(host, "sd3", "again"), wanted=["train"])
    assert (host.output / "seppo" / "again" / "metrics.jsonl").read_text() == first
    more = host.run_graph(graph(host, "sd3", "again", train={"steps": 5}), wanted=["train"])
    assert more["train"][3].name == "again"
    assert len(run_of(host, "again").metrics()) == 5
    other = host.run_graph(graph(host, "sd3", "again", train={"beta": 50.0}), wanted=["train"])
    assert other["train"][3].name == "again_00002"
    assert len(run_of(host, "again").metrics()) == 5


def test_a_run_starts_from_the_weights_of_another(host):
    first = host.run_graph(graph(host, "sd3", "start"), wanted=["train"])["train"][3]
    prompt = graph(host, "sd3", "from_start", run=host.constant(first))
    second = host.run_graph(prompt, wanted=["train"])["train"][3]
    start, weights = second.snapshot(0).weights, first.weights()
    assert start.keys() == weights.keys()
    assert all(torch.equal(start[k], weights[k]) for k in weights)
    with pytest.raises(GraphError, match="'start' was trained on another model .*not the aligned"):
        host.run_graph(
            graph(host, "sd15", "from_other", run=host.constant(first)), wanted=["train"]
        )
    with pytest.raises(GraphError, match="LoRA weights do not fit this network"):
        host.run_graph(
            graph(host, "sd3", "from_rank", train={"rank": 2}, run=host.constant(first)),
            wanted=["train"],
        )
    assert not (host.output / "seppo" / "from_rank").exists()


@pytest.mark.parametrize("preset", ["indicator", "spin", "sft", "guided", "dpo", "custom"])
def test_every_preset_trains(host, preset):
    kind = "sd3"
    losing = {"losing_latents": [thin_latent(kind, seed=9 + i, size=8) for i in range(3)]}
    data = dataset(host, kind, **(losing if preset == "dpo" else {}))
    prompt = graph(
        host,
        kind,
        f"preset_{preset}",
        train={"preset": preset, "criterion": "constant", "change": "much"},
        dataset=host.constant(data),
    )
    host.run_graph(prompt, wanted=["train"])
    run = run_of(host, f"preset_{preset}")
    loss, references = config_of(host, run).loss, config_of(host, run).references
    expected = {
        "indicator": ("preference", "indicator", "random", False),
        "spin": ("preference", "none", "latest", False),
        "sft": ("winner_error", "constant", "random", False),
        "guided": ("guided", "constant", "initial", False),
        "dpo": ("preference", "none", "initial", True),
        "custom": ("preference", "constant", "random", False),
    }
    found = (loss.objective, loss.criterion, references.selection, loss.paired)
    assert found == expected[preset]
    assert loss.guidance == (5.0 if preset == "guided" else 3.0)  # the others do not read it
    assert len(run.metrics()) == 3


def test_a_change_that_is_none_is_named(host):
    with pytest.raises(GraphError, match="change"):
        prompt = graph(host, "sd3", "much_too_much", train={"preset": "guided", "change": "vast"})
        host.run_graph(prompt, wanted=["train"])
    assert not (host.output / "seppo" / "much_too_much").exists()


def test_guided_samples_take_the_negative_conditioning(host):
    kind = "sd15"
    negative = host.constant(thin_conditioning(kind, seed=7))
    guided = {"guidance_scale": 4.0}
    loses = {"preset": "custom", "criterion": "none"}
    host.run_graph(graph(host, kind, "unguided", train=loses), wanted=["train"])
    host.run_graph(
        graph(host, kind, "guided", train=loses, references=guided, negative=negative), ["train"]
    )
    plain, with_cfg = (run_of(host, name).metrics() for name in ("unguided", "guided"))
    assert plain[0]["policy_error"] == with_cfg[0]["policy_error"]  # the winners' is the same
    assert plain[0]["grad_norm"] != with_cfg[0]["grad_norm"]  # the samples' is not
    with pytest.raises(GraphError, match="needs a negative prompt"):
        host.run_graph(graph(host, kind, "no_negative", references=guided), wanted=["train"])


def test_progress_counts_the_steps_and_carries_pictures(host):
    outputs = host.run_graph(graph(host, "sd15", "progress"), wanted=["train"])
    bars = [data for event, data in outputs.messages if event == "progress"]
    ours = [bar for bar in bars if bar.max == 3]
    assert [bar.value for bar in ours][-3:] == [1, 2, 3]
    kind, picture, side = next(bar.preview for bar in ours if bar.preview is not None)
    assert (kind, side, picture.size) == ("JPEG", 512, (512, 512))
    assert len(set(picture.getdata())) > 4


def test_cancel_keeps_the_run_and_leaves_the_host_as_it_was(host, monkeypatch):
    import comfy.model_management as management

    kind = "sd15"
    model = host.thin_model(kind)
    before = sampled(host, kind, model)
    whole = host.run_graph(graph(host, kind, "uncancelled"), wanted=["train"])["train"][1]

    core = host.core("denoisers.comfy")
    original, calls = core.ComfyDenoiser.residuals, []

    def cancelled_at_the_fifth(self, *args):
        calls.append(True)
        if len(calls) == 5:  # two calls a step: the reference's forward of step 3
            management.interrupt_current_processing()
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(core.ComfyDenoiser, "residuals", cancelled_at_the_fifth)
        prompt = graph(host, kind, "cancelled")
        prompt["model"] = host.constant(model)
        with pytest.raises(GraphError, match="interrupted"):
            host.run_graph(prompt, wanted=["train"])
    assert len(calls) == 5
    assert run_of(host, "cancelled").step() == 2
    assert torch.equal(sampled(host, kind, model), before)
    resumed = host.run_graph(prompt, wanted=["train"])["train"][1]
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


def test_cancel_while_samples_are_drawn_ends_it_within_one_call(host):
    """Heun calls the network twice a step, and only steps end in the host's callback."""
    import comfy.model_management as management

    kind = "sd15"
    model = host.thin_model(kind)
    before, calls = sampled(host, kind, model), []

    def press_cancel(module, args, output):
        calls.append(True)
        if len(calls) == 2:  # the second call of the first step, while nothing is trained yet
            management.interrupt_current_processing()

    prompt = graph(host, kind, "drawing", references={"sampler": "heun", "sampling_steps": 4})
    prompt["model"] = host.constant(model)
    hook = model.model.diffusion_model.register_forward_hook(press_cancel)
    try:
        with pytest.raises(GraphError, match="interrupted"):
            host.run_graph(prompt, wanted=["train"])
    finally:
        hook.remove()
    assert len(calls) == 2
    assert torch.equal(sampled(host, kind, model), before)


def test_the_run_says_what_it_was_made_of(host):
    host.run_graph(graph(host, "sd15", "about"), wanted=["train"])
    about = json.loads((host.output / "seppo" / "about" / "run.json").read_text())
    assert about["family"] == "comfy"
    file = host.thin_name("sd15").removesuffix(".safetensors")
    assert about["base_name"] in (file, "SD15")  # 0.3.64 keeps no file name with a MODEL
    assert about["config"]["loss"]["beta"] == 100.0
    assert len(about["base"]) == 64


def test_every_input_has_a_tooltip_a_default_and_a_range(host):
    for node in host.module("nodes").NODES:
        for kind, inputs in node.INPUT_TYPES().items():
            if kind == "hidden":
                continue
            for name, (io_type, *options) in inputs.items():
                where = f"{node.define_schema().node_id}.{name}"
                settings = options[0] if options else {}
                assert len(settings.get("tooltip", "")) > 20, where
                if io_type == "BOOLEAN":
                    assert isinstance(settings["default"], bool), where
                choices = settings.get("options") if io_type == "COMBO" else io_type
                if isinstance(choices, list):
                    assert settings["default"] in choices, where
                if io_type in ("INT", "FLOAT"):
                    assert settings["min"] <= settings["default"] <= settings["max"], where
                if io_type == "STRING" and not settings.get("forceInput"):
                    assert isinstance(settings["default"], str), where
