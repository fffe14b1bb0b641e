"""Winning images through real graphs: from a folder or from the host's own nodes to an encoded dataset."""

from __future__ import annotations

import os

import pytest
import torch
from folders import draw, encoding
from inprocess import GraphError
from thin import thin_conditioning

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def calls(host, monkeypatch) -> dict[str, int]:
    """How often VAE and CLIP were asked to encode."""
    import comfy.sd

    count = {"vae": 0, "clip": 0}

    def counted(kind: str, method):
        def call(self, *args, **kwargs):
            count[kind] += 1
            return method(self, *args, **kwargs)

        return call

    vae, clip = comfy.sd.VAE, comfy.sd.CLIP
    monkeypatch.setattr(vae, "encode", counted("vae", vae.encode))
    monkeypatch.setattr(clip, "tokenize", counted("clip", clip.tokenize))
    return count


def equal_conditioning(one: list, two: list) -> bool:
    ((tensor, extra),), ((other, others),) = one, two
    assert set(extra) == set(others) == {"pooled_output"}
    return torch.equal(tensor, other) and torch.equal(
        extra["pooled_output"], others["pooled_output"]
    )


def test_folder_becomes_what_the_hosts_own_nodes_encode(host, checkpoint, folder):
    graph = encoding(folder.name, checkpoint)
    graph |= {
        "4": {"class_type": "LoadImage", "inputs": {"image": f"{folder.name}/b.png"}},
        "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red bird"}},
    }
    run = host.run_graph(graph, wanted=["3", "5", "6"])
    dataset, _ = run["3"]
    assert len(dataset) == 2
    assert dataset.shapes == [(4, 8, 8)] * 2
    example = dataset[1]
    assert example.caption == "a red bird"
    assert example.latents.dtype == torch.float32
    assert torch.equal(example.latents, run["5"][0]["samples"][0].float())
    assert equal_conditioning(example.cond, run["6"][0])
    assert not example.latents.is_inference()
    assert not example.cond[0][0].is_inference()


def test_load_winners_shows_contact_sheet_and_what_was_left_out(host, folder):
    (folder / "broken.png").write_bytes(b"\x89PNG")
    graph = {
        "1": {"class_type": "SePPOLoadWinners", "inputs": {"folder": folder.name, "caption": ""}}
    }
    run = host.run_graph(graph, wanted=["1"])
    winners, sheet, report = run["1"]
    assert [winner.caption for winner in winners] == ["a fox", "a red bird"]
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3 and sheet.shape[2] > 192 * 2
    assert 0 <= sheet.min() < sheet.max() <= 1
    assert "2 winning images" in report and "broken.png: " in report


def test_adding_one_image_encodes_one(host, checkpoint, folder, calls):
    graph = encoding(folder.name, checkpoint)
    host.run_graph(graph, wanted=["3"])
    assert calls == {"vae": 2, "clip": 2}
    draw(folder / "c.png", "a fox", seed=3)
    run = host.run_graph(graph, wanted=["3"])
    assert len(run["3"][0]) == 3
    assert calls == {"vae": 3, "clip": 2}


def executed(run) -> set[str]:
    return {data["node"] for event, data in run.messages if event == "executing" and data["node"]}


def test_queueing_again_runs_nothing_until_the_folder_changes(host, checkpoint, folder, calls):
    graph = encoding(folder.name, checkpoint)
    first = host.run_graph(graph, wanted=["3"])
    again = host.run_graph(graph, wanted=["3"], keep_cache=True)
    assert executed(first) == {"1", "2", "3"}
    assert executed(again) == set()
    assert again["3"][0] is first["3"][0]

    (folder / "b.txt").write_text("a blue bird", "utf-8")
    changed = host.run_graph(graph, wanted=["3"], keep_cache=True)
    assert executed(changed) == {"2", "3"}
    assert changed["3"][0][1].caption == "a blue bird"
    assert calls == {"vae": 2, "clip": 3}


