"""Scoring and comparing on a real host: thin models draw, small CLIPs of the real architecture score."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
import torch
from inprocess import GraphError
from PIL import Image
from runs import make_run

pytest.importorskip("transformers")

from scorers import HEAD, make_clip, make_head, make_open_clip, picture  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def weights(host):
    """Every scorer in its usual folder; HPSv2.1 without a tokenizer of its own."""
    root = host.models / "seppo_scorers"
    make_clip(root / "PickScore_v1", seed=2)
    make_clip(root / "clip-vit-large-patch14", seed=3)
    make_clip(root / "aesthetic", words=False)
    make_head(root / "aesthetic" / HEAD)
    make_open_clip(root / "HPSv2")
    return root


@pytest.fixture(autouse=True)
def fresh(own_cache):
    """Nothing is scored yet."""


def batch(*seeds: int, size=(40, 31)) -> torch.Tensor:
    pictures = [np.asarray(picture(seed, size), dtype=np.float32) / 255 for seed in seeds]
    return torch.from_numpy(np.stack(pictures))


def score(host, images, prompts="a red fox", **inputs) -> tuple[str, float]:
    values = {"scorer": "pickscore", "weights": "", "batch_size": 8, **inputs}
    lists = {name: value if type(value) is list else [value] for name, value in values.items()}
    images = images if type(images) is list else [images]
    prompts = prompts if type(prompts) is list else [prompts]
    return host.call("SePPOScore", images=images, prompts=prompts, **lists)


def expected(host, name: str, seeds, captions, folder) -> list[float]:
    """Scores of the core on its own, without the node."""
    scoring = host.core("evaluation.scoring")
    return scoring.score(
        scoring.find(name, folder),
        [picture(seed) for seed in seeds],
        captions,
        cache=folder / "other_cache",
        device=torch.device("cpu"),
    )


def counted(done) -> list[tuple[int, int]]:
    """(done, total) as the page was told; newer hosts leave some out that follow each other quickly."""
    return [(m[1].value, m[1].max) for m in done.messages if m[0] == "progress"]


# SePPOScore


def test_scores_are_the_cores_and_the_report_lists_them(host, weights):
    captions = ["a red fox", "two birds", "a boat"]
    values = expected(host, "pickscore", (0, 1, 2), captions, weights / "PickScore_v1")
    report, mean = score(host, batch(0, 1, 2), "a red fox\n\ntwo birds\na boat\n")
    assert mean == pytest.approx(fmean(values), rel=1e-4)
    first, *rows = report.splitlines()
    assert first.startswith(f"pickscore: mean {mean:.4g} of 3 pictures")
    pairs = zip(values, captions, strict=True)
    assert rows == [f"{i}. {v:.4g} {c}" for i, (v, c) in enumerate(pairs, 1)]


def test_images_of_different_sizes_and_a_list_of_prompts_are_taken(host):
    report, _ = score(host, [batch(0), batch(1, 2, size=(64, 28))], ["a", "b", "c"])
    assert "of 3 pictures" in report and report.splitlines()[-1].endswith(" c")


def test_second_images_are_compared_pair_by_pair(host, weights):
    one = expected(host, "pickscore", (0, 1), ["a fox"] * 2, weights / "PickScore_v1")
    two = expected(host, "pickscore", (7, 8), ["a fox"] * 2, weights / "PickScore_v1")
    report, mean = score(host, batch(0, 1), "a fox", images_b=batch(7, 8))
    wins = sum(a > b for a, b in zip(one, two, strict=True))
    assert f"images wins {wins / 2:.1%} of 2 pairs" in report
    assert f"mean difference {fmean(one) - fmean(two):+.4g} " in report
    assert mean == pytest.approx(fmean(one), rel=1e-4)


@pytest.mark.parametrize("name", ["pickscore", "hpsv2.1", "aesthetic", "clip"])
def test_every_scorer_finds_its_usual_folder(host, name):
    assert name in host.core("evaluation").SCORERS
    _, mean = score(host, batch(0, 1), "" if name == "aesthetic" else "a fox", scorer=name)
    assert np.isfinite(mean)


def test_weights_without_a_tokenizer_use_the_one_that_the_host_brings(host, weights):
    make_clip(weights / "bare", words=False)
    words = host.module("nodes.evaluate").chosen("hpsv2.1", "bare").files.words
    assert words.name == "sd1_tokenizer" and (words / "vocab.json").is_file()


def test_the_same_pictures_are_not_scored_again(host, monkeypatch):
    first = score(host, batch(0, 1))
    monkeypatch.setattr(
        host.core("evaluation.scoring"), "load_clip", lambda *_: pytest.fail("was loaded again")
    )
    assert score(host, batch(0, 1)) == first


def test_weights_may_be_a_folder_or_file_or_lie_where_the_host_is_told(host, tmp_path, monkeypatch):
    import folder_paths

    make_clip(tmp_path / "mine", seed=9)
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "seppo_scorers", ([str(tmp_path)], set())
    )
    folder, file, usual = (
        score(host, batch(0), weights=weights)[1]
        for weights in ("mine", "mine/model.safetensors", "")
    )
    assert folder == file != usual


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            {"weights": "nothing"},
            "ScorerError",
            "Get all of yuvalkirstain/PickScore_v1 .*put it there",
        ),
        ({"weights": "../checkpoints"}, "ConfigError", "must be a path inside .*seppo_scorers"),
        ({"weights": "/etc"}, "ConfigError", "must be a path inside"),
        ({"weights": "hub:somebody/else"}, "ConfigError", "graphs may ask for hub:yuvalkirstain"),
        ({"scorer": "aesthetic", "weights": "hub:a/b"}, "ConfigError", "may ask for none"),
        ({"scorer": "fid"}, "ConfigError", "unknown scorer 'fid'"),
        ({"prompts": "a\nb\nc"}, "ConfigError", "2 pictures but 3 prompts"),
        ({"prompts": ""}, "ConfigError", "write one prompt for all"),
        ({"images_b": batch(1, 2, 3)}, "ConfigError", "images has 2 pictures and images_b 3"),
        ({"images": []}, "ConfigError", "no image is there"),
        ({"images": torch.zeros(1, 8, 8, 2)}, "DatasetError", "1, 3 or 4 channels"),
    ],
)
def test_what_cannot_be_scored_is_one_clear_error(host, inputs, error, message):
    values = {"images": batch(0, 1), "prompts": "a fox", **inputs}
    with pytest.raises(getattr(host.core("errors"), error), match=message):
        score(host, values.pop("images"), values.pop("prompts"), **values)


def test_score_in_a_graph_shows_its_report_and_counts_pictures(host):
    graph = {
        "1": host.constant(batch(0, 1, 2)),
        "2": {
            "class_type": "SePPOScore",
            "inputs": {
                **{"images": ["1", 0], "prompts": "a fox", "scorer": "pickscore"},
                **{"weights": "", "batch_size": 2},
            },
        },
    }
    done = host.run_graph(graph)
    report, mean = done["2"]
    assert list(done.ui["2"]["text"]) == [report]
    assert f"mean {mean:.4g}" in report
    assert counted(done)[-1] == (3, 3)


def test_cancel_stops_scoring(host):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        score(host, batch(0, 1))
    management.interrupt_current_processing(False)
    assert "of 2 pictures" in score(host, batch(0, 1))[0]


# SePPOCompare


@pytest.fixture(scope="module")
def loaded(host, checkpoint):
    """MODEL, CLIP, VAE of the thin checkpoint."""
    return host.node("CheckpointLoaderSimple")().load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def run(host, loaded):
    return make_run(host, "sd15", "compared", model=loaded[0])


WIDGETS = {
    "prompts": "a fox\n\na red bird\na fox",
    "negative": "",
    **{"seeds": 2, "first_seed": 5, "steps": 2, "cfg": 3.0},
    **{"sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 72, "scorers": ""},
}


def graph(host, loaded, **inputs) -> dict:
    """Compare is node "9"."""
    nodes = {str(place): host.constant(value) for place, value in enumerate(loaded)}
    values = {"model": ["0", 0], "clip": ["1", 0], "vae": ["2", 0], **WIDGETS}
    for name, value in inputs.items():
        if name in WIDGETS:
            values[name] = value
        else:
            nodes[name] = host.constant(value)
            values[name] = [name, 0]
    return nodes | {"9": {"class_type": "SePPOCompare", "inputs": values}}


def by_ksampler(host, loaded, model, prompt: str, seed: int) -> torch.Tensor:
    """[H, W, 3] by the host's own nodes."""
    clip, vae = loaded[1:]
    positive, negative = (host.node("CLIPTextEncode")().encode(clip, t)[0] for t in (prompt, ""))
    empty = {"samples": torch.zeros(1, 4, 9, 8)}
    with torch.inference_mode():
        (latent,) = host.node("KSampler")().sample(
            model, seed, 2, 3.0, "euler", "normal", positive, negative, empty
        )
        return host.node("VAEDecode")().decode(vae, latent)[0][0].float()


