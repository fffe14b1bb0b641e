"""Models with quantised and plain weights of every format: training leaves them as a fresh load makes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import quantised
import torch
from denoising import flat_gradient, host_samples, make_case

HOST = Path(os.environ.get("SEPPO_TEST_HOST", ".")).expanduser()
FORMS = quantised.forms(HOST)
WRAPPED = [form for form in FORMS if quantised.is_quantised(form)]
"""On 0.3.64 these are plain weights with a scale beside them."""


@pytest.fixture(autouse=True)
def nothing_loaded(host):
    import comfy.model_management as management

    yield
    management.unload_all_models()


class Pair:
    """Two loads of one file: one is trained on, with the other the host does the rest alike."""

    def __init__(self, host, kind: str, form: str) -> None:
        self.host, self.kind = host, kind
        self.case = make_case(host, kind, model=quantised.model_of(kind, host.models, form))
        self.trained = self.case.denoiser.model
        self.fresh = quantised.model_of(kind, host.models, form)
        self.file = lora_file(self.trained)

    def with_lora(self, model):
        import comfy.sd

        with torch.inference_mode():
            return comfy.sd.load_lora_for_models(model, None, self.file, 1.0, 0)[0]

    def samples(self, model) -> torch.Tensor:
        return host_samples(model, self.case.conds[0], 1, self.case.latents[:1])

    def check(self) -> None:
        """Base, LoRA and base again give the same on both, and the host's objects look the same."""
        drawn = []
        for change in (lambda model: model, self.with_lora, lambda model: model):
            models = change(self.trained), change(self.fresh)
            found, expected = map(self.samples, models)
            assert torch.isfinite(found).all() and torch.equal(found, expected)
            assert_alike(*models)
            drawn.append(found)
        assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])

    def train(
        self, model=None, fault: type[BaseException] | None = None, **compute
    ) -> torch.Tensor:
        """A node's session: a step, a draw that makes the host move weights, a step. Returns the gradient."""
        case = make_case(self.host, self.kind, model=model or self.trained)
        with torch.inference_mode(), case.trained(0.02, **compute) as lora:
            policy = case.errors()
            policy.sum().backward()
            gradient = flat_gradient(lora)
            with torch.no_grad():
                assert torch.equal(case.errors(), policy)  # a tie, to the bit
            patcher = case.denoiser._patcher
            case.denoiser.sample(case.conds, case.noise, case.sampling(sampling_steps=1), 5)
            patcher.partially_unload(patcher.offload_device, patcher.model_size() // 2)
            case.denoiser._follow_moves()
            case.errors().sum().backward()
            if fault:
                raise fault()
            return gradient


def lora_file(model) -> dict[str, torch.Tensor]:
    """A LoRA for every linear layer, in the host's keys."""
    file, draw = {}, torch.Generator().manual_seed(5)
    for name, layer in model.model.diffusion_model.named_modules():
        if hasattr(layer, "in_features"):
            key = f"diffusion_model.{name}.lora"
            file[f"{key}_down.weight"] = torch.randn(2, layer.in_features, generator=draw) / 20
            file[f"{key}_up.weight"] = torch.randn(layer.out_features, 2, generator=draw) / 4
    return file


def assert_alike(one, other) -> None:
    found, expected = quantised.looks(one), quantised.looks(other)
    assert found.keys() == expected.keys()
    unlike = {k: (found[k], expected[k]) for k in found if found[k] != expected[k]}
    assert not unlike, dict(list(unlike.items())[:3])


def unload(inference: bool) -> None:
    import comfy.model_management as management

    with torch.inference_mode(inference):
        management.unload_all_models()


def test_every_format_of_the_hosts_table_is_tested_and_holds_layers_of_the_thin_model(host):
    if not quantised.table(HOST):
        pytest.skip("0.3.64 has no such table")
    from comfy.quant_ops import QUANT_ALGOS

    assert set(QUANT_ALGOS) <= set(FORMS)
    for form in QUANT_ALGOS:
        model = quantised.model_of("sd3", host.models, form)
        assert quantised.wrapped(model), form
    layouts = set()
    for module in quantised.model_of("sd3", host.models, "mixed").model.modules():
        layouts.add(getattr(module, "quant_format", None))
    assert set(QUANT_ALGOS) <= layouts


@pytest.mark.parametrize("form", FORMS)
def test_trained_cancelled_failed_and_unloaded_a_model_is_as_one_freshly_loaded(host, form):
    import comfy.model_management as management

    pair = Pair(host, "sd3", form)
    first = pair.train()
    unload(inference=True)
    pair.samples(pair.fresh)  # the host marks what it has loaded once
    unload(inference=True)
    assert_alike(pair.trained, pair.fresh)
    pair.check()
    with pytest.raises(management.InterruptProcessingException):
        pair.train(pair.with_lora(pair.trained), fault=management.InterruptProcessingException)
    pair.check()
    with pytest.raises(MemoryError):
        pair.train(fault=MemoryError)
    unload(inference=True)
    pair.check()
    assert torch.equal(pair.train(), first)


@pytest.mark.parametrize("form", WRAPPED)
def test_weights_that_stay_on_the_device_are_not_copied_and_keep_their_memory(host, form):
    pair = Pair(host, "sd3", form)
    pair.samples(pair.trained)
    before, looked = quantised.memory(pair.trained), quantised.looks(pair.trained)
    case = make_case(host, "sd3", model=pair.trained)
    with torch.inference_mode(), case.trained(0.02):
        assert quantised.memory(pair.trained) == before
        assert not any(w.is_inference() for w in case.denoiser.network.parameters())
        case.errors().sum().backward()
    assert quantised.memory(pair.trained) == before
    assert quantised.looks(pair.trained) == looked


def test_a_quantised_model_of_every_architecture_is_as_one_freshly_loaded(host, kind):
    """In all formats at once, where the release knows more than one."""
    if kind == "sdxl_v":
        pytest.skip("its network is that of sdxl")
    pair = Pair(host, kind, "mixed" if "mixed" in FORMS else "scaled_fp8")
    pair.train(gradient_checkpointing=True)
    pair.check()


@pytest.mark.parametrize("form", WRAPPED)
def test_a_quantised_model_is_known_by_its_scales_too_and_loaded_with_a_lora_or_not(host, form):
    pair = Pair(host, "sd3", form)
    fresh = identity(host, pair.fresh)
    assert identity(host, pair.trained) == fresh
    patched = pair.with_lora(pair.fresh)
    named = identity(host, patched)
    assert named != fresh
    pair.samples(patched)
    assert (identity(host, patched), identity(host, pair.fresh)) == (named, fresh)
    pair.train(patched)
    assert (identity(host, patched), identity(host, pair.fresh)) == (named, fresh)
    weights = pair.trained.model.state_dict()
    leaves = {name: name.rpartition(".")[2] for name in weights}  # weight_scale, weight_s_rel, ...
    scales = [weights[name] for name, leaf in leaves.items() if "scale" in leaf or "_s_" in leaf]
    assert scales
    for scale in scales[:3]:
        with torch.inference_mode():
            kept = scale.clone()
            scale.reshape(-1).view(torch.uint8).add_(1)
            assert identity(host, pair.trained) != fresh
            scale.copy_(kept)
    assert identity(host, pair.trained) == fresh


def identity(host, model) -> str:
    return host.core("denoisers.comfy").ComfyDenoiser(model).base_fingerprint()


@pytest.mark.parametrize("form", WRAPPED)
def test_gradient_through_quantised_weights_is_that_of_the_dequantised_ones(host, form):
    """Where a format's kernels round activations too (int8, int4), the two models differ by that rounding."""
    pair = Pair(host, "sd3", form)
    found = pair.train()
    for layer in pair.trained.model.diffusion_model.modules():
        if hasattr(getattr(layer, "weight", None), "__tensor_flatten__"):
            with torch.inference_mode():
                layer.weight = torch.nn.Parameter(layer.weight.dequantize(), requires_grad=False)
            layer.layout_type = None
    expected = pair.train()
    rounding = 0.02 if "w4" in form or form == "mixed" else 1e-3
    assert torch.cosine_similarity(found, expected, dim=0) > 1 - rounding
    assert found.norm().item() == pytest.approx(expected.norm().item(), rel=0.05)


@pytest.mark.parametrize("form", ["scaled_fp8", "nvfp4", "mxfp8"])
def test_gradient_of_a_quantised_model_matches_finite_differences(host, form):
    """On a CPU the host dequantises these, so nothing but float32 rounds (test_gradients gives the bounds)."""
    if form not in FORMS:
        pytest.skip("0.3.64 knows one quantised format")
    case = make_case(host, "sd3", model=quantised.model_of("sd3", host.models, form))
    with torch.inference_mode(), case.trained(0.02, precision="fp32") as lora:
        case.errors().sum().backward()
        weights = list(lora.parameters())
        slopes = [weight.grad.clone() for weight in weights]
        norm = flat_gradient(lora).norm().item()
        losses = []
        with torch.no_grad():
            for step in (2e-3 / norm, -4e-3 / norm):
                for weight, slope in zip(weights, slopes, strict=True):
                    weight.add_(slope, alpha=step)
                losses.append(case.errors().double().sum().item())
    assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(norm, rel=1e-2)
