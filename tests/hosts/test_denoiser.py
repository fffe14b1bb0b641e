"""ComfyUI's MODEL behind the Denoiser protocol: what a session does, and that it undoes all of it."""

from __future__ import annotations

import pytest
import torch
from denoising import flat_gradient, host_samples, make_case, same_bits, weights_of
from thin import thin_conditioning

TARGETS = {
    "sd15": "epsilon",
    "sdxl": "epsilon",
    "sdxl_v": "v",
    "sd3": "flow",
    "wan": "flow",
    "flux": "flow",
}


def target(kind: str, x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What the network should put out, by the definition of each prediction type."""
    sigma = sigma.view(-1, *(1,) * (x0.ndim - 1))
    abar = 1 / (1 + sigma**2)
    return {
        "epsilon": noise,
        "v": abar.sqrt() * noise - (1 - abar).sqrt() * x0,
        "flow": noise - x0,
    }[TARGETS[kind]]


def test_errors_are_those_of_the_networks_own_raw_output(host, kind):
    case = make_case(host, kind)
    raw = []
    with case.session(), torch.no_grad():
        network = case.denoiser.network
        hook = network.register_forward_hook(
            lambda module, args, output: raw.append(output.float())
        )
        found = case.errors((0.1, 0.9))
        hook.remove()
        sigma = case.denoiser.levels(torch.tensor([0.1, 0.9]))
        x0 = case.denoiser.scale_latents(case.latents)
        expected = (raw[0] - target(kind, x0, case.noise, sigma)).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert found.dtype == torch.float32 and found.shape == (2,)


def test_levels_are_even_steps_through_the_models_own_schedule(host):
    case = make_case(host, "sd15")
    with case.session():
        sigmas = case.denoiser.model.model.model_sampling.sigmas
        levels = case.denoiser.levels(torch.tensor([0.0, 0.25, 0.99999997]))
    assert levels.device.type == "cpu" and levels.dtype == torch.float32
    torch.testing.assert_close(levels, sigmas[[0, 250, 999]].cpu(), rtol=0, atol=0)


def test_schedule_shift_set_by_a_node_counts_from_the_session_on(host):
    """ModelSamplingSD3 sets an object patch, which the model shows only once it is loaded."""
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS["ModelSamplingSD3"]()
    plain = host.thin_model("sd3")
    before = plain.model.model_sampling.shift
    (shifted,) = node.patch(plain, shift=8.0)
    case = make_case(host, "sd3", model=shifted)
    with case.session():
        found = case.denoiser.levels(torch.tensor([0.5])).item()
        with torch.no_grad():
            case.denoiser.sample(case.conds, case.noise, case.sampling(), 1)
        assert case.denoiser.levels(torch.tensor([0.5])).item() == found
        assert case.denoiser._patcher.model.model_sampling.shift == 8.0
    assert found == pytest.approx(8 * 0.501 / (1 + 7 * 0.501))  # index 500 of t = 0.001 .. 1
    assert plain.get_model_object("model_sampling").shift == before


def test_noise_and_latents_are_not_written_into(host):
    case = make_case(host, "sd15")
    noise, latents = case.noise.clone(), case.latents.clone()
    with case.session(), torch.no_grad():
        case.errors()
        case.denoiser.sample(case.conds, case.noise, case.sampling(), 1)
    assert torch.equal(case.noise, noise)
    assert torch.equal(case.latents, latents)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m"])
def test_samples_of_the_bare_base_equal_the_hosts_own_to_the_bit(host, sampler):
    import comfy.sample

    case = make_case(host, "sd15")
    model = case.denoiser.model
    expected = host_samples(model, case.conds[0], 5, case.latents[:1], sampler_name=sampler)
    noise = comfy.sample.prepare_noise(torch.zeros_like(case.latents[:1]), 5)
    with case.trained(0.1) as lora:
        with lora.using(None):
            base = case.denoiser.sample(
                case.conds[:1], noise, case.sampling(sampler=sampler, scheduler="normal"), 5
            )
        policy = case.denoiser.sample(case.conds[:1], noise, case.sampling(sampler=sampler), 5)
    assert same_bits(base, model.model.process_latent_in(expected))
    assert (policy - base).abs().max() > 0.01


def test_samples_equal_the_hosts_own_on_every_architecture(host, kind):
    import comfy.sample

    case = make_case(host, kind)
    expected = host_samples(case.denoiser.model, case.conds[0], 5, case.latents[:1])
    noise = comfy.sample.prepare_noise(torch.zeros_like(case.latents[:1]), 5)
    with case.session():
        found = case.denoiser.sample(
            case.conds[:1], noise, case.sampling(sampler="euler", scheduler="normal"), 5
        )
    assert same_bits(found, case.denoiser.model.model.process_latent_in(expected))


def test_guided_samples_use_the_negative_conditioning_as_the_host_does(host):
    import comfy.sample

    negative = thin_conditioning("sd15", seed=9)
    case = make_case(host, "sd15", negative=negative)
    expected = host_samples(
        case.denoiser.model, case.conds[0], 5, case.latents[:1], cfg=3.0, negative=negative
    )
    noise = comfy.sample.prepare_noise(torch.zeros_like(case.latents[:1]), 5)
    with case.session():
        settings = {"sampler": "euler", "scheduler": "normal", "guidance_scale": 3.0}
        found = case.denoiser.sample(case.conds[:1], noise, case.sampling(**settings), 5)
    assert same_bits(found, case.denoiser.model.model.process_latent_in(expected))


def test_sampling_neither_reads_nor_moves_the_global_generator(host):
    case = make_case(host, "sd15")
    settings = case.sampling(sampler="euler_ancestral")
    with case.session():
        drawn = []
        for state in (1, 2):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            drawn.append(case.denoiser.sample(case.conds, case.noise, settings, 5))
            assert torch.equal(torch.get_rng_state(), before)
        other = case.denoiser.sample(case.conds, case.noise, settings, 6)
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], other)


def test_sampling_runs_on_the_hosts_own_kernels_and_errors_on_those_with_a_gradient(host):
    import comfy.model_management as management

    case = make_case(host, "sd3")
    seen = []
    with case.session(), torch.no_grad():
        layer = case.denoiser.network.context_embedder
        hook = layer.register_forward_hook(
            lambda module, *_: seen.append(
                (module.training, getattr(management, "in_training", True))
            )
        )
        case.errors()
        assert set(seen) == {(True, True)}
        seen.clear()
        case.denoiser.sample(case.conds, case.noise, case.sampling(), 5)
        assert {training for training, _ in seen} == {False}
        assert {flag for _, flag in seen} == {not hasattr(management, "in_training")}
        hook.remove()


def test_nested_sampling_keeps_the_session_and_copies_no_weights(host):
    """comfy.sample loads models itself; the sampler's own clean-up must not end the session."""
    case = make_case(host, "sd3")
    with case.trained(0.1, precision="fp16", gradient_checkpointing=True) as lora:
        network = case.denoiser.network
        before = case.errors().detach()
        places = [weight.data_ptr() for weight in network.parameters()]
        for _ in range(2):
            case.denoiser.sample(case.conds, case.noise, case.sampling(), 5)
            assert [weight.data_ptr() for weight in network.parameters()] == places
            after = case.errors()
            assert torch.equal(after.detach(), before)
        after.sum().backward()
        assert flat_gradient(lora).norm() > 0


def test_session_leaves_the_model_as_it_was_to_the_bit(host, kind):
    case = make_case(host, kind)
    model = case.denoiser.model
    weights = weights_of(model)
    sample = host_samples(model, case.conds[0], 1, case.latents[:1])
    before = described(model)
    with case.trained(0.1, precision="bf16", gradient_checkpointing=True):
        case.errors().sum().backward()
        case.denoiser.sample(case.conds, case.noise, case.sampling(), 5)
    assert described(model) == before
    after = weights_of(model)
    assert weights.keys() == after.keys()
    assert all(same_bits(weights[name], after[name]) for name in weights)
    assert same_bits(host_samples(model, case.conds[0], 1, case.latents[:1]), sample)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_loaded_model_with_a_lora_is_left_as_it_was_and_trains_again(host):
    """Patched weights lie on the shared network, their originals in the host's backup."""
    import comfy.sd

    with torch.inference_mode():
        plain = make_case(host, "sd3")
        network = plain.denoiser.network
        lora = {
            f"diffusion_model.{name}.lora_{part}.weight": torch.full(shape, 0.02)
            for name in ("context_embedder", "joint_blocks.0.x_block.mlp.fc1")
            for layer in [network.get_submodule(name)]
            for part, shape in (("down", (2, layer.in_features)), ("up", (layer.out_features, 2)))
        }
        model, _ = comfy.sd.load_lora_for_models(plain.denoiser.model, None, lora, 1.0, 0)
        case = make_case(host, "sd3", model=model)
        samples = [host_samples(model, case.conds[0], 1, case.latents[:1])]
        identity, before = case.denoiser.base_fingerprint(), described(model)
        for precision in ("bf16", "auto", "bf16"):
            with case.trained(0.1, precision=precision) as policy:
                case.errors().sum().backward()
                assert flat_gradient(policy).norm() > 0
                case.denoiser.sample(case.conds, case.noise, case.sampling(), 5)
            assert described(model) == before
            samples.append(host_samples(model, case.conds[0], 1, case.latents[:1]))
        assert type(case.denoiser)(model).base_fingerprint() == identity
    assert all(same_bits(samples[0], sample) for sample in samples[1:])
    bare = host_samples(plain.denoiser.model, case.conds[0], 1, case.latents[:1])
    assert not same_bits(bare, samples[0])


def described(model) -> dict:
    """Everything about a MODEL that a session touches, but for the values of its weights."""
    import comfy.model_management as management

    network = model.model.diffusion_model
    return {
        "clone": (model.patches_uuid, dict(model.object_patches), dict(model.patches)),
        "options": repr(model.model_options),
        "arithmetic": (model.model.manual_cast_dtype, model.force_cast_weights),
        "gradients": [weight.requires_grad for weight in network.parameters()],
        "modes": [module.training for module in network.modules()],
        "casts": [getattr(module, "comfy_cast_weights", None) for module in network.modules()],
        "forwards": [m for m in network.modules() if "forward" in vars(m)],
        "hooks": [m for m in network.modules() if m._forward_hooks],
        "host": getattr(management, "in_training", None),
        "running": model.model.current_patcher,
    }


def test_session_inside_a_nodes_inference_mode_trains_and_returns_to_it(host):
    with torch.inference_mode():
        case = make_case(host, "sd3")
        network = case.denoiser.network
        inference = [w.is_inference() for w in network.parameters()]
        values = weights_of(case.denoiser.model)
        with case.trained() as lora:
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            case.errors().sum().backward()
            assert flat_gradient(lora).norm() > 0
        assert torch.is_inference_mode_enabled()
    assert any(inference), "the host made no inference tensors, so this test shows nothing"
    assert [weight.is_inference() for weight in network.parameters()] == inference
    after = weights_of(case.denoiser.model)
    assert all(same_bits(values[name], after[name]) for name in values)


def test_error_inside_a_session_undoes_it(host):
    case = make_case(host, "sd3")
    model = case.denoiser.model
    before, sample = described(model), host_samples(model, case.conds[0], 1, case.latents[:1])
    with pytest.raises(KeyError), case.trained(0.1, precision="fp16", gradient_checkpointing=True):
        case.errors()
        raise KeyError
    assert described(model) == before
    assert same_bits(host_samples(model, case.conds[0], 1, case.latents[:1]), sample)


def test_cancel_ends_errors_and_sampling_within_one_call_of_the_network(host):
    import comfy.model_management as management

    case = make_case(host, "sd15")
    model = case.denoiser.model
    before, calls = described(model), []

    def press_cancel(module, args, output):
        calls.append(1)
        management.interrupt_current_processing(True)

    with pytest.raises(management.InterruptProcessingException), case.trained(0.1):
        hook = case.denoiser.network.register_forward_hook(press_cancel)
        try:
            settings = case.sampling(sampler="euler", sampling_steps=4)
            case.denoiser.sample(case.conds, case.noise, settings, 5)
        finally:
            hook.remove()
    assert len(calls) == 1
    with pytest.raises(management.InterruptProcessingException), case.trained(0.1):
        management.interrupt_current_processing(True)
        case.errors()
    assert described(model) == before
    assert torch.isfinite(host_samples(model, case.conds[0], 1, case.latents[:1])).all()


def test_identity_is_the_models_wherever_it_is_loaded_and_changes_with_weights_and_patches(host):
    import comfy.model_management as management
    import comfy.sd

    case = make_case(host, "sd15")
    model, identity = case.denoiser.model, case.denoiser.base_fingerprint()
    with case.session():
        lora = {
            f"diffusion_model.{path.name}.lora_{part}.weight": torch.ones(shape)
            for path in case.lora().paths[:3]
            for part, shape in (("down", path.down_shape), ("up", path.up_shape))
        }
        assert type(case.denoiser)(model).base_fingerprint() == identity
    denoiser = host.core("denoisers.comfy").ComfyDenoiser
    assert denoiser(model.clone()).base_fingerprint() == identity
    assert denoiser(host.thin_model("sd15")).base_fingerprint() == identity
    assert denoiser(host.thin_model("sd15", seed=1)).base_fingerprint() != identity

    weak, strong = (comfy.sd.load_lora_for_models(model, None, lora, s, 0)[0] for s in (0.5, 1.0))
    other = {name: weight * 2 for name, weight in lora.items()}
    patched = [weak, strong, comfy.sd.load_lora_for_models(model, None, other, 0.5, 0)[0]]
    found = [denoiser(model).base_fingerprint() for model in patched]
    assert len({identity, *found}) == 4
    management.load_models_gpu([strong])
    assert denoiser(strong).base_fingerprint() == found[1]
    assert denoiser(model).base_fingerprint() == identity
    again = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    assert denoiser(again).base_fingerprint() == found[1]
    management.unload_all_models()


def test_a_partly_offloaded_model_with_a_lora_predicts_alike_and_trains(host):
    """Low VRAM: layers stay behind and are cast, and patched, in every forward."""
    import comfy.sd

    plain = make_case(host, "sd3", "fp32")
    with plain.session():
        file = {
            f"diffusion_model.{path.name}.lora_{part}.weight": torch.full(shape, 0.01)
            for path in plain.lora().paths[:6]
            for part, shape in (("down", path.down_shape), ("up", path.up_shape))
        }
    patched, _ = comfy.sd.load_lora_for_models(plain.denoiser.model, None, file, 1.0, 0)
    case = make_case(host, "sd3", "fp32", model=patched)
    with case.trained() as lora:
        whole = case.errors().detach()
        patcher = case.denoiser._patcher
        patcher.partially_unload(patcher.offload_device, patcher.model_size() / 2)
        assert patcher.model.model_lowvram
        partly = case.errors()
        partly.sum().backward()
        assert flat_gradient(lora).norm() > 0
    torch.testing.assert_close(partly.detach(), whole, rtol=1e-5, atol=0)


def test_model_options_of_the_model_reach_its_predictions(host):
    """Patches and wrappers that nodes put on a MODEL act in errors as they do when sampling."""
    model = host.thin_model("sd15")
    seen = []

    def double_context(n, context, value, extra_options):
        seen.append(extra_options["sigmas"].shape)
        return n, context * 2, value * 2

    patched = model.clone()
    patched.set_model_attn2_patch(double_context)
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(
        lambda apply_model, args: apply_model(args["input"], args["timestep"], **args["c"]) * 0
    )
    errors = []
    for variant in (model, patched, wrapped):
        case = make_case(host, "sd15", model=variant)
        with case.session(), torch.no_grad():
            errors.append(case.errors())
    assert (errors[0] - errors[1]).abs().min() > 1e-4
    assert seen and set(seen) == {(2,)}
    with case.session():  # denoised 0: (0 - x0) / -sigma
        x0 = case.denoiser.scale_latents(case.latents)
        sigma = case.denoiser.levels(torch.tensor([0.3, 0.8]))
    expected = (x0 / sigma.view(-1, 1, 1, 1)).square().flatten(1).mean(1)
    torch.testing.assert_close(errors[2], expected, rtol=1e-5, atol=0)


def test_latents_can_be_looked_at(host, kind):
    case = make_case(host, kind)
    with case.session():
        picture = case.denoiser.latent_preview(case.denoiser.scale_latents(case.latents))
    assert picture.size == (8, 8) and picture.mode == "RGB"
    assert len(picture.getcolors()) > 8


def test_base_is_named_after_its_file_where_the_host_keeps_it(host):
    case = make_case(host, "sd3")
    expected = "thin_sd3" if host.version >= (0, 33, 0) else "SD3"
    assert case.denoiser.base_name() == expected
