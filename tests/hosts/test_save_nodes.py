"""What a run leaves behind: LoRA files, merged checkpoints, and the run found again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from inprocess import GraphError
from runs import config_of, make_run, sampled
from safetensors import safe_open
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def run(host):
    """Four steps on thin SD1.5, with snapshots after steps 2 and 4."""
    return make_run(host, "sd15", "save_run")


def save(host, run, **inputs) -> Path:
    settings = {"filename_prefix": "SePPO", "format": "comfy", "strength": 1.0, "snapshot": -1}
    (path,) = host.call("SePPOSaveAligned", run=run, **{**settings, **inputs})
    return Path(path)


def with_lora(model, path: Path, strength: float = 1.0):
    """As the host's Load LoRA node does it."""
    import comfy.sd
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def weights_of(model) -> dict[str, torch.Tensor]:
    """A copy of the weights that the host computes with, patches applied."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def test_saved_lora_samples_exactly_like_the_aligned_model(host, run):
    model = host.thin_model("sd15")
    base = sampled(model, "sd15")
    aligned = with_lora(model, run.weights_path())
    path = save(host, run)
    assert path.parent == host.output / "loras"
    assert path.name == "SePPO_00001_.safetensors"
    ours, theirs = sampled(aligned, "sd15"), sampled(with_lora(model, path), "sd15")
    assert torch.equal(ours, theirs)
    assert (ours - base).abs().max() > 0.05
    assert torch.equal(sampled(model, "sd15"), base)


def test_files_are_numbered_and_folders_made(host, run):
    first = save(host, run, filename_prefix="mine/fox")
    second = save(host, run, filename_prefix="loras/mine/fox")
    assert first == host.output / "loras" / "mine" / "fox_00001_.safetensors"
    assert second == host.output / "loras" / "mine" / "fox_00002_.safetensors"


def test_file_says_where_it_comes_from(host, run):
    facts = metadata(save(host, run))
    assert facts["seppo.run"] == "save_run" and facts["seppo.step"] == "4"
    assert facts["seppo.base_hash"] == run.about()["base"]
    assert facts["seppo.base_name"] == run.about()["base_name"]
    assert facts["seppo.criterion"] == "none" and facts["seppo.preset"] == "custom"
    assert json.loads(facts["seppo.settings"])["references"]["snapshot_every"] == 2


def test_strength_is_in_the_file(host, run):
    whole = load_file(save(host, run))
    for strength in (0.5, 4.0):
        scaled = load_file(save(host, run, strength=strength))
        for key, value in whole.items():
            expected = value * strength if key.endswith(".alpha") else value
            assert torch.equal(scaled[key], expected)


def test_snapshot_of_a_step_is_saved_and_an_unknown_one_refused(host, run):
    path = save(host, run, snapshot=2)
    loaded, facts = host.core("adapters.files").load_lora(path)
    expected = run.snapshot(2).weights
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert facts["seppo.step"] == "2"
    with pytest.raises(
        host.core("errors").CheckpointError, match=r"no snapshot of step 3.*\[0, 2, 4\]"
    ):
        save(host, run, snapshot=3)


def test_merged_checkpoint_reloads_bit_equal_to_the_patched_weights(host, run):
    import comfy.sd

    model = host.thin_model("sd15")
    before = weights_of(model)
    expected = weights_of(with_lora(model, run.weights_path()))
    path = save(host, run, format="checkpoint", model=model)
    assert path.parent == host.output / "diffusion_models"
    reloaded = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float16})
    found = {k: v for k, v in weights_of(reloaded).items() if k.startswith("diffusion_model.")}
    assert found and all(torch.equal(value, expected[key]) for key, value in found.items())
    changed = [key for key in found if not torch.equal(expected[key], before[key])]
    assert len(changed) > 5
    facts = json.loads(metadata(path)["seppo"])
    assert facts["seppo.run"] == "save_run" and facts["seppo.base_hash"] == run.about()["base"]
    after = weights_of(model)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_checkpoint_with_clip_and_vae_loads_whole(host, checkpoint):
    model, clip, vae = host.node("CheckpointLoaderSimple")().load_checkpoint(checkpoint)
    run = make_run(host, "sd15", "whole_run", model=model, steps=1)
    path = save(host, run, format="checkpoint", model=model, clip=clip, vae=vae)
    assert path.parent == host.output / "checkpoints"
    import comfy.sd

    merged, new_clip, new_vae, *_ = comfy.sd.load_checkpoint_guess_config(str(path))
    assert new_clip is not None and new_vae is not None
    aligned = with_lora(model, run.weights_path())
    assert torch.equal(sampled(merged, "sd15"), sampled(aligned, "sd15"))


def random_lora(host, model) -> dict[str, torch.Tensor]:
    """Weights of rank 2 for every layer that can have a path, linear and convolutional."""
    network = host.core("denoisers.comfy").ComfyDenoiser(model).network
    config = host.core("training.config").LoRAConfig(rank=2, modules="all")
    g = torch.Generator().manual_seed(0)
    return {
        f"{path.name}.{part}": torch.randn(shape, generator=g)
        for path in host.core("adapters.lora").find_paths(network, config)
        for part, shape in (("down", path.down_shape), ("up", path.up_shape))
    }


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "flux"])
def test_diffusers_names_hold_the_same_change_for_the_hosts_own_loader(host, kind):
    """The host's loader knows diffusers' names of these networks: its patches are the oracle."""
    import comfy.lora
    from thin import kinds

    if kind not in kinds(host.version):
        pytest.skip(f"thin {kind} does not load on ComfyUI {host.version}")
    export, model = host.core("adapters.files"), host.thin_model(kind)
    weights = random_lora(host, model)
    component, layers = host.module("nodes.save").diffusers_layers(model)
    common = {"scale": 0.5, "component": component, "layers": layers}
    theirs = export.file_tensors(weights, format="diffusers", **common)
    if component == "unet":  # the host reads a UNet's names joined by underscores only
        theirs = {joined(key): value for key, value in theirs.items()}
    ours = export.file_tensors(weights, scale=0.5, format="comfy", component="diffusion_model")
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    theirs = change(comfy.lora.load_lora(theirs, names), model)
    ours = change(comfy.lora.load_lora(ours, names), model)
    assert set(theirs) == set(ours) and len(ours) == len(weights) // 2
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=0, atol=1e-5)


def test_sdxl_embedding_of_sizes_has_the_names_that_diffusers_gives_it(host):
    """The host's map has two names for each; the oracle is diffusers' table for reading checkpoints."""
    table = pytest.importorskip("diffusers.loaders.single_file_utils").DIFFUSERS_TO_LDM_MAPPING
    known = table["unet"]["addition_embed_type"]
    _, layers = host.module("nodes.save").diffusers_layers(host.thin_model("sdxl"))
    for name in ("add_embedding.linear_1", "add_embedding.linear_2"):
        assert known[f"{name}.weight"] == f"{layers[f'unet.{name}'].layer}.weight"


def test_diffusers_file_of_a_run_reads_back_to_its_weights(host):
    run = make_run(host, "sd3", "peft_run", steps=1)
    path = save(host, run, format="diffusers", model=host.thin_model("sd3"))
    keys = load_file(path)
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in keys
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys)
    back, _ = host.core("adapters.files").load_lora(path, config_of(host, run).lora.scale)
    torch.testing.assert_close(back, run.weights(), rtol=1e-6, atol=1e-7)


def joined(key: str) -> str:
    layer, part = key.removeprefix("unet.").split(".lora_")
    return f"lora_unet_{layer.replace('.', '_')}.lora_{part}"


def change(patches: dict, model) -> dict[str, torch.Tensor]:
    """weight name -> what the host's own arithmetic adds to zeros of its shape, float32."""
    import comfy.lora

    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    found: dict[str, torch.Tensor] = {}
    for key, patch in patches.items():
        name, cut = (key, None) if isinstance(key, str) else (key[0], key[1])
        change = key[2] if not isinstance(key, str) and len(key) > 2 else None
        weight = found.get(name, torch.zeros(shapes[name]))
        found[name] = comfy.lora.calculate_weight([(1.0, patch, 1.0, cut, change)], weight, name)
    return found


