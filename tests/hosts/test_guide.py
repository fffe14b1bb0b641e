"""SePPO Guide on a real host: one loaded network draws as two separately loaded ones do, combined by hand."""

from __future__ import annotations

import pytest
import torch
from denoising import host_samples
from graphs import node
from inprocess import GraphError
from quantised import model_of
from runs import make_run
from thin import thin_conditioning, thin_latent

CFG = 3.0
KINDS = ("sd15", "sd3", "wan")


@pytest.fixture(scope="module")
def runs(host):
    return {kind: make_run(host, kind, f"guide_{kind}", dtype="fp32") for kind in KINDS}


def guided_model(host, model, run, **widgets):
    inputs = {"strength": 1.0, "away_from": -1, "extrapolation": 1.0} | widgets
    prompt = {
        "base": host.constant(model),
        "run": host.constant(run),
        "guide": node("SePPOGuide", model=["base", 0], run=["run", 0], **inputs),
    }
    return host.run_graph(prompt, wanted=["guide"])["guide"][0]


def merged(host, kind, run, weights=None, strength=1.0):
    """A model of its own with a LoRA in its weights, put there by the host's loader."""
    import comfy.sd

    model = host.thin_model(kind, "fp32")
    scale = host.core("training.config").config_of(run.about()).lora.scale
    weights = run.weights() if weights is None else weights
    files = host.core("adapters.files")
    component = files.component_of(run.about()["family"], weights)
    tensors = files.file_tensors(weights, scale=scale, format="comfy", component=component)
    return comfy.sd.load_lora_for_models(model, None, tensors, strength, 0)[0]


def combined(policy, weaker, extrapolation=1.0):
    """`policy` whose sampling asks the separately loaded `weaker` for the negative, and for what is extrapolated."""
    import comfy.model_management
    import comfy.samplers

    policy = policy.clone()

    def predict(args):
        rest = (args["input"], args["sigma"])
        positive, negative = args["conds"]
        calc, plain = comfy.samplers.calc_cond_batch, {"transformer_options": {}}
        (toward,) = calc(args["model"], [positive], *rest, args["model_options"])
        asked = [positive, negative] if negative is not None else [positive]
        weak = calc(weaker.model, asked, *rest, plain)
        toward = weak[0] + extrapolation * (toward - weak[0])
        return [toward, weak[-1] if negative is not None else torch.zeros_like(toward)]

    comfy.model_management.load_models_gpu([weaker])
    weaker.pre_run()
    policy.model_options["sampler_calc_cond_batch_function"] = predict
    return policy


def drawn(model, kind, sampler="euler", cfg=CFG, scheduler="normal", seed=5):
    latent = thin_latent(kind, seed=1, size=8)["samples"]
    return host_samples(
        model,
        thin_conditioning(kind, seed=1),
        seed,
        latent,
        steps=3,
        cfg=cfg,
        sampler_name=sampler,
        scheduler=scheduler,
        negative=thin_conditioning(kind, seed=2),
    )


