import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from seppo_core.data.readers import read_winners
from seppo_core.data.tars import split_key
from seppo_core.errors import DatasetError


def picture(color="red", kind="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(file, kind)
    return file.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = ""):
    about = tarfile.TarInfo(name)
    about.size, about.type, about.linkname = size, kind, target
    return about


def pack(path: Path, files: list[tuple[str, bytes]], mode="w", format=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=format) as archive:
        for name, data in files:
            archive.addfile(member(name, len(data)), io.BytesIO(data))
    return path


def color(winner) -> tuple[int, ...]:
    return winner.load().getpixel((0, 0))


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def test_the_key_ends_at_the_first_dot_of_the_last_part():
    assert split_key("000.jpg") == ("000", ".jpg")
    assert split_key("v1.0/a.seg.png") == ("v1.0/a", ".seg.png")
    assert split_key("plain") == ("plain", "")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_read_with_their_captions_in_the_archives_order(tmp_path, format):
    long = "f/" * 60 + "n" * 90
    files = [
        *(("b.png", picture("red")), ("b.txt", b"a red one")),
        *(("a.json", b'{"caption": "a blue one"}'), ("a.webp", picture("blue", "WEBP"))),
        *(("c.jpg", picture("green", "JPEG")), ("c.caption", b"a green one"), ("c.cls", b"7")),
        *((f"{long}.png", picture()), (f"{long}.txt", b"far down")),
    ]
    pack(tmp_path / "a.tar", files, format=format)
    winners = read_winners(tmp_path)
    assert [winner.name for winner in winners] == [
        *("a.tar/b.png", "a.tar/a.webp", "a.tar/c.jpg", f"a.tar/{long}.png")
    ]
    assert [winner.caption for winner in winners] == [
        *("a red one", "a blue one", "a green one", "far down")
    ]
    assert color(winners[0]) == RED
    assert winners[3].load().size == (12, 8)
    assert winners.left_out == []


def test_shards_of_a_folder_follow_each_other_and_one_can_be_given_alone(tmp_path):
    for name in ("1.tar", "0.tar"):
        pack(tmp_path / name, [("a.png", picture()), ("a.txt", name.encode())])
    assert [winner.caption for winner in read_winners(tmp_path)] == ["0.tar", "1.tar"]
    assert [winner.caption for winner in read_winners(tmp_path / "1.tar")] == ["1.tar"]


def test_a_caption_may_stand_far_from_its_picture(tmp_path):
    files = [("a.png", picture("red")), ("b.png", picture("blue"))]
    pack(tmp_path / "a.tar", [*files, ("./a.txt", b"red"), ("./b.txt", b"blue")])
    assert [(w.caption, color(w)) for w in read_winners(tmp_path)] == [("red", RED), ("blue", BLUE)]


def test_samples_of_one_key_are_all_used_in_order(tmp_path):
    files = [
        *(("a.png", picture("red")), ("a.txt", b"red")),
        *(("a.png", picture("blue")), ("a.txt", b"blue")),
        *(("b.png", picture("red")), ("b.txt", b"other")),
        *(("a.txt", b"green"), ("a.png", picture("green"))),
    ]
    winners = read_winners(pack(tmp_path / "a.tar", files))
    assert [(w.caption, color(w)) for w in winners] == [
        *(("red", RED), ("blue", BLUE), ("other", RED), ("green", GREEN))
    ]
    assert winners.left_out == []


def test_the_first_picture_of_a_sample_counts_and_the_others_are_reported(tmp_path):
    files = [("a.0.png", picture("red")), ("a.1.png", picture("blue")), ("a.txt", b"two")]
    winners = read_winners(pack(tmp_path / "a.tar", files))
    assert [(w.caption, color(w)) for w in winners] == [("two", RED)]
    assert str(winners.left_out[0]) == (
        "a.tar/a.1.png: its sample has a picture already; the first one counts"
    )