def test_another_vae_encodes_images_again_and_texts_not(host, checkpoint, folder, calls):
    import comfy.sd

    graph = encoding(folder.name, checkpoint)
    run = host.run_graph(graph, wanted=["3"])
    weights = {name: tensor.clone() for name, tensor in run["1"][2].get_sd().items()}
    name = next(name for name in weights if "encoder" in name and weights[name].ndim == 4)
    weights[name] *= 1.5
    graph["4"] = host.constant(comfy.sd.VAE(sd=weights))
    graph["3"]["inputs"]["vae"] = ["4", 0]
    other = host.run_graph(graph, wanted=["3"])
    assert calls == {"vae": 4, "clip": 2}
    assert other["3"][0].identity != run["3"][0].identity
    assert not torch.equal(other["3"][0][0].latents, run["3"][0][0].latents)


def test_skipped_clip_layers_encode_texts_again_and_images_not(host, checkpoint, folder, calls):
    graph = encoding(folder.name, checkpoint)
    host.run_graph(graph, wanted=["3"])
    graph["4"] = {
        "class_type": "CLIPSetLastLayer",
        "inputs": {"clip": ["1", 1], "stop_at_clip_layer": -2},
    }
    graph["3"]["inputs"]["clip"] = ["4", 0]
    host.run_graph(graph, wanted=["3"])
    assert calls == {"vae": 2, "clip": 4}


def test_encoder_identities_outlive_use_and_reloading_and_notice_patches(host, checkpoint):
    loader = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}}}
    encoders = host.module("nodes.encoders")

    def load():
        _, clip, vae = host.run_graph(loader, wanted=["1"])["1"]
        return clip, vae

    clip, vae = load()
    before = encoders.clip_identity(clip), encoders.vae_identity(vae)
    with torch.inference_mode():
        vae.encode(torch.rand(1, 64, 64, 3))
        clip.encode_from_tokens_scheduled(clip.tokenize("a fox"))
    assert (encoders.clip_identity(clip), encoders.vae_identity(vae)) == before
    again, other_vae = load()
    # SD 1.5 checkpoints lack this weight; the host leaves it uninitialised
    again.cond_stage_model.clip_l.transformer.text_projection.weight.data.fill_(7)
    assert (encoders.clip_identity(again), encoders.vae_identity(other_vae)) == before

    patched = again.clone()
    name, weight = next(iter(patched.patcher.model_state_dict().items()))
    patched.add_patches({name: (torch.ones_like(weight),)}, 0.5)
    identity = encoders.clip_identity(patched)
    assert identity != before[0]
    with torch.inference_mode():
        patched.encode_from_tokens_scheduled(patched.tokenize("a fox"))
    assert encoders.clip_identity(patched) == identity


def test_cancelled_encoding_goes_on_where_it_was(host, checkpoint, folder, calls, monkeypatch):
    import comfy.model_management
    import comfy.sd

    graph = encoding(folder.name, checkpoint)
    plain = comfy.sd.VAE.encode

    def cancel(self, pixels):
        latents = plain(self, pixels)
        comfy.model_management.interrupt_current_processing()
        return latents

    with monkeypatch.context() as patch:
        patch.setattr(comfy.sd.VAE, "encode", cancel)
        with pytest.raises(GraphError, match="SePPOEncodeWinners .* was interrupted"):
            host.run_graph(graph, wanted=["3"])
    assert calls == {"vae": 1, "clip": 0}
    host.run_graph(graph, wanted=["3"])
    assert calls == {"vae": 2, "clip": 2}


def test_progress_counts_images_and_texts(host, checkpoint, folder):
    run = host.run_graph(encoding(folder.name, checkpoint), wanted=["3"])
    seen = [(data.value, data.max) for event, data in run.messages if event == "progress"]
    counted = [value for value, total in seen if total == 4]
    assert (counted[0], counted[-1]) == (1, 4)  # two images and two texts
    assert counted == sorted(set(counted))  # 0.33 leaves out what comes within a tenth of a second


