import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seppo_core.data.folder import folder_repeats
from seppo_core.data.pictures import PictureFile, picture_from_tensor
from seppo_core.data.readers import READERS, listing, read_winners
from seppo_core.data.winners import pair_up
from seppo_core.errors import ConfigError, DatasetError
from seppo_core.views.sheet import contact_sheet


def draw(path: Path, caption: str | None = "a cat", color="red", size=(12, 8), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def noise_picture(path: Path, size=(64, 64)) -> Path:
    """Noise does not compress, so half of the file is half of the picture."""
    values = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    path.with_suffix(".txt").write_text("noise")
    return path


def pixel(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((0, 0))


def test_folder_gives_every_format_with_its_caption_in_order_of_names(tmp_path):
    for name in ("e.tiff", "d.bmp", "c.webp", "b.jpg", "a.png", "sub/f.PNG"):
        draw(tmp_path / name, f"caption of {name}")
    winners = read_winners(tmp_path)
    assert [winner.name for winner in winners] == [
        *("a.png", "b.jpg", "c.webp", "d.bmp", "e.tiff", "sub/f.PNG")
    ]
    assert winners[5].caption == "caption of sub/f.PNG"
    assert [winner.load().size for winner in winners] == [(12, 8)] * 6
    assert winners.left_out == []


def test_kohya_folder_repeats_and_its_words_caption_what_has_no_text(tmp_path):
    draw(tmp_path / "10_red bird" / "a.png", None)
    draw(tmp_path / "10_red bird" / "b.png", "its own words")
    draw(tmp_path / "plain" / "c.png", "once")
    winners = read_winners(tmp_path)
    assert [(w.caption, w.repeats) for w in winners] == [
        *(("red bird", 10), ("its own words", 10), ("once", 1))
    ]
    assert "count as 21 per pass" in winners.report()


def test_names_that_only_look_like_repeats_are_none():
    assert folder_repeats("3_a_b") == (3, "a_b")
    assert folder_repeats("3") == (1, "")
    assert folder_repeats("a_3") == (1, "")
    with pytest.raises(DatasetError, match="more than 10000 repeats"):
        folder_repeats("123456789_x")


def test_zero_repeats_leave_a_picture_out(tmp_path):
    draw(tmp_path / "0_off" / "a.png")
    draw(tmp_path / "b.png")
    winners = read_winners(tmp_path)
    assert len(winners) == 1
    assert winners.left_out[0].name == "0_off/a.png"


def test_common_caption_serves_pictures_without_their_own(tmp_path):
    draw(tmp_path / "a.png", "its own")
    draw(tmp_path / "b.png", None)
    draw(tmp_path / "c.png", "   ")
    captions = [winner.caption for winner in read_winners(tmp_path, caption=" in the house style ")]
    assert captions == ["its own", "in the house style", "in the house style"]


def test_pictures_without_caption_are_left_out_and_told_together(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", None)
    draw(tmp_path / "c.png", None)
    winners = read_winners(tmp_path)
    assert [winner.name for winner in winners] == ["a.png"]
    assert "left out: 2\n  b.png, c.png: no caption" in winners.report()


def test_strict_makes_what_cannot_be_used_an_error(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", None)
    with pytest.raises(DatasetError, match="b.png: no caption(.|\n)*without strict"):
        read_winners(tmp_path, strict=True)


def test_caption_may_carry_a_byte_order_mark_or_be_utf_16(tmp_path):
    picture = draw(tmp_path / "a.png", None)
    for data in ("Füchse".encode("utf-8-sig"), "Füchse".encode("utf-16")):
        picture.with_suffix(".txt").write_bytes(data)
        assert read_winners(tmp_path)[0].caption == "Füchse"


def test_caption_in_another_encoding_leaves_the_picture_out(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", None).with_suffix(".txt").write_bytes("Füchse".encode("latin-1"))
    assert "not UTF-8" in read_winners(tmp_path).left_out[0].reason


def test_broken_pictures_are_reported_and_the_rest_goes_on(tmp_path):
    draw(tmp_path / "good.png")
    for name in ("cut.png", "cut.jpg", "cut.webp", "cut.bmp", "cut.tiff"):
        path = noise_picture(tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.jpg").write_text("not a picture")
    (tmp_path / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    winners = read_winners(tmp_path)
    assert [winner.name for winner in winners] == ["good.png"]
    reasons = {item.name: item.reason for item in winners.left_out}
    assert reasons.pop("empty.png") == "the file is empty (0 bytes)"
    assert reasons.pop("words.jpg").startswith("not a PNG, JPEG, WEBP, BMP, TIFF, AVIF picture")
    assert set(reasons) == {
        *("cut.png", "cut.jpg", "cut.webp", "cut.bmp", "cut.tiff", "header.png")
    }
    assert all("\n" not in reason for reason in reasons.values())
    assert "left out: 8" in winners.report()


def test_jpeg_with_data_after_its_end_is_fine(tmp_path):
    path = noise_picture(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"camera trailer" * 100)
    assert PictureFile(path, "a.jpg").complaint() == ""


def test_a_picture_over_the_pixel_limit_is_refused_by_its_header(tmp_path):
    # 20000 x 6000 = 120 megapixels of one colour, a small file.
    draw(tmp_path / "good.png")
    Image.new("1", (20000, 6000)).save(tmp_path / "bomb.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "larger.png")
    reasons = {item.name: item.reason for item in read_winners(tmp_path).left_out}
    assert "20000x6000 pixels are over the limit of 100 megapixels" in reasons["bomb.png"]
    assert "too large to be decoded safely" in reasons["larger.png"]


def test_wrong_suffix_is_read_as_what_it_is(tmp_path):
    draw(tmp_path / "a.png", format="JPEG")
    assert read_winners(tmp_path)[0].load().size == (12, 8)


def test_no_usable_picture_is_one_error_that_says_why(tmp_path):
    (tmp_path / "winners").mkdir()
    with pytest.raises(DatasetError, match="winners: no usable image"):
        read_winners(tmp_path / "winners")
    (tmp_path / "winners" / "a.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=re.escape("a.png: the file is empty (0 bytes)")):
        read_winners(tmp_path / "winners")
    with pytest.raises(DatasetError, match="no such folder"):
        read_winners(tmp_path / "elsewhere")


def test_unknown_reader_lists_the_choices(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(str(["auto", *READERS]))):
        read_winners(tmp_path, reader="tape")


def test_links_out_of_the_folder_are_not_read(tmp_path):
    secret = draw(tmp_path / "secret" / "a.png")
    folder = tmp_path / "winners"
    draw(folder / "good.png")
    (folder / "link.png").symlink_to(secret)
    draw(folder / "told.png", None).with_suffix(".txt").symlink_to(secret.with_suffix(".txt"))
    (folder / "loop").symlink_to(folder)
    (folder / "inner.png").symlink_to(folder / "good.png")
    (folder / "inner.txt").write_text("fine")
    winners = read_winners(folder)
    assert [winner.name for winner in winners] == ["good.png", "inner.png"]
    assert {item.name for item in winners.left_out} == {"link.png", "told.png"}


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "._a.png", None)
    draw(tmp_path / ".thumbs" / "b.png", None)
    assert len(read_winners(tmp_path)) == 1


def test_picture_is_turned_as_exif_says_and_alpha_lies_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    draw(tmp_path / "turned.jpg", exif=exif)
    assert PictureFile(tmp_path / "turned.jpg", "").load().size == (8, 12)

    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    half.save(tmp_path / "half.png")
    # 255 * 128/255 + 255 * 127/255 = 255 in red, 127 in the others
    assert pixel(PictureFile(tmp_path / "half.png", "").load()) == (255, 127, 127)

    half.convert("P").save(tmp_path / "palette.gif", transparency=0)
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([0, 0, 0, 255, 0, 0])
    clear.save(tmp_path / "palette.png", transparency=0)
    assert pixel(PictureFile(tmp_path / "palette.png", "").load()) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16)).save(tmp_path / "deep.png")
    # 32896 / 65535 * 255 = 128
    assert pixel(PictureFile(tmp_path / "deep.png", "").load()) == (128, 128, 128)


def test_content_is_the_bytes_not_the_name(tmp_path):
    one = PictureFile(draw(tmp_path / "a.png"), "a")
    same = PictureFile(draw(tmp_path / "b.png"), "b")
    other = PictureFile(draw(tmp_path / "c.png", color="blue"), "c")
    assert one.content() == same.content() != other.content()


def test_identity_follows_pictures_captions_and_repeats(tmp_path):
    draw(tmp_path / "a.png")
    before = read_winners(tmp_path).identity
    assert read_winners(tmp_path).identity == before
    draw(tmp_path / "a.png", "another caption")
    assert read_winners(tmp_path).identity != before


def test_listing_changes_with_files_and_captions_only(tmp_path):
    draw(tmp_path / "a.png")
    before = listing(tmp_path)
    assert [name for name, _, _ in before] == ["a.png", "a.txt"]
    (tmp_path / "notes.md").write_text("x")
    assert listing(tmp_path) == before
    draw(tmp_path / "sub" / "b.png", None)
    assert len(listing(tmp_path)) == 3


def test_reading_stays_lazy(tmp_path, monkeypatch):
    for index in range(3):
        draw(tmp_path / f"{index}.png")
    decoded = []
    monkeypatch.setattr(PictureFile, "load", lambda self, background: decoded.append(self.name))
    winners = read_winners(tmp_path)
    assert decoded == []
    winners[1].load()
    assert decoded == ["1.png"]


def test_tensor_picture_keeps_its_pixels_and_forgets_inference_mode():
    with torch.inference_mode():
        image = torch.tensor([[[0.0, 0.5, 1.0]]])
        picture = picture_from_tensor(image, "image 1")
    assert not picture.pixels.is_inference()
    assert pixel(picture.load()) == (0, 128, 255)
    half_clear = torch.tensor([[[1.0, 0.0, 0.0, 0.5]]])
    assert pixel(picture_from_tensor(half_clear, "x").load()) == (255, 128, 128)
    assert pixel(picture_from_tensor(torch.full((1, 1, 1), 0.2), "x").load()) == (51, 51, 51)


def test_tensor_that_is_no_picture_is_refused():
    with pytest.raises(DatasetError, match=r"image 3: expected an image .* got \[4, 4, 2\]"):
        picture_from_tensor(torch.zeros(4, 4, 2), "image 3")
    with pytest.raises(DatasetError, match="NaN"):
        picture_from_tensor(torch.full((2, 2, 3), torch.nan), "image 1")


def pictures(count: int):
    return [picture_from_tensor(torch.rand(4, 4, 3), f"image {i + 1}") for i in range(count)]


def test_one_caption_serves_all_images():
    assert [winner.caption for winner in pair_up(pictures(3), ["a fox"])] == ["a fox"] * 3


def test_counts_that_do_not_match_are_both_named():
    with pytest.raises(DatasetError, match="no images"):
        pair_up([], ["a"])
    with pytest.raises(DatasetError, match="3 images but 2 captions"):
        pair_up(pictures(3), ["a", "b"])
    with pytest.raises(DatasetError, match="3 winning but 2 losing"):
        pair_up(pictures(3), ["a"], pictures(2))
    with pytest.raises(DatasetError, match=r"1 of 2 images have an empty caption \(first: image 2"):
        pair_up(pictures(2), ["a", " "])


def test_contact_sheet_shows_a_limited_number_and_survives_a_damaged_picture(tmp_path):
    for index in range(5):
        draw(tmp_path / f"{index}.png", "a caption with ümläuts " * 10, size=(400, 300))
    winners = read_winners(tmp_path)
    (tmp_path / "1.png").write_bytes(b"gone")
    sheet = contact_sheet(winners, limit=4, columns=2)
    # two columns of 192 + 10 and a margin; the first thumbnail is 192 x 144, centred in 192 x 192
    assert sheet.width == 2 * 202 + 10
    assert sheet.getpixel((10 + 96, 10 + 96)) == (255, 0, 0)
    assert sheet.height < contact_sheet(winners, limit=5, columns=2).height
