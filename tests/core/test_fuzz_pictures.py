"""Made-up metadata, graphs and captions: a prompt, or our own error, in bounded time and memory."""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import asdict

import pytest
from fuzzing import CUTS, EDITS, JSON, NUMBERS, TEXTS, damaged, fuzz, mutated
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from seppo_core.data.captions import (
    SUFFIXES,
    Reading,
    caption_in,
    decoded,
    table_rows,
    words_of,
    written_captions,
)
from seppo_core.data.folder import folder_repeats
from seppo_core.data.generation import Generation
from seppo_core.data.graphs import api_graph, generation_of
from seppo_core.data.pictures import PictureFile
from seppo_core.data.prompts import read_generation
from seppo_core.data.winners import printable
from seppo_core.data.wording import Wording

pytestmark = pytest.mark.thorough

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ["6", 0]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "blurry"}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            **{
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "seed": 1,
                "steps": 2,
            },
            **{
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "latent_image": ["7", 0],
            },
        },
    },
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "a"}},
    "6": {
        "class_type": "StringConcatenate",
        "inputs": {"string_a": "a fox", "string_b": ["8", 0], "delimiter": ", "},
    },
    "7": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "8": {"class_type": "Reroute", "inputs": {"value": ["9", 0]}},
    "9": {"class_type": "PrimitiveString", "inputs": {"value": "at night"}},
}

WORKFLOW = {
    "nodes": [
        {
            **{"id": 1, "type": "CLIPTextEncode", "mode": 0, "widgets_values": ["a fox"]},
            **{"inputs": [], "outputs": [{"type": "CONDITIONING", "links": [1]}]},
        },
        {
            **{"id": 2, "type": "KSampler", "mode": 0, "inputs": [{"name": "positive", "link": 1}]},
            "widgets_values": [1, "fixed", 20, 7.0, "euler", "normal", 1.0],
        },
        {"id": 3, "type": "SaveImage", "inputs": [{"name": "images", "link": 2}]},
        {"id": 4, "type": "sub", "mode": 4, "inputs": [{"name": "x", "type": "IMAGE", "link": 2}]},
    ],
    "links": [[1, 1, 0, 2, 0, "CONDITIONING"], [2, 2, 0, 3, 0, "IMAGE"]],
    "definitions": {
        "subgraphs": [
            {
                "id": "sub",
                "nodes": [{"id": 1, "type": "sub"}],
                "inputs": [],
                "outputs": [],
                "links": [],
            }
        ]
    },
}

KINDS = st.sampled_from(
    "KSampler KSamplerAdvanced SamplerCustomAdvanced CFGGuider CLIPTextEncode ConditioningCombine "
    "ConditioningAverage ConditioningConcat ControlNetApplyAdvanced FluxGuidance Reroute Switch any_switch "
    "PrimitiveNode StringConcatenate StringReplace StringFormat RegexReplace RegexExtract JsonExtractString "
    "StringSubstring CaseConverter SaveImage PreviewImage VHS_VideoCombine SetNode GetNode ImpactSwitch".split()
)
INPUTS = st.sampled_from(
    "positive negative conditioning conditioning_to conditioning_from text prompt images image samples "
    "latent_image model clip guider noise sigmas seed steps cfg string_a string_b delimiter string find "
    "replace f_string regex_pattern json_string key value switch on_true on_false select input1 input2 "
    "any_01 filename_prefix width height ckpt_name start end mode conditioning_to_strength".split()
)
IDS = st.integers(0, 7).map(str)
LINKS = st.tuples(IDS, st.integers(0, 2)).map(list)
VALUES = st.one_of(LINKS, LINKS, LINKS, TEXTS, NUMBERS, st.booleans(), JSON)
GRAPHS = st.dictionaries(
    IDS, st.fixed_dictionaries({"class_type": KINDS, "inputs": st.dictionaries(INPUTS, VALUES, max_size=6)}),
    max_size=8,
)  # fmt: skip


def is_sound(found: Generation) -> None:
    """Texts are texts, and what else is told can be put into JSON."""
    assert type(found.prompt) is str and type(found.negative) is str
    json.dumps(asdict(found))


def is_clean(found: Generation) -> None:
    """What a file tells can also be put into a log and a caption file."""
    is_sound(found)
    f"{found.prompt}{found.negative}{found.sampler}{found.scheduler}{found.model}".encode()


def test_graphs(record_property):
    def check(graph):
        is_sound(generation_of(graph, "a_00001_.png", lambda: (64, 64)))

    fuzz(record_property, "graphs", 500, check, GRAPHS)


def test_changed_graphs(record_property):
    def check(edits):
        is_sound(generation_of(mutated(GRAPH, edits), "a_00001_.png"))

    fuzz(record_property, "graphs", 400, check, EDITS)


def test_changed_workflows(record_property):
    def check(edits):
        is_sound(generation_of(api_graph(mutated(WORKFLOW, edits)), "a_00001_.png"))

    fuzz(record_property, "workflows", 400, check, EDITS)


def test_values_that_are_no_graph(record_property):
    def check(values, is_workflow):
        generation_of(api_graph(values) if is_workflow else values, "")

    fuzz(record_property, "graphs", 200, check, JSON, st.booleans())


A1111 = (
    "a fox, <lora:x:1>\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
)
KEYS = st.sampled_from(
    [
        "prompt",
        "workflow",
        "parameters",
        "Comment",
        "UserComment",
        "Description",
        "Source",
        "invokeai_metadata",
    ]
    + ["sd-metadata", "Dream", "Software", "comment", "\0", "fooocus_scheme"]
)
WRITTEN = st.one_of(
    GRAPHS.map(json.dumps),
    EDITS.map(lambda edits: json.dumps(mutated(GRAPH, edits))),
    EDITS.map(lambda edits: json.dumps({"prompt": mutated(GRAPH, edits)})),
    st.just(A1111),
    CUTS.map(lambda cuts: damaged(A1111.encode(), cuts).decode("latin-1")),
    JSON.map(json.dumps),
    TEXTS,
)


