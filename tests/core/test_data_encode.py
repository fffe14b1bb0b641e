import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from seppo_core.data import Example, in_memory
from seppo_core.data.encode import encode
from seppo_core.data.latents import pair_latents
from seppo_core.data.pictures import picture_from_tensor
from seppo_core.data.prepare import ClipSelection, Preparation
from seppo_core.data.winners import Winner, Winners, pair_up
from seppo_core.errors import DatasetError

SMALL = Preparation(resolution=16, multiple=8)


class Encoders:
    """A VAE of factor 8 that averages colours, a text encoder that spells, and a count of their calls."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.images = 0
        self.texts: list[str] = []

    def image(self, picture: Tensor) -> Tensor:
        self.images += 1
        height, width, _ = picture.shape
        blocks = picture.reshape(height // 8, 8, width // 8, 8, 3)
        return blocks.mean((1, 3)).movedim(-1, 0).to(torch.float16) * self.scale

    def text(self, caption: str) -> list:
        self.texts.append(caption)
        letters = torch.tensor([[[float(ord(letter)) for letter in caption]]])
        return [[letters, {"pooled_output": letters[:, 0, :1], "guidance": 3.5}]]

    def encode(self, winners: Winners, cache: Path | None = None, **settings):
        names = {"image_identity": f"vae {self.scale}", "text_identity": "clip"} | settings
        return encode(winners, self.image, self.text, SMALL, cache=cache, **names)


def winners_of(*captions: str, size=(16, 16)) -> Winners:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(*size, 3, generator=generator) for _ in captions]
    pictures = [picture_from_tensor(image, f"image {i + 1}") for i, image in enumerate(images)]
    return pair_up(pictures, captions)


def test_encoded_examples_are_what_the_encoders_gave(tmp_path):
    winners = winners_of("ab", "cd", size=(16, 8))
    for cache in (None, tmp_path):
        encoders = Encoders()
        dataset = encoders.encode(winners, cache)
        pixels = winners[1].picture.pixels.float() / 255
        expected = torch.stack([pixels[:8], pixels[8:]]).mean((1, 2)).T[..., None]
        example = dataset[1]
        assert torch.allclose(example.latents, expected, atol=1e-3)
        assert example.latents.dtype == torch.float32
        assert example.caption == "cd"
        ((letters, extra),) = example.cond
        assert letters.tolist() == [[[99.0, 100.0]]]
        assert extra["pooled_output"].tolist() == [[99.0]]
        assert extra["guidance"] == 3.5
        assert dataset.shapes == [(3, 2, 1)] * 2
        assert not dataset.paired


def test_dataset_on_disk_and_in_memory_have_one_identity(tmp_path):
    winners = winners_of("ab", "cd")
    assert Encoders().encode(winners).identity == Encoders().encode(winners, tmp_path).identity


def test_adding_one_image_encodes_one(tmp_path):
    Encoders().encode(winners_of("a", "b"), tmp_path)
    more = Encoders()
    assert len(more.encode(winners_of("a", "b", "a"), tmp_path)) == 3
    assert (more.images, more.texts) == (1, [])


def test_nothing_is_encoded_twice_and_every_text_once(tmp_path):
    first, second = Encoders(), Encoders()
    before = first.encode(winners_of("a", "a", "b"), tmp_path)
    after = second.encode(winners_of("a", "a", "b"), tmp_path)
    assert (first.images, first.texts) == (3, ["a", "b"])
    assert (second.images, second.texts) == (0, [])
    assert before.identity == after.identity
    assert torch.equal(before[2].latents, after[2].latents)


def test_another_vae_or_preparation_encodes_images_again_and_texts_not(tmp_path):
    winners = winners_of("a", "b")
    before = Encoders().encode(winners, tmp_path)
    other = Encoders(scale=2.0)
    after = other.encode(winners, tmp_path)
    assert (other.images, other.texts) == (2, [])
    assert torch.equal(after[0].latents, before[0].latents * 2)
    assert after.identity != before.identity

    again = Encoders()
    squares = Preparation(16, 8, "square")
    names = {"image_identity": "vae 1.0", "text_identity": "clip"}
    encode(winners, again.image, again.text, squares, cache=tmp_path, **names)
    assert again.images == 2


def test_another_text_encoder_encodes_texts_again_and_images_not(tmp_path):
    Encoders().encode(winners_of("a", "b"), tmp_path)
    other = Encoders()
    other.encode(winners_of("a", "b"), tmp_path, text_identity="other clip")
    assert (other.images, other.texts) == (0, ["a", "b"])


def test_stopped_encoding_goes_on_where_it_was(tmp_path):
    def stop(done: int, total: int) -> None:
        assert total == 4 + 2
        if done == 3:
            raise KeyboardInterrupt

    winners = winners_of("a", "a", "a", "b")
    with pytest.raises(KeyboardInterrupt):
        Encoders().encode(winners, tmp_path, on_item=stop)
    rest = Encoders()
    rest.encode(winners, tmp_path)
    assert (rest.images, rest.texts) == (1, ["a", "b"])


def test_killed_encoding_goes_on_after_its_last_shard(tmp_path):
    code = """