@pytest.mark.parametrize("name", ["", "   ", "no such folder", "..", "../output", "a\0b"])
def test_folder_that_cannot_be_read_is_refused_before_anything_runs(host, name):
    graph = {"1": {"class_type": "SePPOLoadWinners", "inputs": {"folder": name, "caption": ""}}}
    with pytest.raises(GraphError, match="^node 1: .*folder - "):
        host.run_graph(graph, wanted=["1"])


def test_link_that_leaves_the_input_folder_is_refused(host, tmp_path):
    draw(tmp_path / "secret" / "a.png")
    link = host.base / "input" / f"link-{os.getpid()}"
    link.symlink_to(tmp_path / "secret")
    graph = {
        "1": {"class_type": "SePPOLoadWinners", "inputs": {"folder": link.name, "caption": ""}}
    }
    with pytest.raises(GraphError, match="must be a path inside"):
        host.run_graph(graph, wanted=["1"])


def test_missing_captions_are_reported_and_missing_images_stop_before_the_cache_exists(
    host, checkpoint, folder, own_cache
):
    draw(folder / "c.png", None)
    graph = encoding(folder.name, checkpoint)
    winners, _, report = host.run_graph(graph, wanted=["2"])["2"]
    assert len(winners) == 2
    assert "c.png: no caption" in report
    graph["2"]["inputs"]["caption"] = "anything"
    assert len(host.run_graph(graph, wanted=["2"])["2"][0]) == 3
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(GraphError, match="no usable image"):
        host.run_graph(graph, wanted=["3"])
    assert not own_cache.exists()


def test_folder_name_from_another_node_is_read_when_the_graph_runs(host, folder):
    graph = {
        "1": host.constant(folder.name),
        "2": {"class_type": "SePPOLoadWinners", "inputs": {"folder": ["1", 0], "caption": ""}},
    }
    assert len(host.run_graph(graph, wanted=["2"])["2"][0]) == 2
    draw(folder / "c.png", seed=5)
    assert len(host.run_graph(graph, wanted=["2"], keep_cache=True)["2"][0]) == 3


def image_lists(host, caption: str = "a fox") -> dict:
    """Three images in one batch, split by the host into a list, into Winners from Images ("3")."""
    generator = torch.Generator().manual_seed(0)
    return {
        "1": host.constant(torch.rand(3, 64, 64, 3, generator=generator)),
        "2": {"class_type": "RebatchImages", "inputs": {"images": ["1", 0], "batch_size": 1}},
        "3": {
            "class_type": "SePPOWinnersFromImages",
            "inputs": {"images": ["2", 0], "captions": caption},
        },
    }


def test_lists_batches_and_pairs_of_images_become_winners(host):
    graph = image_lists(host)
    (winners,) = host.run_graph(graph, wanted=["3"])["3"]
    assert [winner.caption for winner in winners] == ["a fox"] * 3
    assert not winners[0].picture.pixels.is_inference()

    graph["3"]["inputs"] |= {"images": ["1", 0], "losing_images": ["2", 0]}
    (pairs,) = host.run_graph(graph, wanted=["3"])["3"]
    assert pairs[2].losing.content() == winners[2].content() == pairs[2].content()


def test_texts_in_a_list_are_matched_to_images_by_count(host):
    batch = torch.rand(3, 8, 8, 3)
    (winners,) = host.call(
        "SePPOWinnersFromImages", images=[batch[:2], batch[2:]], captions=["a", "b", "c"]
    )
    assert [winner.caption for winner in winners] == ["a", "b", "c"]
    error = host.core("errors").DatasetError
    with pytest.raises(error, match="3 images but 2 captions"):
        host.call("SePPOWinnersFromImages", images=[batch], captions=["a", "b"])


def test_empty_caption_for_images_is_refused(host):
    with pytest.raises(GraphError, match="type what is to be seen"):
        host.run_graph(image_lists(host, caption=""), wanted=["3"])


