"""Training on a host that looks as one on a GPU does: its kernels, its flags, its memory, compiled models.

There is no GPU here. Fake kernels compute what the real ones do and, as they, tell autograd nothing.
"""

from __future__ import annotations

import logging
import math
import sys

import pytest
import thin
import torch
import torch.nn.functional as F
from inprocess import GraphError
from training import dataset, graph, latents, run_of, sampled

GIB = 2**30
STEPS = {"steps": 2, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def telling_memory(host, monkeypatch):
    """The device tells what it has, as a GPU does."""
    import comfy.model_management as management

    def free(device=None, torch_free_too=False):
        return (8 * GIB, GIB) if torch_free_too else 8 * GIB

    monkeypatch.setattr(management, "get_free_memory", free)
    memory = host.core("training.memory")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8 * GIB)
    monkeypatch.setattr(memory, "used_bytes", lambda device: (GIB, 2 * GIB))


def sage(q, k, v, attn_mask=None, tensor_layout="HND", sm_scale=None, **others):
    """SageAttention's function: its kernel writes into an empty tensor that autograd knows nothing of."""
    sage.calls += 1
    with torch.no_grad():
        if tensor_layout == "NHD":
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=sm_scale)
        found = found.transpose(1, 2) if tensor_layout == "NHD" else found
        return torch.empty_like(found).copy_(found)


def flash(q, k, v, dropout_p=0.0, causal=False, softmax_scale=None):
    """Flash attention's function, [B, N, heads, D]; the host wraps it in an operator without autograd."""
    flash.calls += 1
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).clone()


KERNELS = {
    "sage": (sage, "sageattn", "attention_sage"),
    "flash": (flash, "flash_attn_func", "attention_flash"),
}


@pytest.fixture
def use_kernel(host, monkeypatch):
    """What the host does with --use-sage-attention or --use-flash-attention."""
    import comfy.ldm.modules.attention as attention

    def use(name):
        fake, function, chosen = KERNELS[name]
        fake.calls = 0
        monkeypatch.setattr(attention, function, fake, raising=False)
        monkeypatch.setattr(attention, "SAGE_ATTENTION_SUPPORTS_MASK", True, raising=False)
        for module in [m for n, m in sys.modules.items() if n.startswith("comfy.ldm.")]:
            for bound in ("optimized_attention", "optimized_attention_masked"):
                if hasattr(module, bound):
                    monkeypatch.setattr(module, bound, getattr(attention, chosen))
        return fake

    return use


def trained(host, kind, name, dtype="fp32", model=None, **changes):
    """Outputs of SePPOTrain through a graph, `model` in front of it if one is given."""
    changes = {"train": STEPS} | changes
    prompt = graph(host, kind, name, dtype=dtype, **changes)
    if model is not None:
        prompt["model"] = host.constant(model)
    outputs = host.run_graph(prompt, wanted=["train"])["train"]
    first = run_of(host, name).metrics()[0]
    assert (first["winner_margin"], first["flip_rate"]) == (0.0, 1.0)  # step 1: policy is reference
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    return outputs


def moved(lora) -> set[str]:
    """Layers whose LoRA learned something."""
    return {key for key, value in lora.items() if "lora_up" in key and value.abs().max() > 0}


def difference(one, other) -> float:
    """Of two LoRAs, relative to the first."""
    assert one.keys() == other.keys()
    apart = sum(((one[key] - other[key]).norm() ** 2 for key in one if "lora_up" in key), 0)
    return float((apart / sum(one[key].norm() ** 2 for key in one if "lora_up" in key)) ** 0.5)


@pytest.mark.parametrize(
    ("kernel", "kind", "checkpointing"),
    [
        ("sage", "sd3", False),
        ("flash", "sd3", True),
        ("flash", "sd15", False),
        ("sage", "wan", True),
    ],
)
def test_fast_kernels_draw_samples_and_train_the_same_layers_as_the_plain_one(
    host, use_kernel, caplog, kind, kernel, checkpointing
):
    settings = {"optimizer": {"gradient_checkpointing": checkpointing, "preview_every": 0}}
    plain = trained(host, kind, f"plain_{kind}_{kernel}", **settings)[1]
    fake = use_kernel(kernel)
    with caplog.at_level(logging.WARNING):
        fast = trained(host, kind, f"{kernel}_{kind}", **settings)[1]
    assert moved(fast) == moved(plain)
    assert any("attn" in key or "qkv" in key for key in moved(fast))
    assert difference(plain, fast) < 1e-2
    assert fake.calls > 4  # samples of two steps are drawn with it
    assert f"attention_{kernel} has no gradient" in caplog.text


