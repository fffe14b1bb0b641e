"""Made-up tar archives, Parquet tables and clips: winners, or a reason, in bounded time and memory."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from fuzzing import CUTS, TEXTS, damaged, fuzz
from hypothesis import strategies as st
from PIL import Image
from test_tars import pack, picture

from seppo_core.data.clips import ClipFile
from seppo_core.data.prepare import ClipSelection
from seppo_core.data.prompts import read_generation
from seppo_core.data.readers import listing, read_winners
from seppo_core.errors import SePPOError

pytestmark = pytest.mark.thorough


def read_all(path: Path) -> None:
    """What the nodes do with a set: list it, tell of it, decode every picture."""
    listing(path)
    winners = read_winners(path)
    winners.report().encode()
    for winner in list(winners)[:20]:
        for image in (winner.picture, winner.losing):
            try:
                if image is not None:
                    image.load()
                    image.content()
            except SePPOError:
                continue


def test_tars(tmp_path, record_property):
    path = tmp_path / "a.tar"
    files = [
        ("a.png", picture()),
        ("a.txt", b"a fox"),
        ("b.webp", picture("red", "WEBP")),
        ("b.json", b'"b"'),
    ]
    wholes = [
        pack(path, [("f/" * 60 + name, data) for name, data in files], format=kind).read_bytes()
        for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]

    def check(number, cuts):
        path.write_bytes(damaged(wholes[number], cuts))
        read_all(path)

    fuzz(record_property, "tar bytes", 200, check, st.integers(0, 2), CUTS)


FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "time": (136, 12),
    "type": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "prefix": (345, 155),
}


def header(changes: dict[str, bytes], size: int) -> bytes:
    """A tar header whose checksum is right whatever its fields say."""
    about = tarfile.TarInfo("a.png")
    about.size = size
    found = bytearray(about.tobuf(tarfile.GNU_FORMAT))
    for name, data in changes.items():
        at, room = FIELDS[name]
        found[at : at + room] = data[:room].ljust(room, b"\0")
    found[148:156] = b" " * 8
    found[148:156] = b"%06o\0 " % sum(found)
    return bytes(found[:512])


def test_tar_headers(tmp_path, record_property):
    path = tmp_path / "a.tar"
    body = picture().ljust(1024, b"\0")
    values = st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                b"77777777777\0",
                b"\x80" + b"\xff" * 11,
                b"\xff" * 12,
                b"\x80" + bytes(10) + b"\1",
                b"-1",
            ]
        ),
        st.sampled_from(
            [b"0", b"1", b"2", b"5", b"7", b"g", b"x", b"L", b"K", b"S", b"D", b"M", b"V"]
        ),
        st.sampled_from(
            [b"../../a.png", b"/etc/passwd", b"C:\\a.png", b"a.txt", b"\xff\xfe.png", b"a\n.png"]
        ),
        TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    )

    def check(members):
        path.write_bytes(
            b"".join(header(changes, 512) + body[:512] for changes in members) + bytes(1024)
        )
        read_all(path)

    changes = st.dictionaries(st.sampled_from(list(FIELDS)), values, max_size=3)
    fuzz(record_property, "tar headers", 300, check, st.lists(changes, min_size=1, max_size=4))


def test_parquet_schemas(tmp_path, record_property):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, data = tmp_path / "a.parquet", picture()
    structs = {"bytes": data, "path": "../../a.png"}
    columns = [
        *(
            [data],
            [None],
            [b""],
            [b"junk"],
            ["text"],
            [structs],
            [{"path": "x"}],
            [{"bytes": None}],
        ),
        *([[data]], [1], [0.5], [float("nan")], [True], [2**62], [-1], ["\x00"], [[]], [{}]),
    ]
    names = ["jpg_0", "jpg_1", "label_0", "label_1", "caption", "has_label", "other"]

    def column(number: int, is_dictionary: bool):
        found = pyarrow.array(columns[number] * 3)
        plain = pyarrow.types.is_string(found.type) or pyarrow.types.is_binary(found.type)
        return found.dictionary_encode() if is_dictionary and plain else found

    sound = {"jpg_0": 0, "jpg_1": 5, "label_0": 9, "label_1": 10, "caption": 4, "has_label": 12}

    def check(changes, missing):
        chosen = {name: (number, False) for name, number in sound.items()} | changes
        table = {name: column(*what) for name, what in chosen.items() if name != missing}
        try:
            parquet.write_table(pyarrow.table(table), path)
        except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):
            return  # an empty struct cannot be written
        read_all(path)

    kinds = st.tuples(st.integers(0, len(columns) - 1), st.booleans())
    changes = st.dictionaries(st.sampled_from(names), kinds, max_size=4)
    fuzz(record_property, "Parquet schemas", 250, check, changes, st.sampled_from(["", "", *names]))


def test_parquet_bytes(tmp_path, record_property):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = {"jpg_0": [picture()] * 3, "jpg_1": [picture("blue")] * 3, "label_0": [1.0, 0.0, 0.5]}
    rows |= {"label_1": [0.0, 1.0, 0.5], "caption": ["a fox", "b", "c"], "has_label": [True] * 3}
    parquet.write_table(pyarrow.table(rows), path)
    whole = path.read_bytes()

    def check(cuts, is_footer):
        if is_footer:  # where the schema and the places of the columns stand
            path.write_bytes(whole[:-1200] + damaged(whole[-1200:], cuts))
        else:
            path.write_bytes(damaged(whole, cuts))
        read_all(path)

    fuzz(record_property, "Parquet bytes", 200, check, CUTS, st.booleans())


def clip(kind: str) -> bytes:
    """Nine frames of 32 x 32."""
    file, images = io.BytesIO(), [Image.new("RGB", (32, 32), (25 * i, 0, 0)) for i in range(9)]
    if kind in ("GIF", "WEBP"):
        images[0].save(file, kind, save_all=True, append_images=images[1:], duration=50)
        return file.getvalue()
    av = pytest.importorskip("av")
    codec = {"mp4": "mpeg4", "matroska": "mpeg4", "mov": "mpeg4"}[kind]
    with av.open(file, "w", format=kind) as container:
        container.metadata["comment"] = '{"prompt": {}}'
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska", "GIF", "WEBP"])
def test_clips(tmp_path, record_property, kind):
    whole, path = clip(kind), tmp_path / "a.mp4"
    selections = st.builds(
        ClipSelection,
        st.sampled_from([1, 5, 200]),
        st.sampled_from([1, 3]),
        st.sampled_from([0.0, 16.0, 240.0]),
    )

    def check(cuts, place, selection):
        reach = {"head": 300, "tail": 0, "all": None}[place]
        if place == "tail":
            path.write_bytes(whole[:-900] + damaged(whole[-900:], cuts))
        else:
            path.write_bytes(damaged(whole, cuts, reach))
        found = ClipFile(path, path.name)
        with path.open("rb") as file:
            try:
                read_generation(file, path.name)
            except SePPOError:
                pass
        if not found.complaint():
            assert len(found.frames(selection)) <= selection.count

    fuzz(
        record_property,
        "clips",
        80,
        check,
        CUTS,
        st.sampled_from(["head", "tail", "all"]),
        selections,
    )
