"""Winning images from where users have them: other folders, ComfyUI's own pictures, the host's dataset nodes."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import pytest
import torch
from folders import draw, encoding
from inprocess import GraphError
from PIL import Image

pytestmark = pytest.mark.usefixtures("own_cache")


def load(folder: str, **widgets) -> dict:
    """Load Winners as node "2"."""
    inputs = {"folder": folder, "caption": "", **widgets}
    return {"2": {"class_type": "SePPOLoadWinners", "inputs": inputs}}


@pytest.fixture
def datasets(host, tmp_path, monkeypatch) -> Path:
    """A folder that the host's extra model paths name under seppo_datasets."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seppo_datasets", ([], set()))
    folder_paths.add_model_folder_path("seppo_datasets", str(tmp_path / "sets"))
    draw(tmp_path / "sets" / "mine" / "a.png", "from the sets")
    return tmp_path / "sets"


def test_output_and_dataset_folders_are_read_and_nothing_beside_them(host, datasets):
    draw(host.output / "good ones" / "a.png", "from the output")
    run = host.run_graph(load("good ones", location="output"), wanted=["2"])
    assert run["2"][0][0].caption == "from the output"
    run = host.run_graph(load("mine", location="datasets"), wanted=["2"])
    assert run["2"][0][0].caption == "from the sets"
    assert (
        len(host.run_graph(load(str(datasets / "mine"), location="datasets"), ["2"])["2"][0]) == 1
    )
    for location in ("input", "output", "datasets"):
        for name in ("../mine", str(datasets.parent), "mine/../../sets/../.."):
            with pytest.raises(GraphError, match="folder - "):
                host.run_graph(load(name, location=location), wanted=["2"])


def test_location_without_folders_says_how_to_name_one(host, monkeypatch):
    import folder_paths

    for kind in ("seppo_datasets", "datasets"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([], set()))
    with pytest.raises(GraphError, match="seppo_datasets in its extra_model_paths.yaml"):
        host.run_graph(load("mine", location="datasets"), wanted=["2"])


def test_pictures_that_the_host_saved_bring_their_prompt_and_settings(host, checkpoint, tmp_path):
    prefix = f"winners-{os.getpid()}/fox"
    words = {"positive": "a fox, at night", "negative": "blurry"}
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "6": {
            "class_type": "KSampler",
            "inputs": {
                **{"model": ["1", 0], "latent_image": ["5", 0], "seed": 77, "steps": 2, "cfg": 1.5},
                **{"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
                **{name: [name, 0] for name in words},
            },
        },
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": prefix}},
    }
    for name, text in words.items():
        inputs = {"clip": ["1", 1], "text": text}
        graph[name] = {"class_type": "CLIPTextEncode", "inputs": inputs}
    save_with_prompt(host, graph)
    graph = load(prefix.partition("/")[0], location="output")
    graph["3"] = {"class_type": "SePPOWinnersToImages", "inputs": {"winners": ["2", 0], "limit": 0}}
    run = host.run_graph(graph, wanted=["2", "3"])
    assert run["2"][0][0].caption == "a fox, at night"
    assert checkpoint in run["2"][2]
    images, captions, generation = run.lists["3"]
    assert images[0].shape == (1, 64, 64, 3)
    assert captions == ["a fox, at night"]
    about = json.loads(generation[0])
    assert (about["negative"], about["seed"], about["steps"]) == ("blurry", 77, 2)
    assert (about["cfg"], about["sampler"], about["scheduler"]) == (1.5, "euler", "normal")
    assert about["model"] == checkpoint


def save_with_prompt(host, graph: dict) -> None:
    """Run a graph as a queued one, so that its pictures carry it (metadata is off without a prompt)."""
    host.run_graph(graph)


def test_edited_captions_are_what_is_encoded(host, checkpoint, folder):
    graph = encoding(folder.name, checkpoint)
    graph["4"] = {
        "class_type": "SePPOEditCaptions",
        "inputs": {
            **{"winners": ["2", 0], "trigger": "ohwx", "prefix": "", "suffix": ""},
            **{"shuffle": 0, "keep": 0, "dropout": 0.0},
        },
    }
    graph["3"]["inputs"]["winners"] = ["4", 0]
    graph["5"] = {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["1", 1], "text": "ohwx, a red bird"},
    }
    run = host.run_graph(graph, wanted=["3", "5"])
    example = run["3"][0][1]
    assert example.caption == "ohwx, a red bird"
    assert torch.equal(example.cond[0][0], run["5"][0][0][0])