PIXART = {
    **{"num_heads": 2, "patch_size": 2, "hidden_size": 144, "in_channels": 4, "depth": 2},
    **{"input_size": 128, "pe_interpolation": 2, "model_max_length": 300, "micro_condition": False},
}


def thin_pixart() -> torch.nn.Module:
    from comfy.ldm.pixart.pixartms import PixArtMS

    return PixArtMS(**PIXART, **thin.weights_on_meta())


def pixart_model():
    """The host's MODEL. Its loader takes the width of the published weights for granted."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.PixArtSigma({"image_model": "pixart_sigma", **PIXART})
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.PixArt(config)
    model.diffusion_model.load_state_dict(thin.random_weights(thin_pixart(), seed=0))
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


@pytest.mark.parametrize("kernel", ["sage", "flash"])
def test_networks_that_call_attention_without_options_train_all_the_same(
    host, use_kernel, monkeypatch, kernel
):
    kind = "pixart"
    monkeypatch.setitem(thin.THIN, kind, thin.Thin(thin_pixart, thin.square(4), (20, 4096)))
    winners = dataset(host, kind, latents=latents(kind, size=40))  # it divides by nothing below 32

    def lora_of(name):
        links = {"dataset": host.constant(winners)}
        return trained(host, kind, name, model=pixart_model(), **links)[1]

    plain = lora_of(f"plain_{kind}_{kernel}")
    fake = use_kernel(kernel)
    chosen = sys.modules["comfy.ldm.pixart.blocks"].optimized_attention
    fast = lora_of(f"{kernel}_{kind}")
    assert moved(fast) == moved(plain)
    assert any("attn" in key for key in moved(fast))
    assert difference(plain, fast) < 1e-2
    assert fake.calls > 4
    assert sys.modules["comfy.ldm.pixart.blocks"].optimized_attention is chosen


def test_supervised_training_needs_no_reference_to_find_its_kernel(host, use_kernel):
    use_kernel("flash")
    settings = {"train": {**STEPS, "preset": "sft"}, "optimizer": {"gradient_checkpointing": True}}
    prompt = graph(host, "sd15", "sft_flash", dtype="fp32", **settings)
    lora = host.run_graph(prompt, wanted=["train"])["train"][1]
    assert len(moved(lora)) == len([key for key in lora if "lora_up" in key])


def test_a_nodes_own_attention_stays_where_it_has_a_gradient_and_goes_where_it_has_none(
    host, caplog
):
    def with_override(override):
        model = host.thin_model("sd3", "fp32").clone()
        options = model.model_options["transformer_options"]
        options["optimized_attention_override"] = override
        return model

    def softer(func, q, *args, **kwargs):
        return func(q * 0.5, *args, **kwargs)

    def deaf(func, q, k, v, heads, *args, **kwargs):
        with torch.no_grad():
            return func(q, k, v, heads, *args, **kwargs)

    errors = {}
    for name, override in (("none", None), ("softer", softer), ("deaf", deaf)):
        model = with_override(override) if override else None
        with caplog.at_level(logging.WARNING):
            lora = trained(host, "sd3", f"override_{name}", model=model)[1]
        assert len(moved(lora)) == len([key for key in lora if "lora_up" in key])
        errors[name] = run_of(host, f"override_{name}").metrics()[0]["policy_error"]
    assert errors["softer"] != pytest.approx(errors["none"], rel=1e-4)
    assert errors["deaf"] == pytest.approx(errors["none"], rel=1e-4)
    assert "deaf, which a node chose, has no gradient" in caplog.text
    assert "softer" not in caplog.text


def test_a_kernel_without_gradient_that_nobody_knows_of_ends_the_run_before_it_trained(
    host, monkeypatch
):
    import comfy.ldm.modules.attention as attention

    known = attention.GEGLU.forward

    def deaf(self, x):
        with torch.no_grad():
            return known(self, x)

    monkeypatch.setattr(attention.GEGLU, "forward", deaf)
    with pytest.raises(
        GraphError, match=r"get no gradient.*ff\.net\.0\.proj.*--use-sage-attention"
    ):
        trained(host, "sd15", "deaf_layer")
    assert run_of(host, "deaf_layer").step() == 0


def by_wrapper(model):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    set_torch_compile_wrapper(model, backend="eager")


def by_object_patch(model):
    whole = torch.compile(model.get_model_object("diffusion_model"), backend="eager")
    model.add_object_patch("diffusion_model", whole)


def by_patching_a_block(model):
    name = "diffusion_model.joint_blocks.0"
    model.add_object_patch(name, torch.compile(model.get_model_object(name), backend="eager"))


@pytest.mark.parametrize("compiled_by", [by_wrapper, by_object_patch, by_patching_a_block])
def test_a_compiled_model_trains_as_the_plain_one_and_comes_out_compiled(host, compiled_by):
    name, kind = compiled_by.__name__, "sd3"
    plain = trained(host, kind, f"plain_{name}")
    model = host.thin_model(kind, "fp32").clone()
    compiled_by(model)
    base = sampled(host, kind, model)  # and so it is traced, and loaded as it is
    aligned, lora, _, run = trained(host, kind, name, model=model)
    assert all(torch.equal(plain[1][key], lora[key]) for key in plain[1])
    assert run.about()["conditions"] == plain[3].about()["conditions"]
    assert run.about()["base"] == plain[3].about()["base"]
    assert aligned.get_wrappers("apply_model", "torch.compile")
    expected, found = sampled(host, kind, plain[0]), sampled(host, kind, aligned)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - base).abs().max() > 1e-3
    sampled(host, kind, model)
    again = trained(host, kind, name, model=model)  # the run is done: nothing is trained or loaded
    torch.testing.assert_close(sampled(host, kind, again[0]), expected, rtol=1e-4, atol=1e-4)


def test_a_model_whose_wrapper_calls_the_network_twice_trains(host):
    model = host.thin_model("sd3", "fp32").clone()

    def twice(apply_model, args):
        x, sigma, c = args["input"], args["timestep"], args["c"]
        return (apply_model(x, sigma, **c) + apply_model(x.flip(-1), sigma, **c).flip(-1)) / 2

    model.set_model_unet_function_wrapper(twice)
    assert moved(trained(host, "sd3", "twice", model=model)[1])


def test_layers_that_leave_the_device_in_mid_run_change_nothing(host, monkeypatch):
    plain = trained(host, "sd3", "stays", train={**STEPS, "steps": 3})[1]
    shown = host.module("nodes.train").Progress.show

    def unload(self, report):
        patcher = self.policy._patcher
        patcher.partially_unload(patcher.offload_device, patcher.model_size() / 3)
        assert patcher.model.model_lowvram
        return shown(self, report)

    monkeypatch.setattr(host.module("nodes.train").Progress, "show", unload)
    assert difference(plain, trained(host, "sd3", "leaves", train={**STEPS, "steps": 3})[1]) < 1e-4


def test_bf16_with_everything_at_once_ties_at_the_first_step(host, use_kernel):
    kind = "sd3"
    use_kernel("sage")
    model = host.thin_model(kind, "bf16").clone()
    by_wrapper(model)
    outputs = trained(
        host,
        kind,
        f"all_{kind}",
        model=model,
        optimizer={"precision": "bf16", "gradient_checkpointing": True},
    )
    assert moved(outputs[1])


def test_fast_fp8_layers_train_the_layers_that_plain_fp8_ones_do(host, monkeypatch):
    """`--fast` and the loader's fp8_e4m3fn_fast multiply in fp8 where the device can."""
    import comfy.cli_args
    import comfy.model_management as management

    def by_loader(name, weight_dtype):
        prompt = graph(host, "sd3", name, dtype="fp32", train=STEPS)
        prompt["model"]["inputs"]["weight_dtype"] = weight_dtype
        lora = host.run_graph(prompt, wanted=["train"])["train"][1]
        first = run_of(host, name).metrics()[0]
        assert (first["winner_margin"], first["flip_rate"]) == (0.0, 1.0)
        return lora

    plain = by_loader("fp8_plain", "fp8_e4m3fn")
    monkeypatch.setattr(management, "supports_fp8_compute", lambda device=None: True)
    monkeypatch.setattr(comfy.cli_args.args, "fast", set(comfy.cli_args.PerformanceFeature))
    fast = by_loader("fp8_fast", "fp8_e4m3fn_fast")
    assert moved(fast) == moved(plain)
    assert difference(plain, fast) < 0.5


def test_memory_that_runs_out_in_torchs_newer_error_is_explained_and_the_hosts_models_leave(host):
    import comfy.model_management as management

    model = host.thin_model("sd3", "fp32").clone()

    def short(apply_model, args):
        error = getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory")
        error.error_code = 2
        raise error

    model.set_model_unet_function_wrapper(short)
    with pytest.raises(GraphError, match="ShortageError: step 1: out of memory"):
        trained(host, "sd3", "short", model=model)
    assert management.current_loaded_models == []
