"""Texts within files: each file is made here by Pillow, PyAV or by hand."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from seppo_core.data import embedded
from seppo_core.data.embedded import embedded_texts
from seppo_core.data.generation import NoPromptError


def picture(kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind, **options)
    return file.getvalue()


def texts(data: bytes) -> dict[str, str]:
    return embedded_texts(io.BytesIO(data))


def chunk(kind: bytes, data: bytes, checksum: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunks(*chunks: bytes, after_pixels: bool = False) -> bytes:
    """A PNG with these chunks before or after its pixels; their checksums do not hold."""
    data = picture("PNG")
    place = data.index(b"IEND") - 4 if after_pixels else data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def packed(text: bytes) -> bytes:
    return zlib.compress(text)


@pytest.mark.parametrize("after_pixels", [False, True])
def test_png_texts_of_all_three_kinds_before_and_after_the_pixels(after_pixels):
    data = with_chunks(
        chunk(b"tEXt", b"prompt\0plain"),
        chunk(b"zTXt", b"workflow\0\0" + packed(b"packed")),
        chunk(b"iTXt", b"parameters\0\0\0de\0Parameter\0" + "Füchse".encode()),
        chunk(b"iTXt", b"more\0\1\0\0\0" + packed("viele Füchse".encode())),
        chunk(b"comf", b"extra\0as ComfyUI's animated PNG has it"),
        after_pixels=after_pixels,
    )
    assert texts(data) == {
        **{"prompt": "plain", "workflow": "packed", "parameters": "Füchse"},
        **{"more": "viele Füchse", "extra": "as ComfyUI's animated PNG has it"},
    }


def test_png_texts_as_pillow_writes_them():
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a fox")
    info.add_text("packed", "x" * 5000, zip=True)
    info.add_itxt("wide", "狐", zip=True)
    assert texts(picture("PNG", pnginfo=info)) == {
        **{"prompt": "a fox", "packed": "x" * 5000, "wide": "狐"}
    }


def test_png_text_in_utf_8_or_latin_1():
    data = with_chunks(
        chunk(b"tEXt", b"a\0" + "狐".encode()), chunk(b"tEXt", b"b\0" + "Füchse".encode("latin-1"))
    )
    assert texts(data) == {"a": "狐", "b": "Füchse"}


def test_png_cut_off_or_damaged_tells_what_stands_before():
    whole = with_chunks(
        chunk(b"tEXt", b"prompt\0a fox"), chunk(b"zTXt", b"bad\0\0not packed at all")
    )
    assert texts(whole) == {"prompt": "a fox"}
    assert texts(whole[: whole.index(b"IDAT")]) == {"prompt": "a fox"}
    assert texts(whole[:20]) == {}


def test_first_text_of_a_key_counts():
    data = with_chunks(chunk(b"tEXt", b"prompt\0one"), chunk(b"tEXt", b"prompt\0two"))
    assert texts(data) == {"prompt": "one"}


def test_texts_over_the_limit_are_told_unless_others_are_there(monkeypatch):
    monkeypatch.setattr(embedded, "MAX_TEXT", 1000)
    bomb = chunk(b"zTXt", b"prompt\0\0" + packed(b"x" * 100_000))
    for large in (bomb, chunk(b"tEXt", b"prompt\0" + b"x" * 2000)):
        with pytest.raises(NoPromptError, match="its text 'prompt' is over"):
            texts(with_chunks(large))
        assert texts(with_chunks(large, chunk(b"tEXt", b"workflow\0w"))) == {"workflow": "w"}
    many = [chunk(b"tEXt", f"k{i}\0".encode() + b"x" * 400) for i in range(5)]
    assert list(texts(with_chunks(*many))) == ["k0", "k1"]


def test_a_length_that_lies_about_gigabytes_ends_the_walk():
    data = with_chunks(chunk(b"tEXt", b"prompt\0a fox"))
    lie = data.replace(chunk(b"tEXt", b"prompt\0a fox"), b"\xff\xff\xff\xfftEXtprompt\0a fox")
    with pytest.raises(NoPromptError, match="is over 16 MB"):
        texts(lie)


def exif(**tags: str | bytes) -> Image.Exif:
    found = Image.Exif()
    for tag, value in tags.items():
        found[int(tag[1:], 16)] = value
    return found


@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "TIFF", "AVIF", "PNG"])
def test_exif_as_comfyui_writes_it(kind):
    if kind == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow does not write AVIF")
    tags = exif(x0110='prompt:{"1": {}}', x010F='Workflow: {"nodes": []}')
    found = texts(picture(kind, exif=tags))
    assert (found["prompt"], found["workflow"]) == ('{"1": {}}', '{"nodes": []}')


def test_animated_webp_tells_its_texts():
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    file = io.BytesIO()
    tags = exif(x0110="prompt:{}")
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], exif=tags)
    assert texts(file.getvalue()) == {"prompt": "{}"}


@pytest.mark.parametrize(
    "comment",
    [
        b"ASCII\0\0\0a fox",
        b"UNICODE\0" + "a fox".encode("utf-16-be"),
        b"UNICODE\0" + "a fox".encode("utf-16-le"),
        b"JIS\0\0\0\0\0" + "a fox".encode("iso2022_jp"),
        b"\0" * 8 + b"a fox",
    ],
    ids=["ascii", "big endian", "little endian", "jis", "undefined"],
)
@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_user_comment_in_every_encoding(kind, comment):
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x9286] = comment
    assert texts(picture(kind, exif=tags)) == {"UserComment": "a fox"}


def test_jpeg_comment_is_a_text():
    assert texts(picture("JPEG", comment="a fox")) == {"Comment": "a fox"}


def test_exif_that_fills_several_segments_of_a_jpeg_is_one_text():
    data = exif(x0110="prompt:" + "x" * 150_000).tobytes().removeprefix(b"Exif\0\0")
    parts = [b"Exif\0\0" + data[place : place + 65_000] for place in range(0, len(data), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts]
    whole = picture("JPEG")
    assert texts(whole[:2] + b"".join(segments) + whole[2:]) == {"prompt": "x" * 150_000}


def clip(suffix: str, codec: str, tags: dict[str, str]) -> bytes:
    av = pytest.importorskip("av", reason="videos are written with PyAV")
    file = io.BytesIO()
    options = {"movflags": "use_metadata_tags"} if suffix in ("mp4", "mov") else {}
    with av.open(file, "w", format={"mkv": "matroska"}.get(suffix, suffix), options=options) as out:
        out.metadata.update(tags)
        stream = out.add_stream(codec, rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), "red"))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "mpeg4"), ("mov", "mpeg4"), ("webm", "libvpx-vp9"), ("mkv", "mpeg4")],
)
def test_videos_tell_their_tags_whatever_the_case_of_their_keys(suffix, codec):
    found = texts(clip(suffix, codec, {"prompt": '{"1": {}}', "comment": "more"}))
    lower = {key.lower(): text for key, text in found.items()}
    assert (lower["prompt"], lower["comment"]) == ('{"1": {}}', "more")


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff", b"II*\0", b"\0\0\0\x18ftypmp42", b"GIF89a"],
)
def test_what_is_no_picture_has_no_texts(data):
    assert texts(data) == {}


def test_damaged_exif_has_no_texts():
    data = bytearray(picture("WEBP", exif=exif(x0110="prompt:{}")))
    place = data.index(b"EXIF") + 8
    for end in range(place, len(data)):
        assert set(texts(bytes(data[:end]) + b"\xff" * (len(data) - end))) <= {"prompt", "0x0110"}


def test_bytes_spoiled_at_random_never_raise_anything_unforeseen():
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a fox", zip=True)
    tags = exif(x0110="prompt:{}")
    whole = [picture("PNG", pnginfo=info)]
    whole += [picture(kind, exif=tags) for kind in ("WEBP", "JPEG", "TIFF")]
    rng = random.Random(0)
    intact = 0
    for _ in range(400):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        try:
            intact += "prompt" in texts(bytes(data))
        except NoPromptError as error:
            assert "is over" in str(error)
    assert 0 < intact < 400


def test_a_container_of_a_version_that_nobody_reads_has_no_texts():
    """FFmpeg's error for it is no OSError, as its others are; found by fuzzing."""
    pytest.importorskip("av")
    fields = [(0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8), (0x4287, 4), (0x4285, 0x82)]
    body = b"".join(struct.pack(">HBB", name, 0x81, value) for name, value in fields)
    body += b"\x42\x82\x88matroska"
    assert texts(b"\x1aE\xdf\xa3" + bytes([0x80 | len(body)]) + body) == {}