def test_pictures_are_those_of_the_hosts_own_sampler_for_both_models(host, loaded, run):
    import comfy.sd
    import comfy.utils

    done = host.run_graph(graph(host, loaded, run=run))
    grid, base, aligned, summary, _ = done["9"]
    lora = comfy.utils.load_torch_file(str(run.weights_path()), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(loaded[0], None, lora, 1.0, 0)
    wanted = [("a fox", 5), ("a fox", 6), ("a red bird", 5), ("a red bird", 6)]
    assert base.shape == aligned.shape == (4, 72, 64, 3)
    for place, (prompt, seed) in enumerate(wanted):
        for found, model in ((base, loaded[0]), (aligned, patched)):
            expected = by_ksampler(host, loaded, model, prompt, seed)
            assert torch.allclose(found[place], expected, atol=2e-3)
    assert (base - aligned).abs().mean() > 1e-3
    assert summary.splitlines()[0] == "base and aligned: 2 prompts x 2 seeds = 4 pairs"
    assert done.lists["9"][4] == [prompt for prompt, _ in wanted]
    assert grid.shape[0] == 1 and grid.shape[3] == 3


def test_page_finds_both_pictures_of_every_pair_with_prompt_seed_and_scores(host, loaded, run):
    done = host.run_graph(graph(host, loaded, run=run, scorers="pickscore\naesthetic"))
    shown, (_, base, aligned, summary, _) = done.ui["9"], done["9"]
    assert len(shown["images"]) == 1 and list(shown["text"]) == [summary]
    pairs = shown["seppo_pairs"]
    assert [(pair["prompt"], pair["seed"]) for pair in pairs] == [
        ("a fox", 5), ("a fox", 6), ("a red bird", 5), ("a red bird", 6),
    ]  # fmt: skip
    for place, pair in enumerate(pairs):
        for side, batch in (("base", base), ("aligned", aligned)):
            file = pair[side]
            assert file["type"] == "temp"
            path = host.base / "temp" / file["subfolder"] / file["filename"]
            found = np.asarray(Image.open(path), dtype=np.int16)
            assert np.abs(found - (batch[place].numpy() * 255).astype(np.int16)).max() <= 1
    rates = [
        sum(p["scores"]["pickscore"]["aligned"] > p["scores"]["pickscore"]["base"] for p in pairs)
    ]
    assert f"pickscore: aligned wins {rates[0] / 4:.1%} of 4 pairs" in summary
    differences = [s["aligned"] - s["base"] for s in (p["scores"]["aesthetic"] for p in pairs)]
    assert f"mean difference {fmean(differences):+.4g} " in summary.split("aesthetic: ")[1]


def test_grid_shows_the_base_above_the_aligned_picture(host, loaded, run):
    (grid, base, aligned, *_) = host.run_graph(graph(host, loaded, run=run))["9"]

    def at(image):
        """Upper left corner of the picture in the grid."""
        page = (grid[0] * 255).round().int()
        want = (image * 255).round().int()
        first = (page[:, :, :] - want[0, 0]).abs().sum(-1) <= 3
        for top, left in first.nonzero().tolist():
            part = page[top : top + 72, left : left + 64]
            if part.shape == want.shape and (part - want).abs().max() <= 1:
                return top, left
        raise AssertionError("is not in the grid")

    places = [(at(base[i]), at(aligned[i])) for i in range(4)]
    assert all(one[1] == two[1] and one[0] + 72 < two[0] for one, two in places)
    assert places[0][0][0] == places[1][0][0] < places[2][0][0]
    assert (grid[0, : places[0][0][0]] < 0.5).any(), "the prompt and labels are written there"


def test_any_other_model_is_compared_without_a_run(host, loaded):
    (_, base, aligned, *_) = host.run_graph(graph(host, loaded, aligned=loaded[0]))["9"]
    assert torch.equal(base, aligned)


def test_progress_counts_pictures(host, loaded):
    done = host.run_graph(graph(host, loaded, aligned=loaded[0], prompts="a fox"))
    bars = counted(done)
    assert bars[-1] == (4, 4) and {total for _, total in bars} == {4}


def test_cancel_between_pictures_stops_and_the_model_draws_as_before(
    host, loaded, run, monkeypatch
):
    import comfy.model_management as management
    import comfy.sample

    before = by_ksampler(host, loaded, loaded[0], "a fox", 5)
    plain, calls = comfy.sample.sample, []

    def counted(*args, **kwargs):
        calls.append(1)
        found = plain(*args, **kwargs)
        if len(calls) == 3:
            management.interrupt_current_processing(True)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(comfy.sample, "sample", counted)
        with pytest.raises(GraphError, match="SePPOCompare .* was interrupted"):
            host.run_graph(graph(host, loaded, run=run))
    assert len(calls) == 3
    assert torch.equal(by_ksampler(host, loaded, loaded[0], "a fox", 5), before)


def test_cancel_within_a_picture_is_noticed_at_the_next_step(host, loaded, run, monkeypatch):
    import comfy.model_management as management
    import comfy.sample

    plain = comfy.sample.sample

    def interrupted(*args, callback, **kwargs):
        def step(*values):
            management.interrupt_current_processing(True)
            callback(*values)
            pytest.fail("went on")

        return plain(*args, callback=step, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(comfy.sample, "sample", interrupted)
        with pytest.raises(GraphError, match="was interrupted"):
            host.run_graph(graph(host, loaded, run=run))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "connect a `run`"),
        ({"prompts": " \n "}, "write at least one"),
        ({"scorers": "fid"}, "unknown scorer 'fid'"),
        ({"scorers": "clip\nclip"}, "named twice"),
        ({"scorers": "pickscore=../outside"}, "must be a path inside"),
        ({"scorers": "pickscore=nothing"}, "Get all of yuvalkirstain"),
        ({"scorers": "clip=hub:a/b"}, "graphs may ask for hub:openai/clip-vit-large-patch14"),
        ({"scheduler": "none"}, "scheduler"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(
    host, loaded, monkeypatch, inputs, message
):
    import comfy.sample

    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("has drawn"))
    with pytest.raises(GraphError, match=message):
        host.run_graph(graph(host, loaded, **inputs))


def test_a_run_of_another_model_and_damaged_weights_are_refused_before_drawing(
    host, loaded, run, weights, monkeypatch
):
    import comfy.sample

    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("has drawn"))
    other = (host.thin_model("sd15", seed=1), *loaded[1:])
    with pytest.raises(GraphError, match="CheckpointError"):
        host.run_graph(graph(host, other, run=run))
    (weights / "cut").mkdir(exist_ok=True)
    (weights / "cut" / "HPS_v2.1_compressed.pt").write_bytes(b"half of a file")
    with pytest.raises(GraphError, match="cannot be read as plain tensors"):
        host.run_graph(graph(host, loaded, run=run, scorers="hpsv2.1=cut"))


