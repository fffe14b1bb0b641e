"""Shards and their indexes: many values in few files, whole or not at all, whoever writes besides."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from seppo_core.data import cache
from seppo_core.data.cache import DiskStore, MemoryStore, at_hand, kept
from seppo_core.errors import DatasetError
from seppo_core.files import NotStorableError, sealed


def files(directory: Path, suffix: str) -> list[Path]:
    return sorted(directory.glob(f"*{suffix}"))


def filled(directory: Path, *keys: str) -> DiskStore:
    """A store that has written one shard with a tensor for each key, filled with the key's number."""
    store = DiskStore(directory)
    for key in keys:
        store.write(key, {"latents": torch.full((2, 3), float(ord(key))), "size": [16, 24]})
    store.flush()
    return store


def told_by(index: Path) -> dict:
    """What an index says, without its checksum."""
    about = json.loads(index.read_text())
    del about["checksum"]
    return about


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_values_lie_together_in_one_shard_with_an_index_beside_it(tmp_path):
    filled(tmp_path, "a", "b", "c")
    (shard,), (index,) = files(tmp_path, ".safetensors"), files(tmp_path, ".json")
    assert shard.stem == index.stem
    assert len(list(tmp_path.iterdir())) == 2
    about = json.loads(index.read_text())
    assert about["bytes"] == shard.stat().st_size
    assert about["entries"]["b"] == {"tree": 0, "shapes": [[2, 3]]}
    assert len(about["trees"]) == 1


def test_another_store_finds_what_was_flushed_before_it_was_made(tmp_path):
    first = filled(tmp_path, "a")
    second = DiskStore(tmp_path)
    first.write("b", torch.zeros(1))
    first.flush()
    assert second.read("a")["latents"].tolist() == [[97.0] * 3] * 2
    assert "b" not in second
    assert DiskStore(tmp_path).read("b").tolist() == [0]


def test_what_waits_for_its_shard_can_be_read(tmp_path):
    store = DiskStore(tmp_path)
    store.write("a", [torch.ones(2), "text"])
    assert not list(tmp_path.iterdir())
    assert "a" in store
    assert store.read("a")[0].tolist() == [1, 1]
    assert store.outline("a") == [(2,), "text"]


@pytest.mark.parametrize("make", [lambda path: MemoryStore(), DiskStore])
def test_an_outline_has_shapes_in_place_of_tensors(tmp_path, make):
    store = make(tmp_path)
    store.write("a", {"x": (torch.zeros(4, 2), None), "y": [torch.zeros(())], "n": 3})
    for _ in range(2):
        assert store.outline("a") == {"x": ((4, 2), None), "y": [()], "n": 3}
        store.flush()
        store = DiskStore(tmp_path) if isinstance(store, DiskStore) else store