def assert_close(found, expected):
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("extrapolation", [1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_as_two_separately_loaded_models_combined_by_hand(host, runs, kind, extrapolation):
    run, base = runs[kind], host.thin_model(kind, "fp32")
    found = drawn(guided_model(host, base, run, extrapolation=extrapolation), kind)
    policy, weaker = merged(host, kind, run), host.thin_model(kind, "fp32")
    assert_close(found, drawn(combined(policy, weaker, extrapolation), kind))
    assert (found - drawn(policy, kind)).abs().max() > 1e-3 * found.abs().max()


def test_a_snapshot_of_the_pool_is_drawn_away_from_and_strength_is_the_policys(host, runs):
    run = runs["sd15"]
    step = run.snapshot_steps()[1]
    guided = guided_model(host, host.thin_model("sd15", "fp32"), run, away_from=step, strength=2.0)
    policy = merged(host, "sd15", run, strength=2.0)
    weaker = merged(host, "sd15", run, weights=run.snapshot(step).weights)
    assert_close(drawn(guided, "sd15"), drawn(combined(policy, weaker), "sd15"))


def test_without_guidance_it_is_the_aligned_model(host, runs):
    run, base = runs["sd15"], host.thin_model("sd15", "fp32")
    guided = guided_model(host, base, run)
    assert_close(drawn(guided, "sd15", cfg=1.0), drawn(merged(host, "sd15", run), "sd15", cfg=1.0))


def test_the_base_draws_as_before_while_a_guided_clone_of_it_is_used(host, runs):
    base = host.thin_model("sd15", "fp32")
    before = drawn(base, "sd15")
    guided = guided_model(host, base, runs["sd15"])
    first = drawn(guided, "sd15")
    assert torch.equal(drawn(base, "sd15"), before)
    assert torch.equal(drawn(guided, "sd15"), first)
    assert not any(module._forward_hooks for module in base.model.modules())


def samplers():
    """Those that give the same picture for the same seed on a CPU, by name."""
    return ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lms", "ddim", "uni_pc"]


@pytest.mark.parametrize("sampler", samplers())
def test_with_every_kind_of_sampler(host, runs, sampler):
    run = runs["sd15"]
    found = drawn(guided_model(host, host.thin_model("sd15", "fp32"), run), "sd15", sampler)
    expected = combined(merged(host, "sd15", run), host.thin_model("sd15", "fp32"))
    assert_close(found, drawn(expected, "sd15", sampler))


@pytest.mark.thorough
def test_with_every_sampler_of_the_host(host, runs):
    import comfy.samplers

    for sampler in comfy.samplers.KSampler.SAMPLERS:
        test_with_every_kind_of_sampler(host, runs, sampler)


def test_patches_and_other_loras_put_behind_it_hold_for_both(host, runs):
    """RescaleCFG changes how both are combined, another LoRA the weights of both."""
    import comfy.sd

    import nodes

    run, other = runs["sd15"], make_run(host, "sd15", "guide_other", dtype="fp32", steps=2)
    tensors = host.module("nodes.train").comfy_state_dict(other)

    def patched(model):
        (model,) = nodes.NODE_CLASS_MAPPINGS["RescaleCFG"]().patch(model, 0.7)
        return with_other(model)

    def with_other(model):
        return comfy.sd.load_lora_for_models(model, None, tensors, 0.5, 0)[0]

    found = patched(guided_model(host, host.thin_model("sd15", "fp32"), run))
    weaker = with_other(host.thin_model("sd15", "fp32"))
    expected = patched(combined(merged(host, "sd15", run), weaker))
    assert_close(drawn(found, "sd15"), drawn(expected, "sd15"))


def test_a_guider_of_three_conditionings_draws_the_negative_alone_with_the_base(host, runs):
    """DualCFGGuider asks for negative, middle and positive at once."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    run = runs["sd15"]
    kind, conds = "sd15", [thin_conditioning("sd15", seed=i) for i in (1, 3, 2)]
    noise = thin_latent(kind, seed=4, size=8)["samples"]
    sigmas = torch.tensor([3.0, 1.0, 0.0])

    def drawn_by(model):
        guider = Guider_DualCFG(model)
        guider.set_conds(*conds)
        guider.set_cfg(2.0, 3.0)
        with torch.inference_mode():
            sampler = comfy.samplers.sampler_object("euler")
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=1)

    asked = []
    guided = guided_model(host, host.thin_model(kind, "fp32"), run)

    def watch(executor, model, wanted, *arguments):
        asked.append([cond is not None for cond in wanted])
        return executor(model, wanted, *arguments)

    guided.add_wrapper("calc_cond_batch", watch)
    found = drawn_by(guided)
    names = [sorted(flags) for flags in asked[:2]]
    assert sorted(map(sum, asked[:2])) == [1, 2], names
    assert (found - drawn_by(merged(host, kind, run))).abs().max() > 1e-3 * found.abs().max()


@pytest.mark.parametrize("form", ["bf16", "scaled_fp8"])
def test_on_half_and_quantised_weights_it_draws_near_what_the_merged_model_draws(host, form):
    """Without guidance it is the aligned model, but for the rounding of merged weights."""
    model = model_of("sd15", host.models, form)
    run = make_run(host, "sd15", f"guide_{form}", model=model)
    aligned = host.module("nodes.host").with_lora(
        model, host.module("nodes.train").comfy_state_dict(run)
    )
    plain, expected = (drawn(one, "sd15", cfg=1.0) for one in (model, aligned))
    found = drawn(guided_model(host, model, run), "sd15", cfg=1.0)
    assert (found - expected).norm() < 0.2 * (expected - plain).norm()
    assert drawn(guided_model(host, model, run), "sd15").isfinite().all()


def test_another_base_is_refused(host, runs):
    other = host.thin_model("sd3", "fp32")
    with pytest.raises(GraphError, match="trained on another model"):
        guided_model(host, other, runs["sd15"])


def test_a_step_that_the_pool_does_not_keep_is_named(host, runs):
    with pytest.raises(GraphError, match="keeps no snapshot of step 77"):
        guided_model(host, host.thin_model("sd15", "fp32"), runs["sd15"], away_from=77)
