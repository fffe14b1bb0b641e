"""LoRA files: their keys, their scale, their metadata, and that others read what we write."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from seppo_core.adapters.files import (
    Rows,
    component_of,
    load_lora,
    save_lora,
    save_run_weights,
)
from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.errors import CheckpointError, ConfigError, UnsupportedModelError
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.training.config import SePPOConfig, preset_of
from seppo_core.training.metadata import describe


def random_weights(seed: int = 0, rank: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "a.0.down": torch.randn(rank, 3, generator=g),
        "a.0.up": torch.randn(6, rank, generator=g),
        "b.down": torch.randn(rank, 4, 3, 3, generator=g),
        "b.up": torch.randn(5, rank, 1, 1, generator=g),
    }


def about(config: SePPOConfig | None = None, family: str = "comfy") -> dict:
    return {
        "version": "0.1.0",
        "family": family,
        "base": "cafe",
        "base_name": "tiny",
        "dataset": "beef",
        "config": (config or SePPOConfig()).as_dict(),
    }


def same(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_comfy_file_has_the_hosts_keys_and_alpha_as_a_float(tmp_path):
    weights = random_weights()
    save_lora(
        tmp_path / "x.safetensors",
        weights,
        scale=0.25,
        format="comfy",
        component="diffusion_model",
        metadata={},
    )
    tensors = load_file(tmp_path / "x.safetensors")
    assert set(tensors) == {
        f"diffusion_model.{layer}.{part}"
        for layer in ("a.0", "b")
        for part in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    assert torch.equal(tensors["diffusion_model.a.0.lora_up.weight"], weights["a.0.up"])
    assert torch.equal(tensors["diffusion_model.b.lora_down.weight"], weights["b.down"])
    alpha = tensors["diffusion_model.a.0.alpha"]
    assert alpha.dtype == torch.float32 and alpha.shape == () and alpha == 0.5  # 0.25 * rank 2


@pytest.mark.parametrize("format", ["comfy", "diffusers"])
@pytest.mark.parametrize("component", ["diffusion_model", "unet", "transformer"])
def test_every_format_reads_back_to_the_same_weights(tmp_path, format, component):
    weights = random_weights()
    path = tmp_path / "x.safetensors"
    save_lora(path, weights, scale=0.5, format=format, component=component, metadata={"note": "hi"})
    read, metadata = load_lora(path)
    assert same(read, weights)
    assert metadata["note"] == "hi"


@pytest.mark.parametrize("format", ["comfy", "diffusers"])
def test_weights_read_for_another_scale_have_the_same_product(tmp_path, format):
    weights = random_weights()
    path = tmp_path / "x.safetensors"
    save_lora(path, weights, scale=0.5, format=format, component="unet", metadata={})
    read, _ = load_lora(path, scale=2.0)
    assert torch.equal(read["a.0.up"] * 2.0, weights["a.0.up"] * 0.5)
    assert torch.equal(read["a.0.down"], weights["a.0.down"])


def test_peft_file_carries_the_scale_in_lora_b(tmp_path):
    weights = random_weights()
    path = tmp_path / "x.safetensors"
    save_lora(path, weights, scale=0.5, format="diffusers", component="unet", metadata={})
    tensors = load_file(path)
    assert set(tensors) == {
        f"unet.{layer}.lora_{part}.weight" for layer in ("a.0", "b") for part in "AB"
    }
    assert torch.equal(tensors["unet.a.0.lora_B.weight"], weights["a.0.up"] * 0.5)


def test_split_and_swapped_layers_read_back_whole(tmp_path):
    weights = random_weights()
    del weights["b.up"], weights["b.down"]
    layers = {
        "transformer.q": Rows("a.0", 0, 2),
        "transformer.k": Rows("a.0", 2, 4, swapped=True),
        "transformer.absent": Rows("elsewhere"),
    }
    path = tmp_path / "x.safetensors"
    save_lora(
        path,
        weights,
        scale=1.0,
        format="diffusers",
        component="transformer",
        metadata={},
        layers=layers,
    )
    tensors = load_file(path)
    up = weights["a.0.up"]
    assert set(tensors) == {f"transformer.{n}.lora_{p}.weight" for n in "qk" for p in "AB"}
    assert torch.equal(tensors["transformer.q.lora_B.weight"], up[:2])
    # rows 2..5 in halves (2, 3) and (4, 5), exchanged
    assert torch.equal(tensors["transformer.k.lora_B.weight"], up[[4, 5, 2, 3]])
    assert torch.equal(tensors["transformer.k.lora_A.weight"], weights["a.0.down"])
    assert same(load_lora(path)[0], weights)


def test_layer_without_a_name_in_the_format_is_named(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"1 layers.*first: b\).*format 'comfy'"):
        save_lora(
            tmp_path / "x.safetensors",
            random_weights(),
            scale=1.0,
            format="diffusers",
            component="transformer",
            metadata={},
            layers={"transformer.a": Rows("a.0")},
        )
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_lists_the_choices(tmp_path):
    with pytest.raises(ConfigError, match=r"'zip'.*comfy.*diffusers"):
        save_lora(
            tmp_path / "x", random_weights(), scale=1, format="zip", component="unet", metadata={}
        )


def test_foreign_and_damaged_files_are_refused_by_name(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"layer.weight": torch.zeros(2)}, foreign)
    with pytest.raises(CheckpointError, match=r"foreign.*unexpected tensor layer\.weight"):
        load_lora(foreign)
    half = tmp_path / "half.safetensors"
    save_file({"x.lora_up.weight": torch.zeros(2, 1), "x.alpha": torch.zeros(())}, half)
    with pytest.raises(CheckpointError, match="half.*not a LoRA file"):
        load_lora(half)
    (tmp_path / "cut.safetensors").write_bytes(half.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="cut.*cannot be read"):
        load_lora(tmp_path / "cut.safetensors")


def test_run_weights_follow_the_family(tmp_path):
    lora = LoRAConfig(rank=2, alpha=1)
    for family, key in (
        ("comfy", "diffusion_model.a.0.lora_up.weight"),
        ("diffusers", "transformer.a.0.lora_B.weight"),
    ):
        path = tmp_path / f"{family}.safetensors"
        metadata = describe(about(family=family), "run", 3)
        save_run_weights(path, random_weights(), lora, metadata)
        assert key in load_file(path)
        read, found = load_lora(path)
        assert same(read, random_weights()) and found["seppo.scale"] == "0.5"


def test_component_is_read_off_the_layers():
    assert component_of("comfy", {"down_blocks.0.up": torch.zeros(1)}) == "diffusion_model"
    assert component_of("diffusers", {"mid_block.x.up": torch.zeros(1)}) == "unet"
    assert component_of("diffusers", {"transformer_blocks.0.up": torch.zeros(1)}) == "transformer"


def test_metadata_names_base_method_settings_and_step():
    config = SePPOConfig(
        steps=7, lora=LoRAConfig(rank=4, alpha=2), loss=LossConfig(criterion="indicator")
    )
    facts = describe(about(config), "my run", 5, strength=0.5)
    assert all(isinstance(value, str) for value in facts.values())
    assert facts["seppo.base_hash"] == "cafe" and facts["seppo.base_name"] == "tiny"
    assert facts["ss_sd_model_name"] == "tiny"
    assert facts["seppo.run"] == "my run" and facts["seppo.step"] == "5"
    assert facts["seppo.criterion"] == "indicator" and facts["seppo.selection"] == "random"
    assert facts["ss_network_dim"] == "4" and facts["ss_network_alpha"] == "1.0"  # 2 * 0.5
    assert SePPOConfig(**_sections(json.loads(facts["seppo.settings"]))) == config


def _sections(values: dict) -> dict:
    types = {f.name: f.default_factory for f in dataclasses.fields(SePPOConfig)}
    return {
        key: types[key](**value) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def test_preset_is_recognised_from_the_settings():
    assert preset_of(SePPOConfig()) == "indicator"
    assert preset_of(SePPOConfig(loss=LossConfig(criterion="sign"))) == "seppo"
    assert preset_of(SePPOConfig(loss=LossConfig(objective="winner_error"))) == "sft"
    spin = SePPOConfig(
        loss=LossConfig(criterion="none"), references=ReferenceConfig(selection="latest")
    )
    assert preset_of(spin) == "spin"
    assert preset_of(SePPOConfig(loss=LossConfig(criterion="constant"))) == "custom"


def trained_lora(network: nn.Module, config: LoRAConfig) -> LoRA:
    """Paths whose both weights are far from zero."""
    lora = LoRA(network, config, 0, torch.device("cpu"))
    g = torch.Generator().manual_seed(1)
    lora.load(
        {key: torch.randn(value.shape, generator=g) * 0.2 for key, value in lora.state().items()}
    )
    return lora


def tiny_unet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("modules", ["linear", "all"])
def test_diffusers_unet_with_the_loaded_file_equals_ours(tmp_path, modules):
    unet = tiny_unet()
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 4, 8, 8, generator=g)
    text = torch.randn(2, 5, 12, generator=g)
    steps = torch.tensor([10, 700])
    base = unet(x, steps, text).sample
    config = LoRAConfig(rank=3, alpha=1.5, modules=modules)
    lora = trained_lora(unet, config)
    with lora.attached():
        ours = unet(x, steps, text).sample
    path = tmp_path / "x.safetensors"
    metadata = describe(about(family="diffusers"), "r", 1)
    save_run_weights(path, lora.state(), config, metadata)
    unet.load_lora_adapter(path, prefix="unet", weight_name=path.name)
    theirs = unet(x, steps, text).sample
    assert (ours - base).abs().max() > 0.05
    assert (theirs - ours).abs().max() < 5e-6


@torch.no_grad()
def test_joined_unet_names_load_through_a_pipelines_own_conversion(tmp_path):
    unet = tiny_unet()
    from diffusers import StableDiffusionPipeline

    config = LoRAConfig(rank=2, alpha=1)
    lora = trained_lora(unet, config)
    x, text, steps = torch.ones(1, 4, 8, 8), torch.ones(1, 5, 12), torch.tensor([500])
    with lora.attached():
        ours = unet(x, steps, text).sample
    path = tmp_path / "x.safetensors"
    save_lora(
        path, lora.state(), scale=0.5, format="comfy", component="unet", metadata={"ss_steps": "1"}
    )
    assert any(key.startswith("lora_unet_down_blocks_0_attentions_0_") for key in load_file(path))
    state, alphas = StableDiffusionPipeline.lora_state_dict(path, unet_config=unet.config)[:2]
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet)
    assert (unet(x, steps, text).sample - ours).abs().max() < 5e-6
