"""The pack loads on a real host, and the thin models the other tests rely on really sample there."""

from __future__ import annotations

import pytest
import torch
from inprocess import CONSTANT, PACK, PACK_FOLDER, GraphError
from thin import thin_conditioning, thin_latent


def sampling(host, kind: str, seed: int = 1) -> dict:
    """A graph of two KSampler steps on a thin model; node "4" is the sampler."""
    return {
        "1": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": host.thin_name(kind), "weight_dtype": "default"},
        },
        "2": host.constant(thin_conditioning(kind)),
        "3": host.constant(thin_latent(kind, size=8)),
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["2", 0],
                "latent_image": ["3", 0],
                "seed": seed,
                "steps": 2,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
    }


def test_pack_loads_from_a_folder_with_hyphen_and_dot(host):
    assert host.pack.__name__.endswith(PACK_FOLDER.replace(".", "_x_"))
    assert (host.base / "custom_nodes" / PACK_FOLDER / "pyproject.toml").samefile(
        PACK / "pyproject.toml"
    )


def test_every_node_of_the_pack_is_registered(host):
    import nodes

    listed = [node.define_schema().node_id for node in host.module("nodes").NODES]
    registered = [node for node in nodes.NODE_CLASS_MAPPINGS if node.startswith("SePPO")]
    assert sorted(listed) == sorted(set(registered) - {CONSTANT})
    assert "SePPOTrain" in listed


def test_loaded_core_is_not_the_installed_one(host):
    core = host.core("errors")
    assert core.__name__.startswith(host.pack.__name__)
    assert issubclass(core.ConfigError, core.SePPOError)


def test_thin_model_samples_two_steps_to_finite_latents(host, kind):
    latent = host.run_graph(sampling(host, kind), wanted=["4"])["4"][0]["samples"]
    assert latent.shape == thin_latent(kind, size=8)["samples"].shape
    assert torch.isfinite(latent).all()
    assert 0.05 < latent.float().std() < 500  # an untrained epsilon model leaves sigma 14 noise


def test_same_seed_samples_the_same_and_another_differs(host):
    first, again, other = (
        host.run_graph(sampling(host, "sd15", seed), wanted=["4"])["4"][0]["samples"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_refused_graph_names_the_node_and_the_input(host):
    graph = sampling(host, "sd15")
    del graph["4"]["inputs"]["model"]
    with pytest.raises(GraphError, match="node 4.*model"):
        host.run_graph(graph, wanted=["4"])


def test_server_decodes_a_picture_from_the_whole_thin_checkpoint(http_host, checkpoint):
    shown = http_host.run_graph(picture(checkpoint))
    assert shown["7"]["images"][0]["type"] == "temp"


def picture(checkpoint: str) -> dict:
    """Text to picture over the host's own nodes; node "7" shows it."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a fox"}},
        "3": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["2", 0],
                "latent_image": ["3", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
    }
