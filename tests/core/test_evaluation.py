"""Scores against each scorer's published formula, worked out here on small CLIPs of the real architecture."""

from __future__ import annotations

import json
import pickle
import shutil
from importlib.util import find_spec

import pytest
import scorers
import torch
from PIL import Image
from scorers import HEAD, HPS, make_clip, make_head, make_open_clip, picture, tokens

from seppo_core.errors import ConfigError, ScorerError
from seppo_core.evaluation import SCORERS, Embeddings, make_scorer
from seppo_core.evaluation.clip import pixels
from seppo_core.evaluation.scoring import choices, fetch, find, require_loadable, score

# It takes seconds to import: only tests that run wait for it.
pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")

CPU = torch.device("cpu")
PICTURES = [picture(0), picture(1, (28, 28)), picture(2, (31, 64))]
CAPTIONS = ["a red fox", "two birds", "a fox in a very long winter night"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, make_clip(folder, seed=2)


def scores(tmp_path, name, folder, pictures=PICTURES, captions=CAPTIONS, **settings):
    settings = {"cache": tmp_path / "cache", "device": CPU, **settings}
    return score(find(name, folder), pictures, captions, **settings)


def scores_with(name, folder, words, tmp_path):
    choice = find(name, folder, words)
    return score(choice, PICTURES, CAPTIONS, cache=tmp_path / "cache", device=CPU)


def cosines(network, pictures=PICTURES, captions=CAPTIONS):
    """Of each picture with its caption, one at a time through transformers' own forward."""
    found = []
    for one, caption in zip(pictures, captions, strict=True):
        with torch.no_grad():
            seen = network(input_ids=tokens([caption]), pixel_values=pixels(one, 28)[None])
        found.append(torch.cosine_similarity(seen.image_embeds, seen.text_embeds).item())
    return found


# Formulas


def test_pickscore_is_the_networks_own_logit(clip, tmp_path):
    folder, network = clip
    expected = []
    for one, caption in zip(PICTURES, CAPTIONS, strict=True):
        with torch.no_grad():
            seen = network(input_ids=tokens([caption]), pixel_values=pixels(one, 28)[None])
        expected.append(seen.logits_per_image.item())
    assert scores(tmp_path, "pickscore", folder) == pytest.approx(expected, rel=1e-4)


def test_clip_score_is_a_hundred_times_the_cosine_and_never_negative(clip, tmp_path):
    folder, network = clip
    pictures = [one for one in PICTURES for _ in CAPTIONS]
    expected = [max(100 * cosine, 0) for cosine in cosines(network, pictures, CAPTIONS * 3)]
    found = scores(tmp_path, "clip", folder, pictures, CAPTIONS * 3)
    assert found == pytest.approx(expected, abs=1e-4)
    seen = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    read = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    values = SCORERS["clip"].formula(Embeddings(seen, read, 7.0, ()))
    assert values.tolist() == pytest.approx([0.0, 60.0, 100.0])


def test_hps_is_a_hundred_times_the_cosine_under_open_clips_network(tmp_path):
    network = make_open_clip(tmp_path)
    batch = torch.stack([pixels(one, 28) for one in PICTURES])
    with torch.no_grad():
        seen, read = network.visual(batch), network.encode_text(tokens(CAPTIONS))
    expected = 100 * torch.cosine_similarity(seen, read)
    assert scores(tmp_path, "hpsv2.1", tmp_path) == pytest.approx(expected.tolist(), abs=1e-4)


def test_aesthetic_score_is_the_published_layers_on_the_normalised_vector(tmp_path):
    network, head = make_clip(tmp_path, words=False), make_head(tmp_path / HEAD)
    batch = torch.stack([pixels(one, 28) for one in PICTURES])
    with torch.no_grad():
        vectors = network.visual_projection(network.vision_model(batch).pooler_output)
        expected = head(vectors / vectors.norm(dim=-1, keepdim=True))[:, 0]
    found = scores(tmp_path, "aesthetic", tmp_path, captions=[""] * 3)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    assert max(found) - min(found) > 1e-4


@pytest.mark.parametrize("size", [(28, 28), (40, 31), (31, 64), (300, 29), (224, 500)])
def test_pictures_are_prepared_as_transformers_does(size):
    import transformers

    plain = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = plain(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    image = picture(3, size)
    (expected,) = processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels(image, 28), expected, atol=1e-6)


def test_captions_beyond_the_longest_are_cut_with_their_end_kept(clip, tmp_path):
    folder, _ = clip
    shared = "abcdefghijklmnopq"
    first, second = scores(
        tmp_path, "pickscore", folder, PICTURES[:1] * 2, [f"{shared}r", f"{shared}s"]
    )
    assert first == pytest.approx(
        second, rel=1e-5
    )  # a batch of two rounds each a little differently


def test_half_a_character_in_a_caption_is_scored(clip, tmp_path):
    (found,) = scores(tmp_path, "clip", clip[0], PICTURES[:1], ["a fox \ud83e"])
    assert found >= 0


# Batches and the cache


class Counted:
    """Counts the pictures that go through CLIP."""

    def __init__(self, monkeypatch):
        from seppo_core.evaluation.clip import Clip

        self.batches = []
        plain = Clip.images

        def images(clip, pictures):
            self.batches.append(len(pictures))
            return plain(clip, pictures)

        monkeypatch.setattr(Clip, "images", images)


def test_scores_do_not_depend_on_the_batch_size(clip, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    every = [
        scores(tmp_path / str(size), "pickscore", clip[0], batch_size=size) for size in (1, 2, 8)
    ]
    assert counted.batches == [1, 1, 1, 2, 1, 3]
    assert every[0] == pytest.approx(every[1], rel=1e-4)
    assert every[0] == pytest.approx(every[2], rel=1e-4)


def test_the_same_picture_and_caption_are_not_scored_again(clip, tmp_path, monkeypatch):
    first = scores(tmp_path, "pickscore", clip[0])
    counted = Counted(monkeypatch)
    copies = [Image.frombytes("RGB", one.size, one.tobytes()) for one in PICTURES]
    assert scores(tmp_path, "pickscore", clip[0], copies) == first
    assert counted.batches == []
    scores(tmp_path, "pickscore", clip[0], copies, ["a red fox", "two birds", "another"])
    assert counted.batches == [1]
    scores(tmp_path, "clip", clip[0], copies)
    assert counted.batches == [1, 3]


def test_a_caption_matters_only_to_scorers_that_read_it(tmp_path, monkeypatch):
    make_clip(tmp_path, words=False)
    make_head(tmp_path / HEAD)
    counted = Counted(monkeypatch)
    found = scores(tmp_path, "aesthetic", tmp_path, PICTURES[:1] * 2, ["a", "b"])
    assert counted.batches == [1] and found[0] == found[1]


def test_other_weights_under_the_same_names_are_scored_anew(tmp_path):
    make_clip(tmp_path / "model", seed=0)
    before = scores(tmp_path, "pickscore", tmp_path / "model")
    make_clip(tmp_path / "model", seed=1)
    after = scores(tmp_path, "pickscore", tmp_path / "model")
    assert all(abs(a - b) > 1e-3 for a, b in zip(before, after, strict=True))


def test_weights_that_were_moved_keep_their_scores(clip, tmp_path, monkeypatch):
    first = scores(tmp_path, "pickscore", clip[0])
    shutil.copytree(clip[0], tmp_path / "elsewhere")
    counted = Counted(monkeypatch)
    assert scores(tmp_path, "pickscore", tmp_path / "elsewhere") == first
    assert counted.batches == []


def test_what_was_scored_before_a_stop_is_kept(clip, tmp_path, monkeypatch):
    def stop(done, total):
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scores(tmp_path, "pickscore", clip[0], batch_size=1, on_item=stop)
    counted = Counted(monkeypatch)
    scores(tmp_path, "pickscore", clip[0])
    assert counted.batches == [1]


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"values": {"a": 1.0}, "checksum": "0"}', "{" * 5000]
)
def test_a_damaged_cache_is_computed_again(clip, tmp_path, damage, caplog):
    first = scores(tmp_path, "pickscore", clip[0])
    for path in (tmp_path / "cache").glob("*.json"):
        path.write_text(damage)
    assert scores(tmp_path, "pickscore", clip[0]) == first
    assert "is computed again" in caplog.text