def test_a_shard_is_written_when_it_has_enough_values_bytes_or_has_waited(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_VALUES", 3)
    store = DiskStore(tmp_path)
    for count, key in enumerate("abcdef", 1):
        store.write(key, torch.zeros(1))
        assert len(files(tmp_path, ".json")) == count // 3
    monkeypatch.setattr(cache, "SHARD_BYTES", 400)  # 100 floats
    store.write("g", torch.zeros(99))
    assert len(files(tmp_path, ".json")) == 2
    store.write("h", torch.zeros(1))
    assert len(files(tmp_path, ".json")) == 3
    monkeypatch.setattr(cache, "SHARD_SECONDS", 0)
    store.write("i", torch.zeros(1))
    assert len(files(tmp_path, ".json")) == 4


def test_what_a_failing_block_wrote_is_kept(tmp_path):
    store = DiskStore(tmp_path)
    with pytest.raises(ZeroDivisionError), kept(store):
        store.write("a", torch.zeros(1))
        1 / 0  # noqa: B018
    assert "a" in DiskStore(tmp_path)


def test_a_block_fails_with_its_own_error_where_the_disk_fails_too(tmp_path, caplog):
    store = DiskStore(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt), kept(store):
        store.write("a", torch.zeros(1))
        (tmp_path / "cache").rmdir()
        (tmp_path / "cache").write_text("in the way")
        raise KeyboardInterrupt
    assert "the last encoded winners are lost" in caplog.text


def test_one_key_in_two_shards_is_harmless(tmp_path):
    filled(tmp_path, "a", "b")
    store = DiskStore(tmp_path)
    other = DiskStore(tmp_path)
    store.write("c", torch.zeros(1))
    other.write("c", torch.zeros(1))
    store.flush()
    other.flush()
    assert len(files(tmp_path, ".json")) == 3
    assert DiskStore(tmp_path).read("c").tolist() == [0]


def test_several_processes_write_to_one_directory(tmp_path):
    code = """
import sys, torch
from pathlib import Path
from seppo_core.data import cache
cache.SHARD_VALUES = 2
store = cache.DiskStore(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 12, 2):
    store.write(str(number), torch.full((1,), float(number)))
store.flush()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen([*command, start]) for start in ("0", "1", "0")]
    assert [process.wait() for process in running] == [0, 0, 0]
    store = DiskStore(tmp_path)
    assert [store.read(str(number)).item() for number in range(12)] == list(range(12))


def test_a_killed_process_loses_only_what_waited(tmp_path):
    code = """
import os, signal, sys, torch
from pathlib import Path
from seppo_core.data import cache
cache.SHARD_VALUES = 4
store = cache.DiskStore(Path(sys.argv[1]))
for number in range(100):
    if number == 11:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    store.write(str(number), torch.zeros(1))
"""
    killed = run_python(code, tmp_path)
    if os.name != "nt":
        assert killed.returncode == -signal.SIGKILL
    store = DiskStore(tmp_path)
    assert [number for number in range(100) if str(number) in store] == list(range(8))


def test_shard_that_was_cut_off_does_not_exist_and_the_others_do(tmp_path, caplog):
    filled(tmp_path, "a")
    (shard,) = files(tmp_path, ".safetensors")
    filled(tmp_path, "b")
    shard.write_bytes(shard.read_bytes()[:-4])
    store = DiskStore(tmp_path)
    assert "a" not in store
    assert "b" in store
    assert f"{shard} has" in caplog.text
    assert "are encoded again" in caplog.text


def test_shard_that_was_changed_is_found_out_once_and_the_others_stay(tmp_path, caplog):
    filled(tmp_path, "a", "b")
    (shard,) = files(tmp_path, ".safetensors")
    filled(tmp_path, "c")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    store = DiskStore(tmp_path)
    assert ("a" in store, "b" in store, "c" in store) == (False, False, True)
    assert f"are encoded again: {shard} was changed" in caplog.text
    assert len(caplog.records) == 1
    store.write("a", torch.zeros(1))
    store.flush()
    again = DiskStore(tmp_path)
    assert again.read("a").tolist() == [0]
    assert ("b" in again, "c" in again) == (False, True)
    assert len(caplog.records) == 1


def test_index_that_was_changed_does_not_count(tmp_path, caplog):
    filled(tmp_path, "a")
    (index,) = files(tmp_path, ".json")
    index.write_text(index.read_text().replace("[16, 24]", "[16, 25]").replace("16", "17"))
    assert "a" not in DiskStore(tmp_path)
    assert f"{index} was changed" in caplog.text


def test_shard_without_index_and_index_without_shard_do_not_exist(tmp_path):
    filled(tmp_path, "a")
    files(tmp_path, ".json")[0].unlink()
    filled(tmp_path, "b")
    store = DiskStore(tmp_path)
    assert "a" not in store
    for shard in files(tmp_path, ".safetensors"):
        shard.unlink()
    assert "b" not in DiskStore(tmp_path)


INDEXES = {
    "cut off": lambda about: json.dumps(about)[:-9],
    "no text": lambda about: b"\xff\xfe\x00",
    "a list": lambda about: [about],
    "a number": lambda about: 3,
    "empty": lambda about: {},
    "deep": lambda about: "[" * 100_000 + "]" * 100_000,
    "no entries": lambda about: about | {"entries": None},
    "entries as list": lambda about: about | {"entries": [["a", {}]]},
    "entry of a wrong type": lambda about: about | {"entries": {"a": "b"}},
    "unknown tree": lambda about: about | {"entries": {"a": {"tree": 7, "shapes": [[2, 3]]}}},
    "tree from the end": lambda about: about | {"entries": {"a": {"tree": -1, "shapes": [[2, 3]]}}},
    "true as tree": lambda about: about | {"entries": {"a": {"tree": True, "shapes": [[2, 3]]}}},
    "shape of texts": lambda about: about | {"entries": {"a": {"tree": 0, "shapes": [["2"]]}}},
    "shape of a text": lambda about: about | {"entries": {"a": {"tree": 0, "shapes": ["23"]}}},
    "negative shape": lambda about: about | {"entries": {"a": {"tree": 0, "shapes": [[-2]]}}},
    "too few tensors": lambda about: about | {"entries": {"a": {"tree": 0, "shapes": []}}},
    "unknown nesting": lambda about: about | {"trees": [{"set": []}]},
    "two nestings": lambda about: about | {"trees": [{"list": [], "tuple": []}]},
    "tree as text": lambda about: about | {"trees": ["tensor"]},
    "tensor of a wrong type": lambda about: about | {"trees": [{"tensor": ["0"]}]},
    "list as key": lambda about: about | {"trees": [{"dict": [[["k"], {"scalar": 1}]]}]},
    "pair of three": lambda about: about | {"trees": [{"dict": [["k", {"scalar": 1}, 2]]}]},
    "list as scalar": lambda about: about | {"trees": [{"scalar": []}]},
    "deep tree": lambda about: about | {"trees": [nested(200)]},
    "wrong size": lambda about: about | {"bytes": about["bytes"] + 1},
    "size as text": lambda about: about | {"bytes": str(about["bytes"])},
}


def nested(depth: int) -> dict:
    return {"list": [nested(depth - 1)]} if depth else {"scalar": 1}


@pytest.mark.parametrize("lie", INDEXES)
def test_an_index_that_lies_is_passed_over_with_a_warning(tmp_path, caplog, lie):
    filled(tmp_path, "a")
    (index,) = files(tmp_path, ".json")
    told = INDEXES[lie](told_by(index))
    if isinstance(told, bytes):
        index.write_bytes(told)
    elif isinstance(told, dict):
        index.write_text(json.dumps(sealed(told)))
    else:
        index.write_text(told if isinstance(told, str) else json.dumps(told))
    store = DiskStore(tmp_path)
    assert "a" not in store
    assert "are encoded again" in caplog.text
    store.write("a", torch.zeros(1))
    store.flush()
    assert DiskStore(tmp_path).read("a").tolist() == [0]


def test_an_index_of_another_version_is_left_alone(tmp_path, caplog):
    filled(tmp_path, "a")
    (index,) = files(tmp_path, ".json")
    index.write_text(json.dumps({"version": 1, "something": "else"}))
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    assert "a" not in DiskStore(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert not caplog.text


def test_leftovers_are_removed_after_a_day_and_files_of_others_never(tmp_path):
    filled(tmp_path, "a")
    damaged = tmp_path / f"encoded-{'0' * 32}"
    orphan = tmp_path / f"encoded-{'1' * 32}.safetensors"
    leftovers = [damaged.with_suffix(".safetensors"), damaged.with_suffix(".json"), orphan]
    leftovers.append(tmp_path / f".{'2' * 32}.part")
    others = [tmp_path / "model.safetensors", tmp_path / "encoded-model.safetensors"]
    for path in [*leftovers, *others]:
        path.write_text("{}")
    DiskStore(tmp_path)
    assert all(path.exists() for path in leftovers)
    yesterday = time.time() - 25 * 3600
    for path in tmp_path.iterdir():
        os.utime(path, (yesterday, yesterday))
    assert "a" in DiskStore(tmp_path)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)
    assert len(list(tmp_path.iterdir())) == 2 + 2


def test_shard_that_is_gone_names_the_file_and_what_to_do(tmp_path):
    store = filled(tmp_path, "a")
    (shard,) = files(tmp_path, ".safetensors")
    shard.unlink()
    with pytest.raises(DatasetError, match=f"{shard.name}.*remove that file and encode"):
        store.read("a")


def test_shard_that_does_not_hold_what_its_index_says_is_damaged(tmp_path):
    filled(tmp_path, "a")
    (index,) = files(tmp_path, ".json")
    about = told_by(index)
    for entries in (
        {"b": about["entries"]["a"]},
        {"a": {"tree": 0, "shapes": [[6]]}},
    ):
        index.write_text(json.dumps(sealed(about | {"entries": entries})))
        with pytest.raises(DatasetError, match="gone or damaged"):
            DiskStore(tmp_path).read(next(iter(entries)))


@pytest.mark.skipif(os.name == "nt", reason="file size limits are POSIX's")
def test_full_disk_says_what_to_do_and_leaves_no_partial_file(tmp_path):
    code = """
import resource, sys, torch
from pathlib import Path
from seppo_core.data.cache import DiskStore
from seppo_core.errors import DatasetError
store = DiskStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store.write("a", torch.zeros(1000))
try:
    store.flush()
except DatasetError as error:
    sys.exit(str(error))
"""
    stopped = run_python(code, tmp_path)
    assert "cannot be kept there (" in stopped.stderr
    assert "free some space or choose another place" in stopped.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", int)() == 0,
    reason="the super user may write anywhere",
)
def test_read_only_directory_can_be_read_and_says_what_to_do_when_written(tmp_path):
    filled(tmp_path, "a")
    tmp_path.chmod(0o500)
    try:
        store = DiskStore(tmp_path)
        assert "a" in store
        store.write("b", torch.zeros(1))
        with pytest.raises(DatasetError, match="choose another place"):
            store.flush()
    finally:
        tmp_path.chmod(0o700)


def test_every_kind_of_nesting_and_dtype_survives_the_disk(tmp_path):
    store = DiskStore(tmp_path)
    tensor = torch.arange(6.0).reshape(2, 3)
    value = {
        "transposed": tensor.T,
        "half": tensor.to(torch.bfloat16),
        "eight": tensor.to(torch.float8_e4m3fn),
        "scalars": [None, True, 3, 0.1, float("inf"), "text"],
        "pair": (tensor[0], ({"deep": tensor[1]},)),
        "empty": {},
        7: torch.zeros(0, 3),
    }
    store.write("key", value)
    store.flush()
    read = DiskStore(tmp_path).read("key")
    assert torch.equal(read["transposed"], tensor.T)
    assert read["half"].dtype == torch.bfloat16
    assert read["eight"].dtype == torch.float8_e4m3fn
    assert read["scalars"] == value["scalars"]
    assert type(read["pair"]) is tuple
    assert read["pair"][1][0]["deep"].tolist() == [3, 4, 5]
    assert read["empty"] == {}
    assert read[7].shape == (0, 3)


def test_what_json_and_safetensors_cannot_say_is_not_stored(tmp_path):
    store = DiskStore(tmp_path)
    for value in (object(), {(1,): "a"}, np.float64(1), torch.zeros(1, dtype=torch.complex64)):
        with pytest.raises(NotStorableError):
            store.write("key", [value])
    assert "key" not in store


def test_at_hand_shares_what_is_no_tensor():
    hook = object()
    tensor = torch.zeros(2)
    copy = at_hand([[tensor, {"hook": hook}]])
    assert copy[0][1]["hook"] is hook
    tensor += 1
    assert copy[0][0].tolist() == [0, 0]