import os, signal, sys, torch
from pathlib import Path
from seppo_core.data import cache
from seppo_core.data.encode import encode
from seppo_core.data.pictures import picture_from_tensor
from seppo_core.data.prepare import Preparation
from seppo_core.data.winners import pair_up

cache.SHARD_VALUES = 4
fatal = int(sys.argv[2])
encoded = []
def image(picture):
    if len(encoded) == fatal:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    encoded.append(0)
    return picture.movedim(-1, 0)
pictures = [picture_from_tensor(torch.full((8, 8, 3), i / 20), str(i)) for i in range(20)]
names = {"image_identity": "vae", "text_identity": "clip", "cache": Path(sys.argv[1])}
winners = pair_up(pictures, ["same"])
dataset = encode(winners, image, lambda text: [torch.ones(1)], Preparation(8, 8), **names)
print(len(encoded), [round(example.latents.mean().item() * 20) for example in dataset])
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.run([*command, "15"], capture_output=True, text=True)
    assert killed.stdout == ""
    rest = subprocess.run([*command, "-1"], capture_output=True, text=True)
    # 15 were encoded, 12 of them written in shards of 4: 8 are left
    assert rest.stdout.strip() == f"8 {list(range(20))}"


def test_shards_hold_every_value_once(tmp_path):
    for captions in (["a", "a", "b"], ["a", "a", "b", "c"], ["a", "a", "b", "c"]):
        Encoders().encode(winners_of(*captions), tmp_path)
    indexes = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    keys = [key for index in indexes for key in index["entries"]]
    assert len(indexes) == 2
    assert len(keys) == len(set(keys)) == 4 + 3


