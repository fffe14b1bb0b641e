"""Folders as users and attackers have them: odd names, tables, links, files that are none, and no folder any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin, features

from seppo_core.data.encode import encode
from seppo_core.data.pictures import PictureFile
from seppo_core.data.prepare import Preparation
from seppo_core.data.readers import fitting, listing, read_winners
from seppo_core.data.winners import Winners
from seppo_core.errors import DatasetError


def draw(path: Path, caption: str | None = "a cat", size=(16, 16), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 99).convert("RGB").save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def reasons(winners: Winners) -> dict[str, str]:
    return {item.name: item.reason for item in winners.left_out}


def captions(winners: Winners) -> dict[str, str]:
    return {winner.name: winner.caption for winner in winners}


def encoded(winners: Winners, **options):
    return encode(
        winners,
        lambda picture: picture.movedim(-1, 0)[:, ::8, ::8].clone(),
        lambda caption: torch.tensor(list(caption.encode())),
        Preparation(16, 8),
        image_identity="vae",
        text_identity="clip",
        **options,
    )


def test_a_text_over_pillows_limit_leaves_the_picture_out(tmp_path):
    draw(tmp_path / "good.png")
    large = PngImagePlugin.PngInfo()
    large.add_text("workflow", "x" * 2 * PngImagePlugin.MAX_TEXT_CHUNK, zip=True)
    draw(tmp_path / "a.png", pnginfo=large)
    assert "over a limit" in reasons(read_winners(tmp_path))["a.png"]


def test_what_is_cut_off_is_left_out_though_another_pack_lets_pillow_fill_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    draw(tmp_path / "good.png")
    for name in ("cut.png", "cut.jpg"):
        path = draw(tmp_path / name, size=(64, 64))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    winners = read_winners(tmp_path)
    assert set(reasons(winners)) == {"cut.png", "cut.jpg"}
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_still_pictures_in_webp_are_not_taken_for_clips(tmp_path):
    for number in range(3):
        draw(tmp_path / f"{number}.webp")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert fitting(tmp_path) == "folder"
    for name in "bcd":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    assert fitting(tmp_path) == "clips"


def test_listing_of_one_file_changes_with_its_caption(tmp_path):
    path = draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert [name for name, _, _ in listing(path)] == ["a.png", "a.txt"]
    before = listing(path)
    (tmp_path / "a.txt").write_text("another caption")
    assert listing(path) != before


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff", ".avif"])
def test_no_spoiled_byte_of_any_format_raises_anything_unforeseen(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    path = draw(tmp_path / f"a{suffix}", None)
    whole = path.read_bytes()
    complaints = set()
    for place in range(0, len(whole), len(whole) // 60 + 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        picture = PictureFile(path, "a")
        complaints.add(picture.complaint())
        try:
            picture.load()
        except DatasetError as error:
            complaints.add(str(error))
    assert len(complaints) > 1  # of some bytes the damage shows
