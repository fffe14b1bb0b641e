"""Folders as users and attackers have them: odd names, tables, links, files that are none, and no folder any more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin, features

from seppo_core.data.encode import encode
from seppo_core.data.folder import walk
from seppo_core.data.pictures import PictureFile
from seppo_core.data.prepare import Preparation
from seppo_core.data.readers import fitting, listing, read_winners
from seppo_core.data.winners import Winners
from seppo_core.errors import DatasetError
from seppo_core.views.sheet import contact_sheet


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


def test_captions_stand_in_txt_caption_or_json_and_an_empty_one_is_passed_over(tmp_path):
    for name in "abcd":
        draw(tmp_path / f"{name}.png", None)
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "a.caption").write_text("from .caption")
    (tmp_path / "b.json").write_text('"one string"')
    (tmp_path / "c.json").write_text('{"tags": ["red", " ", "blue"], "caption": ""}')
    (tmp_path / "d.json").write_text("{")
    winners = read_winners(tmp_path)
    assert captions(winners) == {
        "a.png": "from .caption",
        "b.png": "one string",
        "c.png": "red, blue",
    }
    assert "its .json is not valid JSON" in reasons(winners)["d.png"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_bad_row_of_a_table_is_named_and_the_rest_goes_on(tmp_path, kind):
    for name in ("a", "b", "sub/c"):
        draw(tmp_path / f"{name}.png", None)
    rows = [("a.png", "A"), ("b.png", ""), ("", "nothing"), ("sub/c.png", "C"), ("gone.png", "G")]
    if kind == "csv":
        lines = ["file_name,text", *(f"{name},{text}" for name, text in rows)]
    else:
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        lines[2] = "no JSON"
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines))
    winners = read_winners(tmp_path)
    assert captions(winners) == {"a.png": "A", "sub/c.png": "C"}
    left_out = reasons(winners)
    assert left_out.pop("b.png").startswith("its caption is empty")
    assert left_out.pop("gone.png") == "named in a metadata table, but no such file"
    assert list(left_out) == [f"metadata.{kind} row 3"]
    assert left_out.popitem()[1].startswith("it lacks file_name or a caption")


def test_names_caption_on_request_unless_they_have_no_words(tmp_path):
    for name in ("red_bird_00012_", "blue-book", "_00003_"):
        draw(tmp_path / f"{name}.png", "not asked")
    winners = read_winners(tmp_path, captions="file names")
    assert captions(winners) == {"blue-book.png": "blue book", "red_bird_00012_.png": "red bird"}
    assert reasons(winners)["_00003_.png"].startswith("its name has no words. ")
    assert read_winners(tmp_path, captions="file names", caption="a bird")[0].caption == "a bird"


def test_half_a_character_in_json_is_left_away_so_that_any_tokenizer_takes_the_rest(tmp_path):
    draw(tmp_path / "a.png", None)
    (tmp_path / "a.json").write_text(r'{"caption": "cat \ud800and \ud83d\ude00"}')
    assert read_winners(tmp_path)[0].caption == "cat and \N{GRINNING FACE}"


def test_names_of_any_characters_and_of_255_bytes_are_read_shown_and_encoded(tmp_path, caplog):
    names = ["x" * 251 + ".png", "fox \N{FOX FACE}.png"]
    names += [] if os.name == "nt" else ["two\nlines.png"]
    for name in names:
        draw(tmp_path / "w" / name, "words")
    if sys.platform == "linux":  # macOS takes nothing but UTF-8
        names.append(os.fsdecode(b"\xff.png"))
        shutil.copy(tmp_path / "w" / names[1], tmp_path / "w" / names[-1])
    (tmp_path / "w" / "line\u2028break.png").write_bytes(b"")
    winners = read_winners(tmp_path / "w", caption="c")
    assert {winner.name for winner in winners} == {*names}
    assert "line\\u2028break.png: the file is empty" in winners.report()
    contact_sheet(winners)
    assert len(encoded(winners, cache=tmp_path / "cache")) == len(names)
    shutil.rmtree(tmp_path / "w")
    with pytest.raises(DatasetError, match="no usable image"):
        encoded(winners)
    assert all("\n" not in message and message.encode() for message in caplog.messages)


def test_pictures_of_one_row_of_pixels_are_too_few(tmp_path):
    draw(tmp_path / "a.png", size=(1, 1))
    draw(tmp_path / "b.png", size=(20000, 1))
    draw(tmp_path / "c.png", size=(20000, 8))
    winners = read_winners(tmp_path)
    assert reasons(winners) == {
        "a.png": "1x1 pixels are too few; each side needs at least 8",
        "b.png": "20000x1 pixels are too few; each side needs at least 8",
    }
    # At most 4:1, as long as there are 8 pixels for a row: 32x8, a latent of 1x4.
    assert encoded(winners).shapes == [(3, 1, 4)]


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


def test_a_folder_that_vanishes_while_it_is_listed_gives_what_was_seen(tmp_path):
    for name in ("a/1", "a/2", "b/3"):
        draw(tmp_path / "w" / f"{name}.png")
    winners = read_winners(tmp_path / "w", on_item=lambda seen: shutil.rmtree(tmp_path / "w", True))
    assert [winner.name for winner in winners] == ["a/1.png"]
    assert set(reasons(winners)) == {"a/2.png", "b"}
    assert all("No such file" in reason for reason in reasons(winners).values())


def test_a_folder_that_vanishes_while_it_is_encoded_leaves_what_was_encoded(tmp_path):
    for name in "abcd":
        draw(tmp_path / "w" / f"{name}.png")

    def vanish(done, total):
        if done == 2:
            shutil.rmtree(tmp_path / "w")

    dataset = encoded(read_winners(tmp_path / "w"), on_item=vanish)
    assert len(dataset) == 2
    assert {item.name for item in dataset.left_out} == {"c.png", "d.png"}


def test_links_in_a_circle_and_links_to_no_file_are_left_out(tmp_path):
    draw(tmp_path / "good.png")
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c.png").symlink_to("nowhere.png")
    (tmp_path / "d.png").symlink_to(tmp_path / "inner")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    winners = read_winners(tmp_path)
    assert [winner.name for winner in winners] == ["good.png"]
    assert reasons(winners) == {
        f"{n}.png": "is a link that leads to no file; put the file itself there" for n in "abcd"
    }
    assert winners.notes == [
        "inner/up: is a link to a folder, which is not followed; put the folder itself there"
    ]


def test_tables_and_archives_behind_links_out_of_the_folder_are_not_read(tmp_path):
    (tmp_path / "secret.csv").write_text("file_name,text\na.png,secret\n")
    folder = tmp_path / "w"
    draw(folder / "a.png", None)
    (folder / "metadata.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "link").symlink_to(tmp_path)
    (folder / "metadata.jsonl").symlink_to("link/secret.csv")
    winners = read_winners(folder, caption="mine")
    assert captions(winners) == {"a.png": "mine"}
    assert set(reasons(winners)) == {"metadata.csv", "metadata.jsonl"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_pipes_are_no_files_and_nobody_waits_for_them(tmp_path):
    draw(tmp_path / "a.png", None)
    for name in ("a.txt", "b.png", "metadata.csv"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "c.png").symlink_to("b.png")
    found = []
    reading = threading.Thread(
        target=lambda: found.append(read_winners(tmp_path, caption="c")), daemon=True
    )
    reading.start()
    reading.join(20)
    assert captions(found[0]) == {"a.png": "c"}
    assert "is a link that leads to no file" in reasons(found[0])["c.png"]


@pytest.mark.skipif(os.name != "nt", reason="junctions are Windows' own")
def test_junctions_are_not_followed(tmp_path):
    draw(tmp_path / "secret" / "a.png")
    draw(tmp_path / "w" / "b.png")
    link, goal = str(tmp_path / "w" / "junction"), str(tmp_path / "secret")
    subprocess.run(["cmd", "/c", "mklink", "/J", link, goal], check=True)
    assert [found.name for found in walk(tmp_path / "w", [])] == [""]


def test_still_pictures_in_webp_are_not_taken_for_clips(tmp_path):
    for number in range(3):
        draw(tmp_path / f"{number}.webp")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert fitting(tmp_path) == "folder"
    for name in "bcd":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    assert fitting(tmp_path) == "clips"


def test_files_for_another_reader_are_counted_in_the_report(tmp_path):
    for name in ("a.png", "sub/b.png"):
        draw(tmp_path / name)
    for name in (
        "a.gif",
        "sub/b.gif",
        "c.HEIC",
        "README",
        ".hidden",
        "metadata.jsonl",
        "d.caption",
    ):
        (tmp_path / name).touch()
    assert read_winners(tmp_path).notes == [
        "not for reader 'folder': 2 .gif, 1 without suffix, 1 .heic",
        "d.caption: captions nothing, for no file of its name lies beside it",
    ]
    assert read_winners(tmp_path / "a.png").notes == []


def test_strict_and_errors_name_every_file_that_is_there_and_what_to_do(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"photo")
    (tmp_path / "IMG_1.txt").write_text("a cat")
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    (tmp_path / "photos").symlink_to(tmp_path.parent)
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "Thumbs.db").write_bytes(b"litter")
    every = [
        "IMG_1.HEIC: .heic is not for reader 'folder'; save it as PNG or JPEG",
        "b.gif: .gif is not for reader 'folder'; reader 'clips' takes it",
        "lost: is a link that leads to no file",
        "photos: is a link to a folder",
    ]
    with pytest.raises(DatasetError, match="no usable image") as alone:
        read_winners(tmp_path, reader="folder")
    draw(tmp_path / "good.png")
    assert len(read_winners(tmp_path)) == 1
    with pytest.raises(DatasetError, match="4 cannot be used") as strict:
        read_winners(tmp_path, strict=True)
    for line in every:
        assert line in str(alone.value) and line in str(strict.value)
    with pytest.raises(DatasetError, match=r"^IMG_1.HEIC: .heic is not for reader 'folder'"):
        read_winners(tmp_path / "IMG_1.HEIC")


def test_listing_of_one_file_changes_with_its_caption(tmp_path):
    path = draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert [name for name, _, _ in listing(path)] == ["a.png", "a.txt"]
    before = listing(path)
    (tmp_path / "a.txt").write_text("another caption")
    assert listing(path) != before


def test_one_picture_is_read_with_its_caption(tmp_path):
    path = draw(tmp_path / "a.png", "mine")
    draw(tmp_path / "b.png", "not mine")
    assert captions(read_winners(path)) == {"a.png": "mine"}
    assert PictureFile(path, "a.png").complaint() == ""


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


def test_caption_files_with_capitals_belong_to_their_pictures(tmp_path):
    draw(tmp_path / "IMG_1.JPG", None)
    (tmp_path / "IMG_1.TXT").write_text("from a camera")
    assert [winner.caption for winner in read_winners(tmp_path)] == ["from a camera"]