def test_half_written_and_damaged_entries_are_encoded_again(tmp_path):
    winners = winners_of("a")
    Encoders().encode(winners, tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
    again = Encoders()
    again.encode(winners, tmp_path)
    assert (again.images, again.texts) == (1, ["a"])


def test_entry_deleted_while_in_use_says_what_to_do(tmp_path):
    dataset = Encoders().encode(winners_of("a"), tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(DatasetError, match="gone or damaged.*encode the winners again"):
        dataset[0]


def test_cache_below_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    encoders = Encoders()
    with pytest.raises(DatasetError, match="cannot be kept there"):
        encoders.encode(winners_of("a"), tmp_path / "file" / "cache")
    assert encoders.images == 0


def test_conditioning_with_a_hook_stays_in_memory(tmp_path):
    hook = object()
    encoders = Encoders()
    plain = encoders.text

    def hooked(caption: str) -> list:
        cond = plain(caption)
        cond[0][1]["hooks"] = hook
        return cond

    encoders.text = hooked
    dataset = encoders.encode(winners_of("a"), tmp_path)
    assert dataset[0].cond[0][1]["hooks"] is hook
    again = Encoders()
    again.encode(winners_of("a"), tmp_path)
    assert (again.images, again.texts) == (0, ["a"])


def test_losing_images_are_encoded_at_the_size_of_their_winners(tmp_path):
    wide, tall = torch.rand(8, 16, 3), torch.rand(40, 24, 3)
    winner, loser = picture_from_tensor(wide, "wide"), picture_from_tensor(tall, "tall")
    dataset = Encoders().encode(pair_up([winner], ["a"], [loser]), tmp_path)
    assert dataset.paired
    assert dataset[0].losing.shape == dataset[0].latents.shape == (3, 1, 2)

    some = Winners([Winner(winner, "a", losing=loser), Winner(loser, "b")], "some")
    assert not Encoders().encode(some, tmp_path).paired


def test_repeats_count_in_length_and_identity(tmp_path):
    picture = picture_from_tensor(torch.rand(16, 16, 3), "image")
    once = Encoders().encode(Winners([Winner(picture, "a")], "x"), tmp_path)
    thrice = Encoders().encode(Winners([Winner(picture, "a", repeats=3)], "x"), tmp_path)
    assert (len(once), len(thrice)) == (1, 3)
    assert once.identity != thrice.identity


def test_picture_that_turns_out_damaged_is_left_out(caplog):
    class Damaged:
        name = "bad.png"

        def load(self, background):
            raise DatasetError("bad.png: cannot be decoded")

        def content(self):
            return "bad"

    good = winners_of("a")[0]
    encoders = Encoders()
    dataset = encoders.encode(Winners([Winner(Damaged(), "b"), good], "x"))
    assert [example.caption for example in dataset] == ["a"]
    assert "bad.png: cannot be decoded" in caplog.text
    with pytest.raises(DatasetError, match="no usable image.*\n.*bad.png"):
        encoders.encode(Winners([Winner(Damaged(), "b")], "x"))


def test_the_report_tells_sizes_small_pictures_and_what_was_left_out(tmp_path):
    class Damaged:
        name = "bad.png"

        def content(self):
            raise DatasetError("bad.png: cannot be decoded")

    # 16x16 pixels are wanted: 8x8 has a quarter of them, 8x16 just half
    sides = [(16, 16), (8, 8), (16, 16), (16, 8), (8, 8)]
    pictures = [
        picture_from_tensor(torch.rand(*side, 3), f"{i}.png") for i, side in enumerate(sides)
    ]
    rows = [Winner(picture, "a", repeats=2) for picture in pictures]
    winners = Winners([*rows, Winner(Damaged(), "a")], "some")
    for _ in ("fresh", "from the cache"):
        dataset = Encoders().encode(winners, tmp_path)
        assert dataset.report().splitlines() == [
            "5 winners to train on",
            "with repeats they count as 10 per pass",
            "sizes: 16x16 (2), 8x8 (2), 8x16 (1)",
            "2 of 5 have less than half of 16x16 pixels and stay small (first: 1.png)",
            "left out: 1",
            "  bad.png: cannot be decoded",
        ]


def test_a_dataset_does_not_hold_the_pictures_it_was_made_from():
    winners = winners_of("a")
    picture = weakref.ref(winners[0].picture)
    dataset = Encoders().encode(winners)
    del winners
    gc.collect()
    assert picture() is None
    assert len(dataset) == 1


class Clip:
    name = "a.mp4"

    def frames(self, selection: ClipSelection, background: str) -> list[Image.Image]:
        return [Image.new("RGB", (16, 16), (n, n, n)) for n in range(min(selection.count, 6))]

    def content(self) -> str:
        return "clip"


def test_clips_are_encoded_whole_and_their_selection_counts_for_them_alone(tmp_path):
    shapes = []

    def encode_image(picture: Tensor) -> Tensor:
        shapes.append(tuple(picture.shape))
        return torch.zeros(4, len(picture), 2, 2)

    winners = Winners([Winner(Clip(), "a"), winners_of("a")[0]], "some")
    names = {"image_identity": "vae", "text_identity": "clip", "cache": tmp_path}
    for count in (5, 5, 9):
        preparation = Preparation(16, 8, clip=ClipSelection(count))
        dataset = encode(winners, encode_image, Encoders().text, preparation, **names)
    assert shapes == [(5, 16, 16, 3), (16, 16, 3), (6, 16, 16, 3)]
    assert dataset.shapes[0] == (4, 6, 2, 2)
    assert dataset.notes[0] == "sizes: 16x16, 6 frames (1), 16x16 (1)"
    assert dataset.notes[1] == "1 of 2 have less than 9 frames (first: a.mp4)"


def test_latents_that_cannot_be_trained_on_are_refused():
    encoders = Encoders(scale=float("nan"))
    with pytest.raises(DatasetError, match="image 1: the latents hold NaN"):
        encoders.encode(winners_of("a"))
    encoders.image = lambda picture: torch.zeros(3, 4)
    with pytest.raises(DatasetError, match=r"expected latents .* got \[3, 4\]"):
        encoders.encode(winners_of("a"))


def test_video_latents_keep_their_frame():
    encoders = Encoders()
    encoders.image = lambda picture: torch.zeros(16, 1, 2, 2)
    assert encoders.encode(winners_of("a")).shapes == [(16, 1, 2, 2)]


def test_what_was_made_in_inference_mode_can_be_trained_on(tmp_path):
    for cache in (None, tmp_path, tmp_path):
        with torch.inference_mode():
            example = Encoders().encode(winners_of("a"), cache)[0]
        weight = torch.ones(1, requires_grad=True)
        ((letters, extra),) = example.cond
        (weight * example.latents.sum() * letters.sum() * extra["pooled_output"].sum()).backward()
        assert weight.grad is not None


def test_in_memory_identity_follows_content():
    def example(value: float, losing: Tensor | None = None) -> Example:
        return Example(torch.full((1, 2, 2), value), [[torch.ones(1), {"y": 2}]], losing=losing)

    assert in_memory([example(1)]).identity == in_memory([example(1)]).identity
    assert in_memory([example(1)]).identity != in_memory([example(2)]).identity
    assert in_memory([example(1)]).identity != in_memory([example(1)], [2]).identity
    assert in_memory([example(1, torch.zeros(1, 2, 2))]).paired
    with pytest.raises(DatasetError, match="dataset is empty"):
        in_memory([])


def cond(value: float = 1.0) -> list:
    return [[torch.full((1, 2, 3), value), {"pooled_output": torch.zeros(1, 3)}]]


def test_latents_of_any_shape_pair_with_their_conditioning():
    latents = [torch.zeros(4, 8, 8, dtype=torch.float16), torch.ones(16, 1, 4, 4)]
    dataset = pair_latents(latents, [cond(1), cond(2)])
    assert dataset.shapes == [(4, 8, 8), (16, 1, 4, 4)]
    assert dataset[0].latents.dtype == torch.float32
    assert dataset[1].cond[0][0].max() == 2
    assert not dataset.paired


def test_one_conditioning_serves_all_latents_and_is_held_once():
    dataset = pair_latents([torch.zeros(4, 2, 2)] * 3, [cond()])
    assert len(dataset) == 3
    assert dataset[0].cond is dataset[2].cond


def test_latents_and_conditionings_of_different_counts_are_both_named():
    with pytest.raises(DatasetError, match="3 latents but 2 conditionings"):
        pair_latents([torch.zeros(4, 2, 2)] * 3, [cond(), cond()])
    with pytest.raises(DatasetError, match="2 latents but 0 conditionings"):
        pair_latents([torch.zeros(4, 2, 2)] * 2, [])
    with pytest.raises(DatasetError, match="no latents"):
        pair_latents([], [cond()])
    with pytest.raises(DatasetError, match="2 winning but 1 losing"):
        pair_latents([torch.zeros(4, 2, 2)] * 2, [cond()], [torch.zeros(4, 2, 2)])


def test_losing_latents_must_have_the_winners_shape():
    winner = torch.zeros(4, 2, 2)
    assert pair_latents([winner], [cond()], [winner + 1]).paired
    with pytest.raises(DatasetError, match=r"latents 1: .* \[4, 2, 3\], the winner's \[4, 2, 2\]"):
        pair_latents([winner], [cond()], [torch.zeros(4, 2, 3)])


def test_latents_with_nan_are_refused_by_name():
    latents = [torch.zeros(4, 2, 2), torch.full((4, 2, 2), torch.nan)]
    with pytest.raises(DatasetError, match="latents 2: the latents hold NaN"):
        pair_latents(latents, [cond()])