def test_scores_are_given_where_nothing_can_be_kept(clip, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert len(scores(tmp_path, "pickscore", clip[0])) == 3
    assert "cannot be kept" in caplog.text


# Weights that cannot be used


def test_every_scorer_says_what_to_get_and_where_to_put_it(tmp_path):
    for name, scorer in SCORERS.items():
        with pytest.raises(ScorerError) as raised:
            find(name, tmp_path / scorer.folder)
        assert f"there is no {scorer.weights[0]} in {tmp_path / scorer.folder}" in str(raised.value)
        assert scorer.get in str(raised.value)


def test_an_unknown_scorer_lists_the_choices():
    with pytest.raises(ConfigError, match=r"unknown scorer 'fid'; choose from \['pickscore'"):
        make_scorer("fid")


def test_missing_head_tokenizer_or_configuration_are_named(clip, tmp_path):
    make_clip(tmp_path, words=False)
    with pytest.raises(ScorerError, match=r"there is no sac\+logos.* christophschuhmann"):
        find("aesthetic", tmp_path)
    with pytest.raises(ScorerError, match="tokenizer is missing; put tokenizer.json"):
        find("clip", tmp_path)
    assert find("clip", tmp_path, words=clip[0]).files.words == clip[0]
    (tmp_path / "config.json").unlink()
    with pytest.raises(ScorerError, match="config.json is missing"):
        scores_with("pickscore", tmp_path, clip[0], tmp_path)


def test_a_file_that_would_run_something_is_not_opened(clip, tmp_path):
    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    (tmp_path / HPS).write_bytes(pickle.dumps({"state_dict": Runs()}))
    with pytest.raises(ScorerError, match="cannot be read as plain tensors"):
        scores_with("hpsv2.1", tmp_path, clip[0], tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_torch_that_cannot_open_such_files_safely_refuses(clip, tmp_path, monkeypatch):
    make_open_clip(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    with pytest.raises(ScorerError, match=r"torch 2\.6 or later"):
        scores_with("hpsv2.1", tmp_path, clip[0], tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"not tensors at all"])
@pytest.mark.parametrize("name", [HPS, "model.safetensors"])
def test_damaged_files_are_named(clip, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    if name != HPS:
        shutil.copy(clip[0] / "config.json", tmp_path)
    with pytest.raises(ScorerError, match=name):
        scores_with("hpsv2.1", tmp_path, clip[0], tmp_path)


@pytest.mark.parametrize("values", [[1, 2], {"state_dict": {"a": 1}}, {"a": torch.zeros(2)}])
def test_tensors_that_are_no_clip_are_named(clip, tmp_path, values):
    torch.save(values, tmp_path / HPS)
    with pytest.raises(ScorerError, match="holds (something else|no CLIP)"):
        scores_with("hpsv2.1", tmp_path, clip[0], tmp_path)


def test_a_part_of_a_clip_is_refused_instead_of_filled_with_noise(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(clip[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    whole = dict(tensors)
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ScorerError, match=r"1 tensors are missing .*visual_projection"):
        scores(tmp_path, "clip", tmp_path)
    whole["visual_projection.weight"] = torch.zeros(3, 3)
    save_file(whole, tmp_path / "model.safetensors")
    with pytest.raises(ScorerError, match="does not fit its configuration"):
        scores(tmp_path, "clip", tmp_path)


def test_a_part_of_an_open_clip_is_refused(tmp_path):
    make_open_clip(tmp_path)
    content = torch.load(tmp_path / HPS)
    del content["state_dict"]["text_projection"]
    torch.save(content, tmp_path / HPS)
    with pytest.raises(ScorerError, match="no whole CLIP of open_clip"):
        scores(tmp_path, "hpsv2.1", tmp_path)


def test_weights_that_give_no_numbers_are_refused_and_nothing_is_kept(tmp_path):
    from safetensors.torch import load_file, save_file

    make_clip(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["visual_projection.weight"][:] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ScorerError, match="give no numbers"):
        scores(tmp_path, "pickscore", tmp_path)
    assert not list((tmp_path / "cache").glob("pickscore*"))


def test_a_head_of_another_kind_or_size_is_refused(tmp_path):
    make_clip(tmp_path, words=False)
    make_head(tmp_path / HEAD)
    tensors = torch.load(tmp_path / HEAD)
    torch.save({**tensors, "layers.0.weight": torch.zeros(16, 7)}, tmp_path / HEAD)
    with pytest.raises(ScorerError, match="does not fit the CLIP beside it, which gives 24"):
        scores(tmp_path, "aesthetic", tmp_path)
    moved = {name.replace(".7.", ".8."): value for name, value in tensors.items()}
    torch.save(moved, tmp_path / HEAD)
    with pytest.raises(ScorerError, match="linear layers alone"):
        scores(tmp_path, "aesthetic", tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"text_config": 3}', '{"vision_config": {"patch_size": 0}}']
)
def test_an_odd_configuration_is_named(clip, tmp_path, text):
    shutil.copytree(clip[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ScorerError, match="describes no CLIP|does not fit"):
        scores(tmp_path, "clip", tmp_path)


def test_an_odd_tokenizer_is_named(clip, tmp_path):
    shutil.copytree(clip[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ScorerError, match="tokenizer cannot be read"):
        scores(tmp_path, "clip", tmp_path)


def test_unusable_weights_are_found_before_anything_is_scored(clip, tmp_path):
    require_loadable(find("pickscore", clip[0]), tmp_path / "cache")
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    shutil.copy(clip[0] / "config.json", tmp_path)
    with pytest.raises(ScorerError, match="fetch it again"):
        require_loadable(find("pickscore", tmp_path, clip[0]), tmp_path / "cache")


# Choosing


def test_scorers_are_named_one_a_line_with_their_weights():
    lines = [
        "pickscore",
        "",
        "  hpsv2.1 = models/HPS v2 ",
        "clip=hub:openai/clip-vit-large-patch14",
    ]
    assert choices(lines) == [
        ("pickscore", ""),
        ("hpsv2.1", "models/HPS v2"),
        ("clip", "hub:openai/clip-vit-large-patch14"),
    ]
    with pytest.raises(ConfigError, match="named twice"):
        choices(["clip", "clip=b"])
    with pytest.raises(ConfigError, match="unknown scorer 'fid'"):
        choices(["fid"])


def test_a_repository_is_fetched_only_when_it_is_named(clip, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(clip[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find("clip", fetch("clip", "hub:openai/clip-vit-large-patch14")).files.weights.is_file()
    ((name, patterns),) = asked
    assert name == "openai/clip-vit-large-patch14"
    assert "model.safetensors" in patterns
    assert not any("*" in pattern or pattern.endswith(".bin") for pattern in patterns)


@pytest.mark.parametrize("name", ["hub:", "hub:openai", "hub:a/b/c", "hub:/b"])
def test_a_repository_without_owner_or_name_is_refused(name):
    with pytest.raises(ConfigError, match="write owner and name"):
        fetch("clip", name)


def test_a_repository_that_cannot_be_had_is_told(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ScorerError, match="hub:nobody/nothing cannot be fetched"):
        fetch("clip", "hub:nobody/nothing")


def test_tokens_worked_out_by_hand_are_the_tokenizers(clip):
    import transformers

    found = transformers.CLIPTokenizer.from_pretrained(clip[0])(
        CAPTIONS, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    assert torch.equal(found["input_ids"], tokens(CAPTIONS))
    assert (
        json.loads((clip[0] / "vocab.json").read_text())["<|endoftext|>"]
        == scorers.TEXT["eos_token_id"]
    )