def test_dataset_goes_to_the_hosts_latent_and_conditioning_lists_and_back(
    host,
    checkpoint,
    folder,
):
    graph = encoding(folder.name, checkpoint)
    graph["4"] = {
        "class_type": "SePPODatasetToLatents",
        "inputs": {"dataset": ["3", 0], "form": "lists"},
    }
    graph["5"] = {
        "class_type": "SePPODatasetFromLatents",
        "inputs": {"latents": ["4", 0], "positive": ["4", 1]},
    }
    run = host.run_graph(graph, wanted=["4", "5"])
    latents, positive = run.lists["4"]
    assert [item["samples"].shape for item in latents] == [(1, 4, 8, 8)] * 2
    assert len(positive) == 2
    first, second = run["3"][0], run["5"][0]
    assert torch.equal(first[1].latents, second[1].latents)
    assert torch.equal(first[1].cond[0][0], second[1].cond[0][0])


def test_the_hosts_trainer_takes_our_dataset(host, checkpoint, folder):
    import nodes

    trainer = nodes.NODE_CLASS_MAPPINGS["TrainLoraNode"]
    takes_lists = getattr(trainer, "INPUT_IS_LIST", False)
    form = "lists" if takes_lists else "one batch"
    graph = encoding(folder.name, checkpoint)
    graph["4"] = {
        "class_type": "SePPODatasetToLatents",
        "inputs": {"dataset": ["3", 0], "form": form},
    }
    latents, positive = host.run_graph(graph, wanted=["4"]).lists["4"]
    model = host.thin_model("sd15")
    values = defaults(trainer) | {"steps": 1, "batch_size": 2, "rank": 4}
    if takes_lists:
        wrapped = {name: [value] for name, value in values.items()}
        result = trainer.execute(model=[model], latents=latents, positive=positive, **wrapped)
        loss = result.result[1] if isinstance(result.result[1], dict) else result.result[2]
    else:
        loss = trainer().train(model, latents[0], positive[0], **values)[2]
    assert len(loss["loss"]) == 1


def test_images_of_many_shapes_do_not_fit_into_one_batch(host, checkpoint, folder):
    draw(folder / "wide.png", "a fox", size=(128, 64))
    graph = encoding(folder.name, checkpoint)
    graph["4"] = {
        "class_type": "SePPODatasetToLatents",
        "inputs": {"dataset": ["3", 0], "form": "one batch"},
    }
    graph["3"]["inputs"]["resolution"] = 128
    with pytest.raises(GraphError, match="2 shapes and do not fit into one batch"):
        host.run_graph(graph, wanted=["4"])


def defaults(node: type) -> dict:
    """The default of every widget, by name."""
    required = node.INPUT_TYPES()["required"]
    values = {}
    for name, (kind, *options) in required.items():
        options = options[0] if options else {}
        if "default" in options:
            values[name] = options["default"]
        elif isinstance(kind, list | tuple):
            values[name] = kind[0]
    return values