def test_model_without_names_in_diffusers_is_told_to_use_comfy_keys(host):
    run = make_run(host, "wan", "names_wan", steps=1)
    with pytest.raises(host.core("errors").UnsupportedModelError, match="format 'comfy' instead"):
        save(host, run, format="diffusers", model=host.thin_model("wan"))


@pytest.mark.parametrize("format", ["diffusers", "checkpoint"])
def test_formats_that_need_the_model_say_so(host, run, format):
    with pytest.raises(host.core("errors").ConfigError, match="connect it to `model`"):
        save(host, run, format=format)


def test_another_model_is_refused(host, run):
    with pytest.raises(host.core("errors").CheckpointError, match="trained on another model"):
        save(host, run, format="checkpoint", model=host.thin_model("sd15", seed=1))


@pytest.mark.parametrize("prefix", ["", "  ", "../outside", "loras/../../outside", "folder/"])
def test_prefix_outside_the_folder_is_refused_before_the_graph_runs(host, run, prefix):
    graph = {
        "1": host.constant(run),
        "2": {
            "class_type": "SePPOSaveAligned",
            "inputs": {
                "run": ["1", 0],
                "filename_prefix": prefix,
                "format": "comfy",
                "strength": 1.0,
                "snapshot": -1,
            },
        },
    }
    with pytest.raises(GraphError, match="filename_prefix"):
        host.run_graph(graph)