def test_a_checkpoint_without_a_text_encoder_is_told(host, loaded, run):
    with pytest.raises(GraphError, match="no text encoder"):
        host.run_graph(graph(host, (loaded[0], None, loaded[2]), run=run))


@pytest.mark.parametrize("kind", ["sd3", "wan"])
def test_models_of_other_latents_draw_pictures_of_the_asked_size(
    host, kind, video_vae, monkeypatch
):
    """16 channels, and frames: the host fits the empty latent; of a video one frame is shown."""
    from thin import THIN, thin_conditioning

    compare = host.module("nodes.compare")
    model = host.thin_model(kind)
    cond = thin_conditioning(kind)
    sampling = {"steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        latent = compare.latent(model, cond, cond, 1, (64, 72), sampling)
        assert latent.shape[:2] == (1, THIN[kind].latent(8)[0]) and latent.shape[-2:] == (9, 8)
        if kind == "wan":
            (image,) = compare.decoded(video_vae, [latent])
            assert image.shape == (1, 72, 64, 3)


def test_every_input_has_a_tooltip_and_every_widget_a_default(host):
    for module in ("evaluate", "compare"):
        for node in host.module(f"nodes.{module}").NODES:
            for entry in node.define_schema().inputs:
                assert len(entry.tooltip) > 10, f"{node.__name__}.{entry.id}"
                if hasattr(entry, "default"):
                    assert entry.default is not None, f"{node.__name__}.{entry.id}"
