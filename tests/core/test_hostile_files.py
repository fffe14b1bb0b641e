"""JSON and safetensors files made to mislead: refused with our own error, without much memory or time."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from seppo_core.adapters.files import load_lora
from seppo_core.data.cache import DiskStore
from seppo_core.errors import CheckpointError, ConfigError, DatasetError
from seppo_core.files import Seal, load_tensors, sealed
from seppo_core.settings import MAX_JSON_BYTES, MAX_JSON_DEPTH, load_json

MB = 2**20


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_json_is_read_up_to_its_size_limit(tmp_path):
    path = tmp_path / "run.json"
    frame = len('{"a": ""}')
    path.write_text(json.dumps({"a": "x" * (MAX_JSON_BYTES - frame)}))
    assert len(load_json(path)["a"]) == MAX_JSON_BYTES - frame
    path.write_text(json.dumps({"a": "x" * (MAX_JSON_BYTES - frame + 1)}))
    with pytest.raises(ConfigError, match=r"run\.json: over 4 MB"):
        load_json(path)


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path):
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match="over 4 MB"):
        load_json(path)


def test_json_is_read_up_to_its_depth_limit(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(nested(MAX_JSON_DEPTH))
    load_json(path)
    path.write_text(nested(MAX_JSON_DEPTH + 1))
    with pytest.raises(ConfigError, match="nested more than 50 levels deep"):
        load_json(path)
    path.write_text('{"a": %s}' % ("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH))
    with pytest.raises(ConfigError, match="nested more than 50 levels deep"):
        load_json(path)


@pytest.mark.parametrize(
    "content",
    [nested(100_000), "[" * 100_000, '{"a": %s}' % ("9" * 10_000), "\ufeff{}", "{", b"\xff{}", b""],
    ids=[
        "deep objects",
        "deep lists",
        "long number",
        "byte order mark",
        "cut off",
        "bytes",
        "empty",
    ],
)
def test_text_that_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"run\.json: (not valid JSON|nested more)"):
        load_json(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        load_json(tmp_path / "run.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_json(tmp_path)


def safetensors(path: Path, header: object, data: bytes = b"", stated: int | None = None) -> Path:
    """A file by hand; `stated` is what it says of its header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if stated is None else stated
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


def floats(count: int, start: int, end: int) -> dict:
    return {"dtype": "F32", "shape": [count], "data_offsets": [start, end]}


EIGHT = bytes(8)

LIES = {
    "header length beyond the file": dict(header={"a": floats(2, 0, 8)}, data=EIGHT, stated=10**6),
    "header of an exabyte": dict(header={"a": floats(2, 0, 8)}, data=EIGHT, stated=2**60),
    "header length of all ones": dict(header={"a": floats(2, 0, 8)}, data=EIGHT, stated=2**64 - 1),
    "header shorter than it is": dict(header={"a": floats(2, 0, 8)}, data=EIGHT, stated=4),
    "header of nothing": dict(header=b""),
    "header that is a list": dict(header=[]),
    "header that is no text": dict(header=b"\xff\xfe{}"),
    "header nested 100,000 deep": dict(header=b'{"a":' * 100_000),
    "offsets beyond the file": dict(header={"a": floats(2, 0, 8)}, data=bytes(4)),
    "offsets far beyond the file": dict(header={"a": floats(2**38, 0, 2**40)}, data=EIGHT),
    "offsets that go back": dict(header={"a": floats(2, 8, 0)}, data=EIGHT),
    "data that no tensor names": dict(header={"a": floats(2, 0, 8)}, data=bytes(9)),
    "a gap before the first tensor": dict(header={"a": floats(2, 4, 12)}, data=bytes(12)),
    "tensors that overlap": dict(
        header={"a": floats(2, 0, 8), "b": floats(2, 4, 12)}, data=bytes(12)
    ),
    "tensors that share": dict(header={"a": floats(2, 0, 8), "b": floats(2, 0, 8)}, data=EIGHT),
    "a shape larger than its bytes": dict(header={"a": floats(3, 0, 8)}, data=EIGHT),
    "a shape smaller than its bytes": dict(header={"a": floats(1, 0, 8)}, data=EIGHT),
    "a negative shape": dict(header={"a": floats(-2, 0, 8)}, data=EIGHT),
    "a shape that overflows": dict(
        header={"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, data=EIGHT
    ),
    "a dtype that does not exist": dict(
        header={"a": {"dtype": "PICKLE", "shape": [8], "data_offsets": [0, 8]}}, data=EIGHT
    ),
    "metadata that is no text": dict(
        header={"a": floats(2, 0, 8), "__metadata__": {"x": {"y": 1}}}, data=EIGHT
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, lie):
    path = safetensors(tmp_path / "a.safetensors", **LIES[lie])
    for read in (load_tensors, load_lora):
        with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read") as refused:
            read(path)
        assert "\n" not in str(refused.value)


def test_the_same_file_without_a_lie_is_read(tmp_path):
    path = safetensors(tmp_path / "a.safetensors", {"a": floats(2, 0, 8)}, EIGHT)
    assert load_tensors(path)[0]["a"].tolist() == [0, 0]


def test_an_empty_tensor_with_a_side_that_torch_cannot_hold_is_refused(tmp_path):
    shape = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
    path = safetensors(tmp_path / "a.safetensors", {"a": shape})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read") as refused:
        load_tensors(path)
    assert "\n" not in str(refused.value)  # torch's own message is a page long


def fit(index: Path, shard: Path, **changes: object) -> None:
    """Let the index fit what the shard is now, with all its checksums."""
    about = json.loads(index.read_text()) | vars(Seal.of(shard)) | changes
    del about["checksum"]
    index.write_text(json.dumps(sealed(about)))


@pytest.mark.parametrize("lie", LIES)
def test_a_shard_whose_header_lies_gives_no_winner(tmp_path, lie):
    """Its index is made to fit the shard, so that only the header is wrong."""
    store = DiskStore(tmp_path)
    store.write("a", torch.zeros(2))
    store.flush()
    (shard,), (index,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    safetensors(shard, **LIES[lie])
    fit(index, shard)
    with pytest.raises(DatasetError, match="gone or damaged"):
        DiskStore(tmp_path).read("a")


def test_a_shard_with_a_side_that_torch_cannot_hold_gives_no_winner(tmp_path):
    store = DiskStore(tmp_path)
    store.write("a", torch.zeros(2))
    store.flush()
    (shard,), (index,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    shape = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
    safetensors(shard, {"a.0": shape})
    fit(index, shard, entries={"a": {"tree": 0, "shapes": [[0, 2**63]]}})
    with pytest.raises(DatasetError, match="gone or damaged") as refused:
        DiskStore(tmp_path).read("a")
    assert "\n" not in str(refused.value)