def test_texts_of_programs(record_property):
    """Written into sound PNG chunks, so that all of them reach the readers of graphs and parameters."""

    def check(texts):
        chunks = [(b"tEXt", f"{key}\0{text}".encode("utf-8", "replace")) for key, text in texts]
        is_clean(read_generation(io.BytesIO(png(chunks)), "a.png"))

    fuzz(
        record_property, "texts in PNG", 250, check, st.lists(st.tuples(KEYS, WRITTEN), max_size=3)
    )


def png(chunks: list[tuple[bytes, bytes]], lie: int = 0) -> bytes:
    """A picture of 8 x 8 with more chunks; `lie` is added to the stated length of the last."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    whole = file.getvalue()
    extra = b""
    for number, (kind, data) in enumerate(chunks, 1):
        length = len(data) + (lie if number == len(chunks) else 0)
        check = zlib.crc32(kind + data)
        extra += struct.pack(">I", length % 2**32) + kind + data + struct.pack(">I", check)
    return whole[:33] + extra + whole[33:]


CHUNKS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"comf", b"IHDR", b"acTL", b"IEND", b"xxxx"]
        ),
        st.one_of(
            st.binary(max_size=40),
            st.binary(max_size=20).map(lambda data: b"prompt\0\0" + zlib.compress(data)),
            st.binary(max_size=20).map(lambda data: b"prompt\0\1\0\0\0" + zlib.compress(data)),
            st.just(b"prompt\0\0" + zlib.compress(bytes(40_000_000))),
            CUTS.map(lambda cuts: damaged(exif(), cuts)),
        ),
    ),
    max_size=4,
)


def exif() -> bytes:
    found = Image.Exif()
    found[0x010F], found[0x0110] = "workflow:{}", "prompt:" + json.dumps(GRAPH)
    found[0x0112], found[0x010E] = 6, "words"
    found.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a fox".encode("utf-16-be")
    return found.tobytes()


def test_png_chunks(tmp_path, record_property):
    path = tmp_path / "a.png"

    def check(chunks, lie):
        path.write_bytes(png(chunks, lie))
        look_at(path)

    lies = st.sampled_from([0] * 6 + [-1, 1, -(2**31), 2**31 - 1])
    fuzz(record_property, "PNG chunks", 300, check, CHUNKS, lies)


def look_at(path) -> None:
    """Everything that a reader does with a picture; only our own errors may come."""
    picture = PictureFile(path, path.name)
    if not picture.complaint():
        picture.load()
    with path.open("rb") as file:
        is_clean(read_generation(file, path.name))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_damaged_pictures_and_their_exif(tmp_path, record_property, kind):
    about = PngImagePlugin.PngInfo()
    about.add_text("prompt", json.dumps(GRAPH))
    options = {"pnginfo": about} if kind == "PNG" else {} if kind == "BMP" else {"exif": exif()}
    file = io.BytesIO()
    Image.new("RGB", (24, 16), "red").save(file, kind, **options)
    whole, path = file.getvalue(), tmp_path / "a.png"

    def check(cuts, is_near):
        path.write_bytes(damaged(whole, cuts, reach=200 if is_near else None))
        look_at(path)

    fuzz(record_property, f"{kind} files", 150, check, CUTS, st.booleans())


def test_captions(record_property):
    words = b"a fox, at night, <b>, {x|y}, ,,"
    contents = st.one_of(
        st.binary(max_size=60),
        TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass")),
        CUTS.map(lambda cuts: damaged(words, cuts)),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.integers(0, 3000).map(lambda depth: b"[" * depth + b"]" * depth),
    )

    def check(data, suffix, name, value, wording):
        assert isinstance(caption_in(value), str | None)
        words_of(name)
        printable(name).encode("utf-8")
        for read in (
            lambda: [decoded(data)],
            lambda: written_captions(suffix, data, Reading()) or [],
        ):
            for text in read():
                assert type(text) is str
                captions = Wording(**wording).variants(text)
                assert captions and all(type(caption) is str for caption in captions)
        folder_repeats(name)

    wordings = st.fixed_dictionaries(
        {},
        optional={
            **{name: TEXTS for name in ("trigger", "prefix", "suffix")},
            **{"shuffle": st.integers(0, 8), "keep": st.integers(0, 5), "dropout": st.floats(0, 1)},
        },
    )
    names = TEXTS | st.from_regex(r"\d{1,6}_.*", fullmatch=True)
    fuzz(
        record_property,
        "captions",
        400,
        check,
        contents,
        st.sampled_from(SUFFIXES),
        names,
        JSON,
        wordings,
    )


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_tables(tmp_path, record_property, name):
    path = tmp_path / name
    rows = (
        b'{"file_name": "a.png", "text": "a"}\n'
        if "json" in name
        else b'file_name,text\na.png,"a"\n'
    )
    values = st.fixed_dictionaries({}, optional={"file_name": TEXTS | JSON, "text": TEXTS | JSON})

    def check(cuts, row):
        path.write_bytes(damaged(rows, cuts) + json.dumps(row).encode())
        for file, caption in table_rows(path):
            assert type(file) is str and isinstance(caption, str | None)

    fuzz(record_property, "metadata tables", 200, check, CUTS, values)
