"""Conditioning of a batch of different texts, and what is refused before the model moves."""

from __future__ import annotations

import pytest
import torch
from denoising import make_case
from thin import thin_conditioning


def singles(case, conds: list) -> torch.Tensor:
    """Errors of two winners, one at a time, each with its own text, noise and level."""
    denoiser, found = case.denoiser, []
    for number, (level, cond) in enumerate(zip((0.3, 0.8), conds, strict=True)):
        at = slice(number, number + 1)
        found.append(
            denoiser.residuals(
                denoiser.scale_latents(case.latents[at]),
                case.noise[at],
                denoiser.levels(torch.tensor([level])),
                denoiser.prepare([cond], case.shape),
            )
            .square()
            .flatten(1)
            .mean(1)
        )
    return torch.cat(found)


def with_entries(cond: list, **entries) -> list:
    return [[cond[0][0], cond[0][1] | entries]]


def test_batch_of_two_texts_equals_two_batches_of_one(host, kind):
    """True per-sample conditioning, with y and guidance; the host's own trainer mixes captions."""
    case = make_case(host, kind)
    conds = case.conds
    if kind == "flux":
        conds = [with_entries(conds[0], guidance=1.0), with_entries(conds[1], guidance=9.0)]
    with case.session(), torch.no_grad():
        batch = case.errors(conds=conds)
        alone = singles(case, conds)
        swapped = case.errors(conds=conds[::-1])
        prepared = case.denoiser.prepare(conds, case.shape)
    torch.testing.assert_close(batch, alone, rtol=1e-5, atol=0)
    assert ((batch - swapped).abs() > 1e-3).all()
    assert len(prepared.parts) == 1


def only(cond: list, other: list, key: str) -> list:
    """`cond` with one entry of `other`."""
    return with_entries(cond, **{key: other[0][1][key]})


def test_pooled_output_and_size_are_per_sample(host):
    case = make_case(host, "sdxl")
    one, two = case.conds
    pooled = only(one, two, "pooled_output")
    sized = with_entries(one, width=512, height=2048)
    with case.session(), torch.no_grad():
        same = case.errors(conds=[one, one])
        for changed in (pooled, sized):
            batch = case.errors(conds=[one, changed])
            assert batch[0].item() == pytest.approx(same[0].item(), rel=1e-5)
            assert abs(batch[1] - same[1]) > 1e-4
            torch.testing.assert_close(batch, singles(case, [one, changed]), rtol=1e-5, atol=0)


def test_texts_that_cannot_lie_side_by_side_are_predicted_one_by_one(host):
    """SD3 takes texts as they are, so 77 and 154 tokens make no batch; a UNet repeats the shorter."""
    long = torch.randn(1, 154, 4096, generator=torch.Generator().manual_seed(5))
    case = make_case(host, "sd3")
    conds = [case.conds[0], [[long, case.conds[1][0][1]]]]
    with case.trained(0.02), torch.enable_grad():
        prepared = case.denoiser.prepare(conds, case.shape)
        assert [positions for positions, _ in prepared.parts] == [[0], [1]]
        batch = case.errors(conds=conds)
        batch.sum().backward()
        with torch.no_grad():
            tie = case.errors(conds=conds)
            alone = singles(case, conds)
    assert torch.equal(batch.detach(), tie)
    torch.testing.assert_close(batch.detach(), alone, rtol=1e-5, atol=0)