def test_what_the_hosts_folder_node_gives_becomes_winners(host, checkpoint, folder):
    import nodes

    if "LoadImageTextDataSetFromFolder" in nodes.NODE_CLASS_MAPPINGS:  # lists of images and texts
        loader = {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": folder.name}}
        ours = {
            "class_type": "SePPOWinnersFromImages",
            "inputs": {"images": ["4", 0], "captions": ["4", 1]},
        }
        (winners,) = host.run_graph({"4": loader, "5": ours}, wanted=["5"])["5"]
        found = {winner.caption: winner.load().tobytes() for winner in winners}
        for name, caption in (("a.png", "a fox"), ("b.png", "a red bird")):
            with Image.open(folder / name) as image:
                assert found[caption] == image.convert("RGB").tobytes()
        return
    graph = encoding(folder.name, checkpoint)  # a batch of images, and one conditioning for all
    inputs = {"folder": folder.name, "clip": ["1", 1], "resize_method": "None"}
    graph["4"] = {"class_type": "LoadImageTextSetFromFolderNode", "inputs": inputs}
    inputs = {"pixels": ["4", 0], "vae": ["1", 2]}
    graph["5"] = {"class_type": "VAEEncode", "inputs": inputs}
    inputs = {"latents": ["5", 0], "positive": ["4", 1]}
    graph["6"] = {"class_type": "SePPODatasetFromLatents", "inputs": inputs}
    run = host.run_graph(graph, wanted=["3", "6"])
    ours, theirs = run["3"][0], run["6"][0]
    for place in range(2):
        same = [torch.equal(ours[place].cond[0][0], theirs[i].cond[0][0]) for i in range(2)]
        assert same.count(True) == 1
        assert torch.allclose(ours[place].latents, theirs[same.index(True)].latents, atol=1e-3)


def test_cancelling_while_a_folder_is_read_stops_at_once(host, folder, monkeypatch):
    import comfy.model_management

    plain = Image.open

    def cancel(*args, **kwargs):
        comfy.model_management.interrupt_current_processing()
        return plain(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", cancel)
        with pytest.raises(GraphError, match="SePPOLoadWinners .* was interrupted"):
            host.run_graph(load(folder.name), wanted=["2"])
    assert len(host.run_graph(load(folder.name), wanted=["2"])["2"][0]) == 2


def test_sizes_follow_the_connected_models_own_step(host, checkpoint, folder):
    # One level of thin SD 1.5 keeps the latents' size, so only the VAE's factor of 8 counts: 72 = 9 * 8.
    draw(folder / "wide.png", "a fox", seed=9, size=(72, 64))
    graph = encoding(folder.name, checkpoint, resolution=72)
    graph["3"]["inputs"] |= {"multiple": 0}
    (dataset, report) = host.run_graph(graph, wanted=["3"])["3"]
    assert set(dataset.shapes) == {(4, 8, 8)}
    graph["3"]["inputs"] |= {"model": ["1", 0]}
    (dataset, report) = host.run_graph(graph, wanted=["3"])["3"]
    assert (4, 8, 9) in dataset.shapes
    assert "72x64" in report


def test_held_out_winners_are_measured_and_not_trained_on(host, checkpoint, folder):
    for index in range(10):
        draw(folder / f"more{index}.png", "a fox", seed=100 + index)
    graph = encoding(folder.name, checkpoint)
    graph["3"]["inputs"] |= {"held_out": 0.3}
    graph["4"] = {
        "class_type": "SePPOTrain",
        "inputs": {
            **{"model": ["1", 0], "dataset": ["3", 0], "preset": "sft", "steps": 2, "seed": 0},
            **{"batch_size": 1, "learning_rate": 1e-3, "rank": 4, "beta": 500.0},
            **{"criterion": "sign", "run_name": f"held_out_{os.getpid()}"},
        },
    }
    run = host.run_graph(graph)
    dataset, report = run["3"]
    assert len(dataset) + len(dataset.held_out) == 12
    assert f"{len(dataset.held_out)} more are held out" in report
    margins = [line["held_out_margin"] for line in run["4"][3].metrics()]
    assert margins[0] is None and margins[1] != 0


def test_clips_of_a_folder_are_encoded_as_clips(host, checkpoint, folder, video_vae):
    frames = [Image.new("RGB", (64, 64), (25 * i, 0, 0)) for i in range(9)]
    clip = folder / "clips" / "red.webp"
    clip.parent.mkdir()
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    clip.with_suffix(".txt").write_text("it turns red")
    graph = encoding(f"{folder.name}/clips", checkpoint)
    graph["2"]["inputs"]["reader"] = "clips"
    graph["3"]["inputs"]["frames"] = 5
    with pytest.raises(GraphError, match="connect the VAE of a video model"):
        host.run_graph(graph, wanted=["3"])
    graph["4"] = host.constant(video_vae)
    graph["3"]["inputs"]["vae"] = ["4", 0]
    dataset, _ = host.run_graph(graph, wanted=["3"])["3"]
    assert dataset.shapes == [(16, 2, 8, 8)]  # 5 frames are 1 + 4


def test_videos_of_the_hosts_nodes_become_winning_clips(host, checkpoint, video_vae):
    ramp = torch.linspace(0, 1, 9)[:, None, None, None].expand(9, 64, 64, 3)
    graph = encoding("unused", checkpoint)
    graph["5"] = host.constant(ramp)
    graph["6"] = {"class_type": "CreateVideo", "inputs": {"images": ["5", 0], "fps": 8.0}}
    graph["2"] = {
        "class_type": "SePPOWinnersFromVideos",
        "inputs": {"videos": ["6", 0], "captions": "it turns white"},
    }
    graph["4"] = host.constant(video_vae)
    graph["3"]["inputs"] |= {"vae": ["4", 0], "frames": 5, "stride": 2}
    run = host.run_graph(graph, wanted=["2", "3"])
    (winners,) = run["2"]
    shades = [frame.getpixel((0, 0))[0] for frame in winners[0].picture.frames(clips(host, 5, 1))]
    assert shades == [round(255 * i / 8) for i in range(2, 7)]  # the middle five of nine
    assert winners[0].load().getpixel((0, 0))[0] == 128
    assert run["3"][0].shapes == [(16, 2, 8, 8)]
    assert run["3"][0][0].caption == "it turns white"


def test_a_video_that_the_host_cannot_decode_is_left_out(host, checkpoint, video_vae):
    from comfy_api.latest import InputImpl, Types

    whole = Types.VideoComponents(
        images=torch.rand(9, 64, 64, 3), audio=None, frame_rate=Fraction(8)
    )
    videos = [InputImpl.VideoFromComponents(whole), InputImpl.VideoFromFile(BytesIO(b"no video"))]
    node = host.module("nodes.videos").SePPOWinnersFromVideos
    graph = encoding("unused", checkpoint)
    graph["2"] = host.constant(node.execute(videos, ["it moves"])[0])
    graph["4"] = host.constant(video_vae)
    graph["3"]["inputs"] |= {"vae": ["4", 0], "frames": 5}
    dataset, report = host.run_graph(graph, wanted=["3"])["3"]
    assert len(dataset) == 1
    assert "left out: 1\n  video 2: cannot be decoded (Invalid data found" in report


def clips(host, count: int, stride: int):
    return host.core("data.prepare").ClipSelection(count, stride)
