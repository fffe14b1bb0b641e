"""Made-up run directories, caches, job files and weight files: read, or refused with our own error."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import pytest
import torch
from fuzzing import CUTS, EDITS, JSON, NUMBERS, TEXTS, damaged, fuzz, mutated
from hypothesis import strategies as st

from seppo_core.adapters.files import load_lora
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.data import in_memory
from seppo_core.data.cache import DiskStore
from seppo_core.denoisers import ComputeConfig
from seppo_core.errors import DatasetError
from seppo_core.files import load_tensors, sealed
from seppo_core.method.references import ReferenceConfig
from seppo_core.runs.run import Run
from seppo_core.settings import from_dict, load_json, override
from seppo_core.training.config import RunConfig, SePPOConfig, config_of
from seppo_core.training.trainer import train
from seppo_core.views.plots import curves

pytestmark = pytest.mark.thorough


@pytest.fixture
def run(tmp_path, make_policy, make_examples) -> Run:
    """Three steps, with a checkpoint after each."""
    config = SePPOConfig(
        steps=3,
        references=ReferenceConfig(snapshot_every=1, sampling_steps=1, capacity=2),
        lora=LoRAConfig(rank=2),
        compute=ComputeConfig(),
        run=RunConfig(directory=str(tmp_path / "run"), checkpoint_every=1),
    )
    for _ in train(make_policy(), in_memory(make_examples(3)), config):
        pass
    return Run(tmp_path / "run")


def read_all(run: Run) -> None:
    """Everything that nodes and the trainer ask of a run."""
    for question in (
        *(
            run.exists,
            run.step,
            run.metrics,
            run.snapshot_steps,
            run.state,
            run.weights,
            lambda: config_of(run.about()),
        ),
        lambda: run.require_base("x"),
        lambda: [run.snapshot(step) for step in run.snapshot_steps()],
    ):
        try:
            question()
        except Exception as error:
            if type(error).__module__ != "seppo_core.errors":
                raise


def put(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)


def test_run_json(run, record_property):
    path = run.directory / "run.json"
    about = load_json(path)

    def check(edits, is_sealed):
        values = mutated(about, edits)
        put(path, json.dumps(sealed(values) if is_sealed and type(values) is dict else values))
        read_all(run)

    fuzz(record_property, "run.json", 200, check, EDITS, st.booleans())


def test_bytes_of_run_json_manifests_and_metrics(run, record_property):
    files = [run.directory / "run.json", *run.directory.glob("state/*.json")]
    files.append(run.directory / "metrics.jsonl")
    whole = {path: path.read_bytes() for path in files}

    def check(number, cuts):
        path = files[number % len(files)]
        put(path, damaged(whole[path], cuts))
        read_all(run)
        put(path, whole[path])

    fuzz(record_property, "bytes of a run's JSON", 150, check, st.integers(0, 9), CUTS)


def test_manifests(run, record_property):
    files = sorted(run.directory.glob("state/*.json"))
    whole = [load_json(path) for path in files]

    def check(edits, others, is_sealed):
        for path, values, change in zip(files, whole, (edits, others), strict=False):
            values = mutated(values, change)
            put(path, json.dumps(sealed(values) if is_sealed and type(values) is dict else values))
        read_all(run)

    assert len(files) == 2
    fuzz(record_property, "checkpoint manifests", 150, check, EDITS, EDITS, st.booleans())


def test_metrics(run, record_property):
    lines = run.metrics()

    def check(edits):
        values = mutated(lines, edits)
        rows = values if isinstance(values, list) else [values]
        put(run.directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        read_all(run)

    fuzz(record_property, "metrics.jsonl", 100, check, EDITS)


def test_states_whose_checksum_was_made_to_fit(run, record_property):
    """What stands in the header of a state file; its manifest is written anew, so that it is believed."""
    (manifest,) = sorted(run.directory.glob("state/*.json"))[-1:]
    state = manifest.with_suffix(".safetensors")
    values, data = load_json(manifest), state.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    fields = json.loads(header["__metadata__"]["seppo"])
    for path in run.directory.glob("state/*.json"):
        if path != manifest:
            path.unlink()

    def check(edits, cuts, is_inner):
        if is_inner:
            about = header["__metadata__"] | {"seppo": json.dumps(mutated(fields, edits))}
            text = json.dumps(header | {"__metadata__": about}).encode()
        else:
            text = json.dumps(mutated(header, edits)).encode()
        put(
            state,
            struct.pack("<Q", len(text)) + text + damaged(body, cuts)[: len(body)].ljust(len(body)),
        )
        seal = {
            "bytes": state.stat().st_size,
            "sha256": hashlib.sha256(state.read_bytes()).hexdigest(),
        }
        put(
            manifest,
            json.dumps(sealed(values | {"files": values["files"] | {f"state/{state.name}": seal}})),
        )
        read_all(run)

    fuzz(record_property, "state files", 150, check, EDITS, CUTS, st.booleans())


def test_settings(record_property):
    plain = SePPOConfig().as_dict()

    def check(edits):
        from_dict(SePPOConfig, mutated(plain, edits))

    fuzz(record_property, "settings", 300, check, EDITS)


def test_overrides(record_property):
    def check(key, value):
        override(SePPOConfig().as_dict(), f"{key}={value}")

    keys = st.one_of(TEXTS, st.lists(st.sampled_from(["loss", "beta", "", "x"])).map(".".join))
    fuzz(record_property, "overrides", 200, check, keys, TEXTS | JSON.map(repr))


def test_cache_indexes(tmp_path, record_property):
    store = DiskStore(tmp_path)
    for key in "ab":
        store.write(key, {"latents": torch.zeros(2, 3), "list": [torch.ones(1), 3, ("x", None)]})
    store.flush()
    (index,) = tmp_path.glob("*.json")
    about = json.loads(index.read_text())
    whole = index.read_bytes()

    def check(edits, cuts, is_bytes):
        put(index, damaged(whole, cuts) if is_bytes else json.dumps(mutated(about, edits)))
        found = DiskStore(tmp_path)
        for key in list(found._places):
            found.outline(key)
            try:
                found.read(key)
            except DatasetError:
                continue

    fuzz(record_property, "cache indexes", 200, check, EDITS, CUTS, st.booleans())


TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ["F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "U8", "C64", "F4", "X"]
        ),
        "shape": st.lists(st.integers(0, 4) | NUMBERS, max_size=3),
        "data_offsets": st.lists(st.integers(0, 40) | NUMBERS, min_size=1, max_size=3),
    }
)
NAMES = st.sampled_from(
    [
        "diffusion_model.a.lora_up.weight",
        "diffusion_model.a.lora_down.weight",
        "diffusion_model.a.alpha",
    ]
    + ["unet.a.lora_A.weight", "unet.a.lora_B.weight", "a"]
)
HEADERS = st.dictionaries(NAMES | TEXTS, TENSOR | JSON, max_size=4)
METADATA = st.dictionaries(
    st.sampled_from(["seppo.scale", "seppo.layers", "x"]), TEXTS | JSON.map(json.dumps), max_size=3
)


def test_safetensors_headers(tmp_path, record_property):
    path = tmp_path / "a.safetensors"

    def check(header, about, data, stated):
        text = json.dumps(header | ({"__metadata__": about} if about else {})).encode()
        length = max(0, min(len(text) + stated, 2**64 - 1)) if abs(stated) > 1 else len(text)
        put(path, struct.pack("<Q", length) + text + data)
        for read in (load_tensors, load_lora):
            try:
                read(path)
            except Exception as error:
                if type(error).__module__ != "seppo_core.errors":
                    raise

    stated = st.sampled_from([0] * 9 + [-3, 2, 10**6, 2**40, 2**63])
    fuzz(
        record_property,
        "safetensors headers",
        300,
        check,
        HEADERS,
        METADATA,
        st.binary(max_size=64),
        stated,
    )


def lora_file(shapes: dict[str, list[int]], about: dict[str, str]) -> bytes:
    """A sound safetensors file of float32 zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header | {"__metadata__": about}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def test_lora_files_of_odd_shapes_and_metadata(tmp_path, record_property):
    path = tmp_path / "a.safetensors"
    layers = {"diffusion_model.a": ["a", 0, 2, False], "diffusion_model.b": ["a", 2, 2, True]}

    def check(shapes, scale, edits, is_plain):
        about = {"seppo.scale": scale, "seppo.layers": json.dumps(mutated(layers, edits))}
        put(path, lora_file(shapes, {} if is_plain else about))
        load_lora(path)

    sides = st.lists(st.integers(0, 4), max_size=3)
    scales = TEXTS | NUMBERS.map(repr)
    fuzz(
        record_property, "LoRA files", 300, check, st.dictionaries(NAMES, sides, max_size=4), scales, EDITS,
        st.booleans(),
    )  # fmt: skip


def test_curves_of_odd_metrics(run, record_property):
    lines = run.metrics()

    def check(edits):
        values = mutated(lines, edits)
        rows = values if isinstance(values, list) else [values]
        put(run.directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        curves(run.metrics(), "a run")

    fuzz(record_property, "metrics drawn as curves", 8, check, EDITS)
