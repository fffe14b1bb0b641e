import io
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seppo_core.data import clips, pictures
from seppo_core.data.clips import ClipFile
from seppo_core.data.prepare import ClipSelection
from seppo_core.data.readers import read_winners
from seppo_core.errors import DatasetError

av = pytest.importorskip("av")

WIDTH, HEIGHT = 64, 48
STEP = 5
"""Frame n is grey 10 + 5n, with its left eighth red."""


def frame(number: int, size=(WIDTH, HEIGHT)) -> np.ndarray:
    values = np.full((size[1], size[0], 3), 10 + STEP * number, np.uint8)
    values[:, : size[0] // 8] = (255, 0, 0)
    return values


def record(path: Path, frames=40, codec="libx264", rate=20, gop=10, times=None) -> Path:
    """A clip at `rate` frames a second, or with the given times in ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = gop
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            if times:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def animate(path: Path, frames=12, delay=50, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(frame(number)) for number in range(frames)]
    if path.suffix == ".webp":
        options["lossless"] = True
    images[0].save(path, save_all=True, append_images=images[1:], duration=delay, **options)
    return path


def numbers(path: Path, count=33, stride=1, fps=0.0) -> list[int]:
    """Which frames were chosen, told by their grey."""
    images = ClipFile(path, path.name).frames(ClipSelection(count, stride, fps))
    return [round((image.getpixel((40, 20))[1] - 10) / STEP) for image in images]


CONTAINERS = {"a.mp4": "libx264", "a.mov": "libx264", "a.mkv": "libx264", "a.webm": "libvpx-vp9"}


@pytest.mark.parametrize("name", [*CONTAINERS, "a.gif", "a.webp"])
def test_frames_come_from_the_middle_in_their_order(tmp_path, name):
    path = tmp_path / name
    if name in CONTAINERS:
        record(path, frames=12, codec=CONTAINERS[name])
    else:
        animate(path, frames=12)
    # (12 - 5) // 2 = 3; of stride 2: (12 - 9) // 2 = 1
    assert numbers(path, 5) == [3, 4, 5, 6, 7]
    assert numbers(path, 5, stride=2) == [1, 3, 5, 7, 9]
    assert numbers(path, 12) == [*range(12)]
    # (12 - 1) // 2 = 5
    assert numbers(path, 1) == [5]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_a_clip_that_lacks_frames_gives_4n_plus_1(tmp_path, name):
    path = tmp_path / name
    if name in CONTAINERS:
        record(path, frames=12, codec=CONTAINERS[name])
    else:
        animate(path, frames=12)
    assert numbers(path, 33) == [*range(9)]
    assert numbers(path, 13) == [*range(9)]
    # Every third of twelve: 0, 3, 6, 9 are four, of which one is 4 * 0 + 1.
    assert numbers(path, 5, stride=3) == [0]


def test_a_count_that_is_there_is_given_whatever_it_is(tmp_path):
    assert numbers(record(tmp_path / "a.mp4", frames=12), 6) == [3, 4, 5, 6, 7, 8]


def test_fps_picks_frames_by_their_time(tmp_path):
    path = record(tmp_path / "a.mp4", frames=40, rate=20)
    # At 10 a second every second frame; five of them span nine of 40: (40 - 9) // 2 = 15.
    assert numbers(path, 5, fps=10) == [15, 17, 19, 21, 23]
    # At 40 a second five span three of 40: 18. Half way between two frames the later one is seen.
    assert numbers(path, 5, fps=40) == [18, 19, 19, 20, 20]
    assert numbers(path, 5, stride=2, fps=20) == numbers(path, 5, fps=10)


@pytest.mark.parametrize("name", ["a.mkv", "a.gif"])
def test_frames_of_unequal_length_are_chosen_by_their_times(tmp_path, name):
    # Frame 3 stays for 600 ms, where others take 100 ms: it is seen seven times in ten.
    times = [0, 100, 200, 300, 900, 1000, 1100, 1200, 1300, 1400]
    if name == "a.mkv":
        path = record(tmp_path / name, 10, rate=10, times=times)
    else:
        path = animate(tmp_path / name, 10, [*np.diff(times).tolist(), 100])
    assert numbers(path, 13, fps=10)[:11] == [1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 6]


def test_a_last_frame_that_is_held_does_not_move_the_middle(tmp_path):
    path = animate(tmp_path / "a.gif", 10, [*[50] * 9, 5000])
    # (10 - 5) // 2 = 2
    assert numbers(path, 5) == [2, 3, 4, 5, 6]


def test_delays_too_short_to_be_meant_count_as_100_ms(tmp_path):
    path = animate(tmp_path / "a.webp", 12, 10)
    assert numbers(path, 5, fps=10) == [3, 4, 5, 6, 7]


def turned(path: Path, a: int, b: int, c: int, d: int) -> Image.Image:
    """The middle of an MP4 whose track header says that (x, y) is shown at (ax + cy, bx + dy).

    The matrix stands 40 bytes into the header, its rows of three end in numbers that do not matter here.
    """
    data = bytearray(record(path).read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 24] = struct.pack(">6i", a << 16, b << 16, 0, c << 16, d << 16, 0)
    path.write_bytes(data)
    return ClipFile(path, path.name).load()


def test_a_phones_clip_is_turned_upright(tmp_path):
    clockwise = turned(tmp_path / "a.mp4", 0, 1, -1, 0)
    assert clockwise.size == (HEIGHT, WIDTH)
    assert clockwise.getpixel((24, 2))[0] > 230 > 150 > clockwise.getpixel((24, 60))[0]
    other = turned(tmp_path / "b.mp4", 0, -1, 1, 0)
    assert other.getpixel((24, 61))[0] > 230 > 150 > other.getpixel((24, 3))[0]
    upside_down = turned(tmp_path / "c.mp4", -1, 0, 0, -1)
    assert upside_down.size == (WIDTH, HEIGHT)
    assert upside_down.getpixel((61, 20))[0] > 230 > 150 > upside_down.getpixel((3, 20))[0]


def test_what_is_clear_lies_on_the_background(tmp_path):
    clear = [Image.new("RGBA", (16, 16), (number, 0, 0, 0)) for number in range(6)]
    for name in ("a.webp", "a.gif"):
        path = tmp_path / name
        clear[0].putpixel((0, 0), (9, 9, 9, 255))
        clear[0].save(path, save_all=True, append_images=clear[1:], duration=50, disposal=2)
        images = ClipFile(path, name).frames(ClipSelection(5), "blue")
        assert {image.getpixel((8, 8)) for image in images} == {(0, 0, 255)}, name


class Counted(ClipFile):
    """A clip whose reads are counted."""

    read = 0

    def open(self):
        counted = self

        class Counting(io.FileIO):
            def read(self, size=-1):
                data = super().read(size)
                Counted.read += len(data)
                return data

        return Counting(counted.path)


@pytest.mark.parametrize("name", ["long.mp4", "long.webm"])
def test_the_middle_of_a_long_clip_is_reached_without_reading_what_lies_before(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (600, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if name == "long.mp4" else "libvpx", rate=20)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 10
        stream.bit_rate = 4_000_000
        for values in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())
    Counted.read = 0
    assert len(Counted(path, name).frames(ClipSelection(5))) == 5
    assert Counted.read < path.stat().st_size / 3


def test_a_clip_without_keyframes_is_not_decoded_for_ever(tmp_path, monkeypatch):
    path = record(tmp_path / "a.mp4", frames=40, gop=40)
    monkeypatch.setattr(clips, "MAX_DECODED", 15)
    with pytest.raises(DatasetError, match="a.mp4: over 15 frames would have to be decoded"):
        ClipFile(path, "a.mp4").frames(ClipSelection(5))


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = record(tmp_path / "a.mp4", frames=9)
    loop = animate(tmp_path / "a.gif", frames=9)
    monkeypatch.setattr(clips, "MAX_CLIP_PIXELS", 9 * WIDTH * HEIGHT - 1)
    with pytest.raises(DatasetError, match="9 frames of 64x48 pixels are over the limit"):
        ClipFile(path, "a.mp4").frames(ClipSelection(9))
    monkeypatch.setattr(clips, "MAX_PIXELS", 1000)
    assert "cannot be decoded" in ClipFile(path, "").complaint()
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    for clip in (ClipFile(path, ""), ClipFile(loop, "")):
        assert clip.complaint().startswith("64x48 pixels are over the limit")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path = animate(tmp_path / "a.gif")
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff" * 4
    path.write_bytes(data)
    assert ClipFile(path, "").complaint().startswith("too large to be decoded safely")


def test_clips_are_captioned_as_pictures_are(tmp_path):
    record(tmp_path / "a.mp4").with_suffix(".txt").write_text("beside")
    record(tmp_path / "3_from words" / "b.mkv")
    animate(tmp_path / "c.webp")
    (tmp_path / "metadata.csv").write_text("file_name,text\nc.webp,from a table\n")
    record(tmp_path / "d.webm", codec="libvpx-vp9")
    winners = read_winners(tmp_path, reader="clips")
    assert [(w.name, w.caption, w.repeats) for w in winners] == [
        *(("a.mp4", "beside", 1), ("c.webp", "from a table", 1)),
        ("3_from words/b.mkv", "from words", 3),
    ]
    assert [item.name for item in winners.left_out] == ["d.webm"]
    assert winners.left_out[0].reason.startswith("no caption")


def test_one_clip_can_be_given_alone_and_videos_are_recognised(tmp_path):
    record(tmp_path / "a.mp4").with_suffix(".txt").write_text("alone")
    record(tmp_path / "b.mp4").with_suffix(".txt").write_text("another")
    (tmp_path / "metadata.csv").write_text("file_name,text\nb.mp4,in a table\n")
    winners = read_winners(tmp_path / "a.mp4")
    assert [(w.name, w.caption) for w in winners] == [("a.mp4", "alone")]
    assert winners.left_out == []
    assert [winner.name for winner in read_winners(tmp_path)] == ["a.mp4", "b.mp4"]


def test_the_middle_frame_stands_for_a_clip_and_its_bytes_for_its_content(tmp_path):
    path = record(tmp_path / "a.mp4", frames=9)
    clip, same = ClipFile(path, "a.mp4"), ClipFile(record(tmp_path / "b.mp4", frames=9), "b.mp4")
    # (9 - 1) // 2 = 4: grey 30
    assert abs(clip.load().getpixel((40, 20))[0] - 30) <= 2
    assert clip.content() == same.content()
    assert clip.content() != ClipFile(record(tmp_path / "c.mp4", frames=8), "").content()


def test_what_is_no_clip_is_left_out_with_its_reason(tmp_path):
    record(tmp_path / "good.mp4")
    whole = {name: record(tmp_path / name, codec=CONTAINERS[name]) for name in CONTAINERS}
    whole |= {name: animate(tmp_path / name) for name in ("a.gif", "a.webp")}
    for path in whole.values():
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mkv").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.webp")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.gif")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    winners = read_winners(tmp_path, reader="clips", caption="x")
    reasons = {item.name: item.reason for item in winners.left_out}
    assert [winner.name for winner in winners] == ["good.mp4"], reasons
    assert reasons.pop("empty.mp4") == "the file is empty (0 bytes)"
    assert reasons.pop("words.mkv").startswith("not an MP4, MOV, WebM, MKV, GIF or WebP clip")
    assert reasons.pop("still.webp") == reasons.pop("still.gif")
    assert reasons.pop("sound.mp4") == "there is no video in it"
    assert set(reasons) == set(whole)
    assert all("cut off" in reason for reason in reasons.values()), reasons


def test_a_clip_with_damaged_data_is_left_out(tmp_path):
    path = record(tmp_path / "a.mp4")
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(2000) + data[start + 2000 :])
    assert "cannot be decoded" in ClipFile(path, "").complaint()


def test_a_clip_of_another_suffix_is_read_as_what_it_is(tmp_path):
    path = record(tmp_path / "a.mp4").rename(tmp_path / "a.gif")
    assert numbers(path, 5) == [17, 18, 19, 20, 21]


def test_a_clip_that_claims_to_be_longer_gives_what_it_has(tmp_path):
    """The time scale of a WebM's stated duration: ten times as long as what follows."""
    path = record(tmp_path / "a.mkv", frames=12)
    data = path.read_bytes()
    place = data.index(b"\x44\x89\x88") + 3
    long = np.frombuffer(data[place : place + 8], ">f8")[0] * 10
    path.write_bytes(data[:place] + np.array(long, ">f8").tobytes() + data[place + 8 :])
    with av.open(str(path)) as container:
        assert container.duration == 6_000_000
    assert numbers(path, 5) == [0, 1, 2, 3, 4]


def test_pictures_that_move_are_told_to_be_clips(tmp_path):
    animate(tmp_path / "a.webp")
    with pytest.raises(DatasetError, match="a.webp: is an animation; take reader 'clips'"):
        read_winners(tmp_path, reader="folder", caption="x")
    assert len(read_winners(tmp_path, reader="clips", caption="x")) == 1


def test_without_pyav_animations_are_read_and_containers_name_the_extra(tmp_path):
    animate(tmp_path / "pillow" / "a.webp")
    record(tmp_path / "video" / "a.mp4")
    code = f"""
import sys
sys.modules["av"] = None
from seppo_core.data.readers import read_winners
from seppo_core.errors import MissingPackageError
print(len(read_winners(r"{tmp_path / "pillow"}", reader="clips", caption="x")[0].load().tobytes()))
try:
    read_winners(r"{tmp_path / "video"}", reader="clips", caption="x")
except MissingPackageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        str(WIDTH * HEIGHT * 3),
        "reading video clips needs PyAV: pip install av (or 'seppo[video]')",
    ], done.stderr