def test_conditioning_is_processed_once_per_example(host, monkeypatch):
    import comfy.samplers

    case = make_case(host, "sd15")
    calls, original = [], comfy.samplers.process_conds
    monkeypatch.setattr(
        comfy.samplers, "process_conds", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    with case.session(), torch.no_grad():
        for _ in range(3):
            case.errors()
        assert len(calls) == 2
        many = [thin_conditioning("sd15", seed) for seed in range(40)]
        for cond in many:
            case.denoiser.prepare([cond], case.shape)
        assert len(case.denoiser._ready) == 32
    assert len(case.denoiser._ready) == 0


def test_texts_that_pass_through_layers_of_the_network_do_so_without_path_and_gradient(
    host, monkeypatch
):
    """As models with a text projector of their own do in extra_conds; the result is kept for all slots."""
    import comfy.conds

    case = make_case(host, "sd3")
    model, seen = case.denoiser.model.model, []
    original = model.extra_conds

    def projected(**kwargs):
        out = original(**kwargs)
        text = kwargs["cross_attn"].to(model.get_dtype())
        seen.append(model.diffusion_model.context_embedder(text).float())
        out["c_crossattn"] = comfy.conds.CONDRegular(kwargs["cross_attn"] + seen[-1].mean())
        return out

    monkeypatch.setattr(model, "extra_conds", projected)
    with case.trained(0.1) as lora:
        case.denoiser.lora = lora
        for _ in range(2):  # what is kept leads to no graph, so a second backward pass is fine
            case.errors().sum().backward()
        assert not any(text.requires_grad for text in seen)
        layer, text = model.diffusion_model.context_embedder, case.conds[0][0][0]
        text = text.clone().to(model.get_dtype())
        with torch.no_grad():
            with_path = layer(text).float()
            with lora.using(None):
                bare = layer(text).float()
    assert len(seen) == 2
    assert torch.equal(seen[0], bare)
    assert (with_path - bare).abs().max() > 0.01


def test_batched_samples_equal_single_ones(host, kind):
    case = make_case(host, kind)
    settings = case.sampling(sampler="euler")
    with case.session():
        batch = case.denoiser.sample(case.conds, case.noise, settings, 5)
        alone = [
            case.denoiser.sample([cond], noise[None], settings, 5)
            for cond, noise in zip(case.conds, case.noise, strict=True)
        ]
    torch.testing.assert_close(batch, torch.cat(alone), rtol=1e-3, atol=1e-3)
    assert batch.shape == case.latents.shape and batch.dtype == torch.float32


def test_samples_of_unlike_conditionings_are_drawn_apart_and_returned_in_order(host):
    case = make_case(host, "sdxl")
    sized = with_entries(case.conds[1], width=512, height=512)
    long = [[case.conds[0][0][0].repeat(1, 2, 1), case.conds[0][0][1]]]
    conds = [case.conds[0], sized, long, case.conds[1]]
    noise = torch.cat([case.noise, case.noise])
    calls = []
    with case.session():
        network = case.denoiser.network
        hook = network.register_forward_hook(lambda module, args, out: calls.append(len(out)))
        found = case.denoiser.sample(conds, noise, case.sampling(sampling_steps=1), 5)
        hook.remove()
        last = case.denoiser.sample(conds[3:], noise[3:], case.sampling(sampling_steps=1), 5)
    assert sorted(calls) == [1, 1, 2]
    torch.testing.assert_close(found[3:], last, rtol=1e-3, atol=1e-3)


def attention_patch(strength: float):
    return lambda n, context, value, extra: (n, context * strength, value)


def variants(host) -> dict:
    """Denoisers over one base whose training differs; made anew by every call."""
    import comfy.patcher_extension

    import nodes

    denoiser, plain = host.core("denoisers.comfy").ComfyDenoiser, host.thin_model("sd3")
    shifting = nodes.NODE_CLASS_MAPPINGS["ModelSamplingSD3"]()
    models = {f"shift {s}": shifting.patch(plain, shift=s)[0] for s in (2.0, 8.0)}
    for strength in (2.0, 3.0):
        models[f"patch {strength}"] = plain.clone()
        models[f"patch {strength}"].set_model_attn2_patch(attention_patch(strength))
        models[f"wrapper {strength}"] = plain.clone()
        models[f"wrapper {strength}"].add_wrapper(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL,
            lambda executor, *args, by=strength, **kwargs: executor(*args, **kwargs) * by,
        )
    models["cast"] = plain.clone()
    models["cast"].set_model_compute_dtype(torch.bfloat16)
    return {name: denoiser(model) for name, model in {"plain": plain, **models}.items()}


def test_conditions_tell_schedules_patches_and_wrappers_apart_and_hold_for_a_graph_run_again(host):
    first, again = variants(host), variants(host)
    found = {name: policy.context_fingerprint(guided=False) for name, policy in first.items()}
    assert len(set(found.values())) == len(first) == 8
    assert {policy.base_fingerprint() for policy in first.values()} == {
        first["plain"].base_fingerprint()
    }
    assert {
        name: policy.context_fingerprint(guided=False) for name, policy in again.items()
    } == found
    for name in ("plain", "shift 8.0", "patch 2.0", "cast"):
        case = make_case(host, "sd3", model=first[name].model)
        with case.session():  # loaded, the clone's object patches lie on the shared model
            assert first[name].context_fingerprint(guided=False) == found[name]
            assert first["plain"].context_fingerprint(guided=False) == found["plain"]
        assert first[name].context_fingerprint(guided=False) == found[name]


def test_conditions_name_the_negative_where_samples_are_guided(host):
    model = host.thin_model("sd3")
    denoiser = host.core("denoisers.comfy").ComfyDenoiser
    policies = [denoiser(model, thin_conditioning("sd3", seed)) for seed in (1, 2, 2)]
    assert len({policy.context_fingerprint(guided=False) for policy in policies}) == 1
    first, second, again = (policy.context_fingerprint(guided=True) for policy in policies)
    assert first != second == again


def refuse(host, case, error: str, match: str, config=None, **second):
    """`check` raises; nothing was loaded or moved."""
    import comfy.model_management as management

    loaded = list(management.current_loaded_models)
    with pytest.raises(getattr(host.core("errors"), error), match=match):
        host.core("training.trainer").check_policy(
            case.denoiser, case.dataset(**second), config or case.config()
        )
    assert management.current_loaded_models == loaded


def test_a_fitting_dataset_passes(host, kind):
    case = make_case(host, kind, negative=thin_conditioning(kind, 3))
    host.core("training.trainer").check_policy(
        case.denoiser, case.dataset(), case.config(references={"guidance_scale": 4.0})
    )


def test_latents_of_another_model_are_refused_by_image(host):
    case = make_case(host, "sd15")
    refuse(
        host,
        case,
        "DatasetError",
        r"winner 1 \('a red fox'\): latents \(16, 8, 8\) .*takes \(4, height, width\)",
        latents=torch.zeros(16, 8, 8),
    )
    refuse(host, case, "DatasetError", "takes", latents=torch.zeros(4, 3, 8, 8))
    video = make_case(host, "wan")
    refuse(
        host,
        video,
        "DatasetError",
        r"takes \(16, frames, height, width\)",
        latents=torch.zeros(16, 8, 8),
    )


def test_broken_latents_are_refused(host):
    case = make_case(host, "sd15")
    broken = torch.zeros(4, 8, 8)
    broken[1, 2, 3] = torch.nan
    refuse(host, case, "DatasetError", "winner 1.*NaN", latents=broken)


def test_examples_on_disk_are_checked_by_their_shapes_and_a_few_of_them_are_read(host):
    """10 000 winners must not be read before a run; those in memory are all at hand."""
    case = make_case(host, "sd15")
    data, read = host.core("data"), []

    class OnDisk:
        def __len__(self):
            return 10_000

        def __getitem__(self, index):
            read.append(index)
            return data.Example(case.latents[0], case.conds[0], f"fox {index}")

    shapes = [case.shape] * 10_000
    host.core("training.trainer").check_policy(
        case.denoiser, data.EncodedDataset(OnDisk(), shapes, "x"), case.config()
    )
    assert set(read) == set(range(16))
    shapes[9_000] = (16, 8, 8)
    with pytest.raises(host.core("errors").DatasetError, match=r"winner 9000 \('fox 9000'\)"):
        host.core("training.trainer").check_policy(
            case.denoiser, data.EncodedDataset(OnDisk(), shapes, "x"), case.config()
        )


def test_losing_images_are_checked_where_pairs_are_trained(host):
    case = make_case(host, "sd15")
    data = host.core("data")
    examples = [data.Example(case.latents[0], case.conds[0], losing=torch.zeros(3, 8, 8))]
    with pytest.raises(host.core("errors").DatasetError, match="losing image of winner 0"):
        host.core("training.trainer").check_policy(
            case.denoiser, data.in_memory(examples), case.config(loss={"paired": True})
        )


def test_text_of_another_encoder_is_refused(host):
    for kind, width in (("sd15", 768), ("sdxl", 2048), ("wan", 4096)):
        case = make_case(host, kind)
        refuse(
            host,
            case,
            "DatasetError",
            f"123 wide.*takes {width}",
            cond=[[torch.zeros(1, 77, 123), {"pooled_output": torch.zeros(1, 1280)}]],
        )


def test_missing_pooled_output_is_refused(host):
    for kind in ("sdxl", "sd3"):
        case = make_case(host, kind)
        refuse(
            host, case, "DatasetError", "lacks the pooled output", cond=[[case.conds[0][0][0], {}]]
        )


def test_combined_regional_and_controlled_conditionings_are_refused(host):
    case = make_case(host, "sd15")
    one, two = case.conds
    refuse(host, case, "DatasetError", "2 conditionings where one", cond=[*one, *two])
    for key, value in {
        "area": (8, 8, 0, 0),
        "control": object(),
        "hooks": object(),
        "mask": torch.ones(1, 8, 8),
        "start_percent": 0.2,
    }.items():
        refuse(
            host,
            case,
            "UnsupportedModelError",
            f"winner 1.*carries '{key}'.*remove",
            cond=with_entries(one, **{key: value}),
        )


def test_negative_conditioning_is_checked_as_well(host):
    negative = [*thin_conditioning("sd15", 1), *thin_conditioning("sd15", 2)]
    case = make_case(host, "sd15", negative=negative)
    refuse(host, case, "DatasetError", "the negative conditioning: 2 conditionings")


def test_guidance_needs_a_negative_conditioning(host):
    case = make_case(host, "sd15")
    guided = case.config(references={"guidance_scale": 4.0})
    refuse(host, case, "ConfigError", "guidance_scale=4.0 needs a negative", config=guided)


def test_unknown_sampler_and_scheduler_list_what_the_host_has(host):
    case = make_case(host, "sd15")
    for name in ("sampler", "scheduler"):
        config = case.config(references={name: "magic"})
        refuse(host, case, "ConfigError", f"{name}.*no 'magic'.*choose from", config=config)


def test_models_that_do_not_denoise_are_refused(host):
    import comfy.model_sampling

    class Image(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.IMG_TO_IMG):
        def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
            return latent_image

    model = host.thin_model("sd15").clone()
    model.add_object_patch("model_sampling", Image())
    case = make_case(host, "sd15", model=model)
    refuse(host, case, "UnsupportedModelError", "without noise")
