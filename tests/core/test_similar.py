"""Recompressed, resized, brightened and cut copies are found among real drawings; other pictures are not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seppo_core.data.pictures import PictureFile, picture_from_tensor
from seppo_core.data.similar import (
    MAX_BITS,
    MAX_COLOURS,
    Seen,
    examine,
    fingerprint,
    near_duplicates,
)
from seppo_core.data.winners import LeftOut, Winner, Winners
from seppo_core.errors import ConfigError, DatasetError

DRAWINGS = sorted((Path(__file__).parents[2] / "demo" / "winners").glob("*.png"))


def drawing(number: int) -> Image.Image:
    with Image.open(DRAWINGS[number]) as image:
        return image.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC)


def winners_of(*images: Image.Image, losing: list[Image.Image] | None = None) -> Winners:
    def picture(image: Image.Image, name: str):
        return picture_from_tensor(torch.from_numpy(np.array(image)) / 255, name)

    pictures = [picture(image, f"image {number}") for number, image in enumerate(images)]
    losers = [picture(image, "losing") for image in losing] if losing else [None] * len(images)
    pairs = zip(pictures, losers, strict=True)
    return Winners([Winner(shown, "a", losing=loser) for shown, loser in pairs], "some")


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def cut(image: Image.Image) -> Image.Image:
    """2 % less of each side, all of it at the top left."""
    return image.crop((round(image.width * 0.02), round(image.height * 0.02), *image.size))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": recompressed,
    "halved": lambda image: image.resize((64, 64), Image.Resampling.BICUBIC),
    "brighter": lambda image: image.point(lambda value: min(255, round(value * 1.05))),
    "cut": cut,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_of_every_drawing_is_found_and_nothing_else(change):
    count = 40
    originals = [drawing(number) for number in range(count)]
    copies = [CHANGES[change](image) for image in originals]
    pairs = near_duplicates(winners_of(*originals, *copies))
    assert pairs == [(count + number, number) for number in range(count)]


def test_the_drawings_of_the_demo_all_differ():
    winners = Winners([Winner(PictureFile(path, path.name), "a") for path in DRAWINGS], "demo")
    assert len(winners) == 120
    assert near_duplicates(winners) == []


def test_one_shape_in_two_colours_is_two_pictures():
    def disc(colour: tuple[int, int, int]) -> Image.Image:
        inside = (np.indices((64, 64)) - 32) ** 2
        pixels = np.where(inside.sum(0)[..., None] < 400, colour, (255, 255, 255))
        return Image.fromarray(pixels.astype(np.uint8))

    red, green = disc((220, 0, 0)), disc((0, 112, 0))
    assert near_duplicates(winners_of(red, green, red)) == [(2, 0)]


def test_plain_pictures_are_the_same_only_byte_for_byte():
    plain = [Image.new("RGB", (32, 32), (value,) * 3) for value in (255, 254, 0, 255)]
    assert fingerprint(plain[0]) is None
    assert near_duplicates(winners_of(*plain)) == [(3, 0)]


def test_later_ones_resemble_the_first_that_stays():
    one, other = drawing(0), drawing(1)
    assert near_duplicates(winners_of(one, other, one, cut(other), recompressed(one))) == [
        (2, 0),
        (3, 1),
        (4, 0),
    ]


def test_pairs_with_different_losing_images_are_different():
    one, left, right = drawing(0), drawing(1), drawing(2)
    winners = winners_of(one, one, one, one, losing=[left, right, right, left])
    assert near_duplicates(winners) == [(2, 1), (3, 0)]


def test_reported_duplicates_stay_and_are_named():
    winners = winners_of(drawing(0), drawing(1), drawing(0))
    winners.notes.append("a note")
    examined = examine(winners, "report")
    assert len(examined) == 3
    assert examined.left_out == []
    told = "1 look nearly the same as an earlier one: image 2 and image 0"
    assert examined.notes == ["a note", told]
    assert told in examined.report()
    assert winners.notes == ["a note"]


def test_dropped_duplicates_are_left_out_with_their_reason():
    winners = winners_of(drawing(0), drawing(1), drawing(0))
    winners.left_out.append(LeftOut("bad", "no caption"))
    examined = examine(winners, "drop")
    assert [winner.name for winner in examined] == ["image 0", "image 1"]
    assert list(map(str, examined.left_out)) == [
        "bad: no caption",
        "image 2: nearly the same as image 0",
    ]
    assert examined.notes == []
    assert examined.source == "some"


def test_many_duplicates_are_counted_and_some_named():
    (note,) = examine(winners_of(*[drawing(0)] * 13), "report").notes
    assert note.startswith("12 look nearly the same as an earlier one: image 1 and image 0; ")
    assert note.endswith("; and 2 more")


def test_a_picture_that_cannot_be_decoded_is_left_out_with_its_reason(tmp_path):
    # The file ends properly, so only decoding tells that its middle is damaged.
    path = tmp_path / "bad.png"
    drawing(0).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    bad = Winner(PictureFile(path, "bad.png"), "a")
    assert bad.picture.complaint() == ""
    examined = examine(Winners([bad, *winners_of(drawing(1))], "some"), "report")
    assert [winner.name for winner in examined] == ["image 0"]
    (left_out,) = examined.left_out
    assert left_out.name == "bad.png"
    assert left_out.reason.startswith("cannot be decoded")
    with pytest.raises(DatasetError, match="no usable image"):
        examine(Winners([bad], "some"), "report")


def test_under_strict_a_picture_that_cannot_be_decoded_is_an_error(tmp_path):
    path = tmp_path / "cut.png"
    drawing(0).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    winners = Winners([Winner(PictureFile(path, "cut.png"), "a")], "some")
    with pytest.raises(DatasetError, match="some: 1 cannot be used:(.|\n)*cut.png.*cut off"):
        examine(winners, strict=True)


def test_off_looks_at_nothing():
    class Untouchable:
        name = "a"

    winners = Winners([Winner(Untouchable(), "a")], "some")
    assert examine(winners, "off") is winners


def test_unknown_settings_are_listed():
    with pytest.raises(ConfigError, match="unknown near_duplicates 'maybe'.*report.*drop.*off"):
        examine(winners_of(drawing(0)), "maybe")


def test_the_search_can_be_watched_and_stopped():
    seen = []

    def on_item(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(winners_of(*map(drawing, range(3))), "report", on_item)
    assert seen == [(1, 3), (2, 3)]


def test_neighbours_found_by_bands_are_those_found_by_comparing_all():
    random = np.random.default_rng(0)
    centres = random.random((20, 128)) < 0.5
    flips = random.integers(0, 30, 300)
    rows = [centres[number % 20].copy() for number in range(300)]
    for bits, count in zip(rows, flips, strict=True):
        bits[random.choice(128, count, replace=False)] ^= True
    colours = random.integers(0, 24, (300, 48)).astype(np.uint8)
    seen = Seen(300)
    found = 0
    for index in range(300):
        differing = (np.array(rows[:index]).reshape(-1, 128) != rows[index]).sum(1)
        apart = np.abs(colours[:index].astype(int) - colours[index]).mean(1)
        expected = np.flatnonzero((differing <= MAX_BITS) & (apart <= MAX_COLOURS)).tolist()
        assert seen.matches(rows[index], colours[index]) == expected
        found += len(expected)
        seen.add(index, rows[index], colours[index])
    assert found > 100