def test_loaded_run_is_saved_in_a_graph(host, run):
    graph = {
        "1": {"class_type": "SePPOLoadRun", "inputs": {"run_name": "save_run"}},
        "2": {
            "class_type": "SePPOSaveAligned",
            "inputs": {
                "run": ["1", 0],
                "filename_prefix": "graph",
                "format": "comfy",
                "strength": 1.0,
                "snapshot": -1,
            },
        },
    }
    done = host.run_graph(graph)
    path = done["2"][0]
    assert path == str(host.output / "loras" / "graph_00001_.safetensors")
    assert done.ui["2"]["text"] == [f"step 4: {path}"] or done.ui["2"]["text"] == (
        f"step 4: {path}",
    )
    loaded, _ = host.core("adapters.files").load_lora(Path(path))
    assert all(torch.equal(loaded[key], value) for key, value in run.weights().items())


def test_linked_names_are_taken_and_checked_when_the_graph_runs(host, run):
    graph = {
        "name": host.constant("save_run"),
        "prefix": host.constant("linked/fox"),
        "load": {"class_type": "SePPOLoadRun", "inputs": {"run_name": ["name", 0]}},
        "save": {
            "class_type": "SePPOSaveAligned",
            "inputs": {
                "run": ["load", 0],
                "filename_prefix": ["prefix", 0],
                "format": "comfy",
                "strength": 1.0,
                "snapshot": -1,
            },
        },
    }
    path = host.run_graph(graph)["save"][0]
    assert path == str(host.output / "loras" / "linked" / "fox_00001_.safetensors")
    with pytest.raises(GraphError, match="must be a path inside"):
        host.run_graph({**graph, "prefix": host.constant("../fox")})
    with pytest.raises(GraphError, match="no run 'no_such'.*save_run"):
        host.run_graph({**graph, "name": host.constant("no_such")})


def test_a_run_of_a_linked_name_is_read_anew_when_it_went_on(host):
    run = make_run(host, "sd3", "linked_on", steps=2)
    graph = {
        "name": host.constant("linked_on"),
        "load": {"class_type": "SePPOLoadRun", "inputs": {"run_name": ["name", 0]}},
        "curves": {"class_type": "SePPOCurves", "inputs": {"run": ["load", 0]}},
    }
    before = host.run_graph(graph)["curves"][0]
    make_run(host, "sd3", "linked_on", config=replace(config_of(host, run), steps=4))
    after = host.run_graph(graph, keep_cache=True)["curves"][0]
    assert not torch.equal(before, after)


def test_unknown_run_lists_those_that_are_there(host, run):
    graph = {"1": {"class_type": "SePPOLoadRun", "inputs": {"run_name": "no_such"}}}
    with pytest.raises(GraphError, match="no run 'no_such'.*save_run"):
        host.run_graph(graph, wanted=["1"])
    graph["1"]["inputs"]["run_name"] = "../save_run"
    with pytest.raises(GraphError, match="not a usable name"):
        host.run_graph(graph, wanted=["1"])


def test_run_that_went_on_is_read_anew(host):
    node = host.node("SePPOLoadRun")
    first = make_run(host, "sd15", "goes_on", steps=2)
    before = node.fingerprint_inputs(run_name="goes_on")
    assert node.fingerprint_inputs(run_name="goes_on") == before
    config = config_of(host, first)
    make_run(host, "sd15", "goes_on", config=replace(config, steps=4))
    assert node.fingerprint_inputs(run_name="goes_on") != before


def test_server_offers_the_saved_file_in_its_lora_loader(http_host, host, run):
    path = save(host, run, filename_prefix="offered/fox")
    listed = http_host.get("/object_info/LoraLoaderModelOnly")["LoraLoaderModelOnly"]
    names = str(listed["input"]["required"]["lora_name"])
    assert path.name in names and "offered" in names