def test_pictures_without_caption_are_left_out_or_take_what_the_setting_says(tmp_path):
    files = [("red_bird.png", picture()), ("b.png", picture()), ("b.txt", b"its own")]
    path = pack(tmp_path / "a.tar", files)
    winners = read_winners(path)
    assert [winner.caption for winner in winners] == ["its own"]
    assert winners.left_out[0].reason.startswith("no caption")
    assert [w.caption for w in read_winners(path, caption="all")] == ["all", "its own"]
    assert read_winners(path, captions="file names")[0].caption == "red bird"


def test_names_that_lead_elsewhere_and_links_are_left_out_and_nothing_is_written(tmp_path):
    path = tmp_path / "in" / "a.tar"
    path.parent.mkdir()
    pack(
        path,
        [
            *(("a.png", picture()), ("a.txt", b"fine")),
            *(("../b.png", picture()), ("c/../../d.png", picture()), ("C:/e.png", picture())),
            *(("..\\f.png", picture()), ("\\g.png", picture())),
        ],
    )
    with tarfile.open(path, "a") as archive:
        archive.addfile(member("h.png", kind=tarfile.SYMTYPE, target="/etc/passwd"))
        archive.addfile(member("i.png", kind=tarfile.LNKTYPE, target="../secret.png"))
        archive.addfile(member("j.png", kind=tarfile.CHRTYPE))
        archive.addfile(member("k.png", kind=tarfile.FIFOTYPE))
        absolute = member("x/tmp/l.png", len(picture()))
        absolute.name = "/tmp/l.png"
        archive.addfile(absolute, io.BytesIO(picture()))
    winners = read_winners(tmp_path / "in")
    assert [winner.name for winner in winners] == ["a.tar/a.png"]
    reasons = {item.name.removeprefix("a.tar/"): item.reason for item in winners.left_out}
    leads_out, absolute, special = (
        *("its name leads out of the archive with '..'", "its name is an absolute path"),
        "is a link, a device or a sparse file",
    )
    assert reasons == {
        **{"../b.png": leads_out, "c/../../d.png": leads_out, "..\\f.png": leads_out},
        **{"C:/e.png": absolute, "\\g.png": absolute, "/tmp/l.png": absolute},
        **dict.fromkeys(("h.png", "i.png", "j.png", "k.png"), special),
    }
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


def test_what_came_before_the_cut_is_used(tmp_path):
    files = [
        (f"{n}.{kind}", data)
        for n in range(4)
        for kind, data in [("png", picture()), ("txt", b"x")]
    ]
    whole = pack(tmp_path / "whole.tar", files).read_bytes()
    # A picture and a caption take a header of 512 and a block of 512 bytes each: a sample is 2048.
    assert len(picture()) <= 512
    cuts = {"in data": 2 * 2048 + 512 + 40, "in header": 2 * 2048 + 100, "between": 2 * 2048}
    for name, cut in cuts.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(whole[:cut])
        winners = read_winners(path)
        assert [winner.name for winner in winners] == [f"{name}.tar/0.png", f"{name}.tar/1.png"]
        assert [item.name for item in winners.left_out] == [f"{name}.tar"]
        assert "what came before it is used" in winners.left_out[0].reason


def test_a_header_damaged_in_the_middle_is_reported_not_taken_for_the_end(tmp_path):
    files = [
        (f"{n}.{kind}", data)
        for n in range(3)
        for kind, data in [("png", picture()), ("txt", b"x")]
    ]
    data = bytearray(pack(tmp_path / "a.tar", files).read_bytes())
    data[2048 : 2048 + 512] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(data)
    winners = read_winners(tmp_path)
    assert [winner.name for winner in winners] == ["a.tar/0.png"]
    assert "no end mark at byte 2048" in winners.left_out[0].reason


