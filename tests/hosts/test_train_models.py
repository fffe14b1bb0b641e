"""Base models of every storage and history through SePPOTrain, and the aligned MODEL that comes out."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from runs import make_run
from training import dataset, graph, latents, run_of, sampled


def trained(host, kind, name, model, **settings):
    """Outputs of SePPOTrain on a MODEL."""
    prompt = graph(host, kind, name, **settings)
    prompt["model"] = host.constant(model)
    return host.run_graph(prompt, wanted=["train"])["train"]


def loaded(host, kind, weight_dtype="default"):
    """MODEL of the host's UNETLoader."""
    inputs = {"unet_name": host.thin_name(kind), "weight_dtype": weight_dtype}
    prompt = {"model": {"class_type": "UNETLoader", "inputs": inputs}}
    return host.run_graph(prompt, wanted=["model"])["model"][0]


def with_lora(host, model, file):
    """`model` after the host's own LoRA loader with a file that is put where it looks."""
    folder = host.models / "loras"
    folder.mkdir(exist_ok=True)
    shutil.copy(file, folder / file.name)
    inputs = {"model": ["model", 0], "lora_name": file.name, "strength_model": 1.0}
    prompt = {
        "model": host.constant(model),
        "lora": {"class_type": "LoraLoaderModelOnly", "inputs": inputs},
    }
    return host.run_graph(prompt, wanted=["lora"])["lora"][0]


def bits(model):
    """The raw bytes of every weight, so that fp8 and NaN compare too."""
    weights = model.model.state_dict()
    return {k: w.detach().cpu().contiguous().view(torch.uint8).clone() for k, w in weights.items()}


def left_behind(model):
    """Names of modules that carry a forward, a hook or a weight function of somebody."""
    marks = ("weight_function", "bias_function")
    return [
        name
        for name, module in model.model.named_modules()
        if "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or any(getattr(module, mark, None) for mark in marks)
    ]


def assert_trains_and_stays(host, kind, name, model):
    """Train on `model`; it is left to the bit and the aligned MODEL is another. Returns the outputs."""
    drawn = sampled(host, kind, model)
    weights = bits(model)  # with the patches that the host put on to sample
    patches = {key: len(found) for key, found in model.patches.items()}
    outputs = trained(host, kind, name, model)
    aligned = outputs[0]
    assert len(run_of(host, name).metrics()) == 3
    assert {key: len(found) for key, found in model.patches.items()} == patches
    assert torch.equal(sampled(host, kind, model), drawn)
    moved = sampled(host, kind, aligned)
    assert torch.isfinite(moved).all() and not torch.equal(moved, drawn)
    assert torch.equal(sampled(host, kind, model), drawn)
    after = bits(model)
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[key], after[key]) for key in weights)
    assert left_behind(aligned) == []
    return outputs


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_fp8_base_weights_train(host, kind):
    model = loaded(host, kind, "fp8_e4m3fn")
    dtypes = {weight.dtype for weight in model.model.diffusion_model.state_dict().values()}
    assert torch.float8_e4m3fn in dtypes
    aligned = assert_trains_and_stays(host, kind, f"fp8_{kind}", model)[0]
    assert aligned.patches and all(len(found) == 1 for found in aligned.patches.values())


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_model_that_carries_a_lora_trains_and_keeps_it(host, kind):
    file = make_run(host, kind, f"carried_{kind}").weights_path()
    base = loaded(host, kind)
    model = with_lora(host, base, file)
    assert not torch.equal(sampled(host, kind, model), sampled(host, kind, base))
    aligned = assert_trains_and_stays(host, kind, f"carrying_{kind}", model)[0]
    assert aligned.patches.keys() == model.patches.keys()
    for key, (first, second) in aligned.patches.items():
        assert first[1] is model.patches[key][0][1]
        assert second[1] is not first[1]
    bare = run_of(host, f"carried_{kind}").about()["base"]
    assert run_of(host, f"carrying_{kind}").about()["base"] != bare


def test_the_model_samples_as_the_hosts_own_lora_loader_with_the_saved_file(host, kind):
    prompt = graph(host, kind, f"as_saved_{kind}")
    prompt["save"] = {
        "class_type": "SaveLoRA" if host.version > (0, 4) else "SaveLoRANode",
        "inputs": {"lora": ["train", 1], "prefix": f"loras/as_saved_{kind}_x"},
    }
    outputs = host.run_graph(prompt)
    aligned = sampled(host, kind, outputs["train"][0])
    (saved,) = (host.output / "loras").glob(f"as_saved_{kind}_x*.safetensors")
    for file in (saved, outputs["train"][3].weights_path()):
        assert torch.equal(aligned, sampled(host, kind, with_lora(host, loaded(host, kind), file)))


RANDOM = {
    "TomePatchModel": {"ratio": 0.3},
    "HyperTile": {"tile_size": 1, "swap_size": 4, "max_depth": 0, "scale_depth": False},
}


@pytest.mark.parametrize("node", list(RANDOM))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_patches_that_draw_at_random_draw_alike_for_policy_and_reference(
    host, monkeypatch, node, checkpointing
):
    drawn, original = [], torch.randint

    def counted(*args, **kwargs):
        drawn.append(original(*args, **kwargs))
        return drawn[-1]

    module = {"TomePatchModel": torch, "HyperTile": sys.modules[host.node("HyperTile").__module__]}
    monkeypatch.setattr(module[node], "randint", counted)
    name = f"{node}_{checkpointing}"
    prompt = graph(
        host,
        "sd15",
        name,
        train={"steps": 1},
        optimizer={"gradient_checkpointing": checkpointing},
        dataset=host.constant(dataset(host, "sd15", latents=latents("sd15", size=16))),
    )
    inputs = RANDOM[node] | {"model": ["model", 0]}
    prompt["patched"] = {"class_type": node, "inputs": inputs}
    prompt["train"]["inputs"]["model"] = ["patched", 0]
    host.run_graph(prompt, wanted=["train"])
    (line,) = run_of(host, name).metrics()
    assert (line["winner_margin"], line["flip_rate"]) == (0.0, 1.0)
    assert len({tuple(x.flatten().tolist()) for x in drawn}) > 1