def test_pairs_are_encoded_at_one_size(host, checkpoint):
    graph = encoding("unused", checkpoint) | {
        "5": host.constant(torch.rand(1, 64, 128, 3)),
        "6": host.constant(torch.rand(1, 200, 100, 3)),
        "2": {
            "class_type": "SePPOWinnersFromImages",
            "inputs": {"images": ["5", 0], "losing_images": ["6", 0], "captions": "a fox"},
        },
    }
    graph["3"]["inputs"]["resolution"] = 128
    dataset, _ = host.run_graph(graph, wanted=["3"])["3"]
    assert dataset.paired
    assert dataset[0].losing.shape == dataset[0].latents.shape == (4, 8, 16)


def test_video_vae_takes_an_image_as_one_frame(host, checkpoint, folder, video_vae):
    graph = encoding(folder.name, checkpoint)
    graph["4"] = host.constant(video_vae)
    graph["3"]["inputs"]["vae"] = ["4", 0]
    dataset, _ = host.run_graph(graph, wanted=["3"])["3"]
    assert dataset.shapes == [(16, 1, 8, 8)] * 2


def test_missing_vae_or_clip_says_which_node_to_add(host, checkpoint, folder):
    for name, hint in (("vae", "add a Load VAE node"), ("clip", "add a Load CLIP node")):
        graph = encoding(folder.name, checkpoint) | {"4": host.constant(None)}
        graph["3"]["inputs"][name] = ["4", 0]
        with pytest.raises(GraphError, match=hint):
            host.run_graph(graph, wanted=["3"])


def latent_lists(host, samples: torch.Tensor, conditioning: list) -> dict:
    """A batch of latents, split by the host into a list, into Dataset from Latents ("4")."""
    return {
        "1": host.constant({"samples": samples}),
        "2": {"class_type": "RebatchLatents", "inputs": {"latents": ["1", 0], "batch_size": 1}},
        "3": host.constant(conditioning),
        "4": {
            "class_type": "SePPODatasetFromLatents",
            "inputs": {"latents": ["2", 0], "positive": ["3", 0]},
        },
    }


def test_latent_lists_and_batches_share_one_conditioning(host):
    samples = torch.rand(3, 4, 8, 8, dtype=torch.float16)
    graph = latent_lists(host, samples, thin_conditioning("sd15"))
    (dataset,) = host.run_graph(graph, wanted=["4"])["4"]
    assert dataset.shapes == [(4, 8, 8)] * 3
    assert torch.equal(dataset[2].latents, samples[2].float())
    graph["4"]["inputs"] |= {"latents": ["1", 0], "losing_latents": ["2", 0]}
    (pairs,) = host.run_graph(graph, wanted=["4"])["4"]
    assert pairs.paired
    assert torch.equal(pairs[1].losing, samples[1].float())


def test_latents_and_conditions_of_different_counts_are_both_named(host):
    cond = thin_conditioning("sd15")
    batch = {"samples": torch.zeros(3, 4, 8, 8)}
    error = host.core("errors").DatasetError
    with pytest.raises(error, match="3 latents but 2 conditionings"):
        host.call("SePPODatasetFromLatents", latents=[batch], positive=[cond, cond])
    (dataset,) = host.call("SePPODatasetFromLatents", latents=[batch, batch], positive=[cond] * 6)
    assert len(dataset) == 6


def test_latents_with_nan_stop_the_graph_and_masks_are_told_of(host, caplog):
    samples = torch.zeros(2, 4, 8, 8)
    samples[1, 0, 0, 0] = torch.nan
    with pytest.raises(GraphError, match="latents 2: the latents hold NaN"):
        host.run_graph(latent_lists(host, samples, thin_conditioning("sd15")), wanted=["4"])
    masked = {"samples": torch.zeros(1, 4, 8, 8), "noise_mask": torch.ones(1, 8, 8)}
    host.call("SePPODatasetFromLatents", latents=[masked], positive=[thin_conditioning("sd15")])
    assert "mask of these latents is not used" in caplog.text