def test_an_archive_that_leads_back_ends(tmp_path):
    """A PAX header may give a member a negative size, so that the next one would lie before it."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("0.png", "1.png"):
            about = member(name, len(picture()))
            about.pax_headers = {"size": "-4096"} if name == "1.png" else {}
            archive.addfile(about, io.BytesIO(picture()))
    winners = read_winners(path, caption="x")
    assert [winner.name for winner in winners] == ["a.tar/0.png"]
    assert winners.left_out[0].name == "a.tar"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "hidden.tar"])
def test_a_compressed_archive_is_told_to_be_decompressed(tmp_path, name):
    kind = {"a.tar.bz2": "bz2", "a.tar.xz": "xz"}.get(name, "gz")
    path = pack(tmp_path / name, [("a.png", picture()), ("a.txt", b"x")], f"w:{kind}")
    with pytest.raises(DatasetError, match=f"{name}: is compressed; .* Decompress it to a .tar"):
        read_winners(path)


def test_files_that_are_no_archives_are_left_out(tmp_path):
    pack(tmp_path / "good.tar", [("a.png", picture()), ("a.txt", b"x")])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "words.tar").write_text("not an archive " * 100)
    winners = read_winners(tmp_path)
    assert len(winners) == 1
    assert {item.name for item in winners.left_out} == {"empty.tar", "words.tar"}


def test_broken_pictures_are_named_with_their_archive(tmp_path):
    files = [("a.png", picture()[:40]), ("b.png", b""), ("c.png", picture())]
    winners = read_winners(pack(tmp_path / "a.tar", files), caption="x")
    assert [winner.name for winner in winners] == ["a.tar/c.png"]
    assert {item.name for item in winners.left_out} == {"a.tar/a.png", "a.tar/b.png"}
    (tmp_path / "a.tar").unlink()
    with pytest.raises(DatasetError, match="a.tar/c.png: cannot be read"):
        winners[0].content()


def test_a_picture_ends_where_its_member_ends(tmp_path):
    files = [("a.png", picture()), ("a.txt", b"x"), ("b.png", picture("blue"))]
    (winner,) = read_winners(pack(tmp_path / "a.tar", files))
    with winner.picture.open() as file:
        assert file.read() == picture()
        assert file.seek(-4, io.SEEK_END) == len(picture()) - 4
        assert (file.read(100), file.read(1)) == (picture()[-4:], b"")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_that_claims_megabytes_is_not_taken_into_memory(tmp_path, kind):
    path = pack(tmp_path / "a.tar", [("a.png", picture()), ("a.txt", b"red")])
    end = path.stat().st_size
    with path.open("r+b") as file:
        with tarfile.open(path) as archive:
            file.seek(max(found.offset_data for found in archive) + tarfile.BLOCKSIZE)
        file.write(member("long", 2**26, kind).tobuf(tarfile.GNU_FORMAT))
        file.truncate(end + 2**26)
    winners = read_winners(tmp_path)
    assert [winner.caption for winner in winners] == ["red"]
    (left_out,) = winners.left_out
    assert "a header of 67108864 bytes" in left_out.reason


def test_lines_and_empty_captions_mean_in_an_archive_what_they_mean_in_a_folder(tmp_path):
    files = [
        *(("a.png", picture("red")), ("a.txt", b"1girl, hat\r\na girl with a hat\r\n")),
        *(("b.png", picture("blue")), ("b.txt", "a dog".encode("utf-16-le"))),
        *(("c.png", picture("green")), ("c.txt", b" \n")),
    ]
    pack(tmp_path / "0.tar", files)
    winners = read_winners(tmp_path)
    assert [winner.captions() for winner in winners] == [
        ("1girl, hat", "a girl with a hat"),
        ("a dog",),
    ]
    assert "1 caption file holds several lines: one is drawn" in winners.report()
    assert winners.left_out[0].reason.startswith("its caption is empty")


def test_what_an_archive_holds_of_other_kinds_is_counted(tmp_path):
    photos = [("a.HEIC", b"photo"), ("a.txt", b"a cat"), ("b.heic", b"photo"), ("b.cls", b"1")]
    pack(tmp_path / "0.tar", photos)
    counted = "in the archives and not read: 2 .heic, 1 .cls"
    with pytest.raises(DatasetError, match=f"no usable image.*\n.*{counted}"):
        read_winners(tmp_path)
    pack(tmp_path / "1.tar", [("c.png", picture()), ("c.txt", b"a fox")])
    assert counted in read_winners(tmp_path, strict=True).notes
