"""After a kill any one file is cut off, changed or deleted: the run goes on from the last good state, and says so.

Each file in three ways, of the cache in two; with SEPPO_RELIABILITY=long in eight.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import LONG, finish, start
from small_run import SHARD_VALUES, copy, encoder_calls, outcome, remove, whole_run

CHECKPOINT, BEFORE = 6, 3
"""The steps of the two checkpoints that the interrupted run has."""


def changed(place: float) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = min(int(place * len(content)), len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return change


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "cut to half": lambda content: content[: len(content) // 2],
    "changed in the middle": changed(0.5),
    "deleted": None,
    "emptied": lambda content: b"",
    "cut to one byte": lambda content: content[:1],
    "cut by one byte": lambda content: content[:-1],
    "changed at its start": changed(0),
    "changed at its end": changed(1),
}
WAYS = list(DAMAGES)[: None if LONG else 3]


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory) -> Path:
    """Killed while it wrote the third checkpoint, of step 9."""
    folder = tmp_path_factory.mktemp("interrupted")
    assert finish(start(folder / "whole", listed=folder / "operations")) == 0
    operations = (folder / "operations").read_text("utf-8").splitlines()
    writes = [n for n, operation in enumerate(operations, 1) if operation == "write state"]
    assert finish(start(folder / "killed", at=writes[4])) != 0  # two for each checkpoint
    return folder / "killed"


@pytest.fixture(scope="module")
def expected(interrupted_run):
    return outcome(interrupted_run.parent / "whole")


def damaged(
    interrupted_run: Path, folder: str, home: Path, ways: list[str] = WAYS
) -> Iterator[tuple[str, str]]:
    """Lay copies of the interrupted run at `home`, each with one file damaged; the file and the way."""
    names = [p.relative_to(interrupted_run) for p in (interrupted_run / folder).rglob("*")]
    for name in sorted(names):
        if not (interrupted_run / name).is_file():
            continue
        content = (interrupted_run / name).read_bytes()
        for way in ways:
            damage = DAMAGES[way]
            if damage and (not content or damage(content) == content):
                continue
            copy(interrupted_run, home)
            if damage:
                (home / name).write_bytes(damage(content))
            else:
                (home / name).unlink()
            yield name.relative_to(folder).as_posix(), way
            remove(home)


def owners(interrupted_run: Path, name: str) -> list[int]:
    """The whole checkpoints that a file of the run directory belongs to."""
    found = []
    for step in (BEFORE, CHECKPOINT):
        manifest = f"state/step_{step:08d}.json"
        about = json.loads((interrupted_run / "run" / manifest).read_text("utf-8"))
        if name == manifest or name in about["files"]:
            found.append(step)
    return found


def test_the_interrupted_run_was_cut_off_in_its_third_checkpoint(interrupted_run):
    run = interrupted_run / "run"
    assert [path.stem[-1] for path in sorted((run / "state").glob("*.json"))] == ["3", "6"]
    assert len(list((run / "state").glob("*.part"))) == 1
    assert (run / "weights" / "step_00000009.safetensors").is_file()
    assert len((run / "metrics.jsonl").read_text("utf-8").splitlines()) == 9


def test_a_run_with_any_one_file_damaged_ends_equal_and_says_what_was_lost(
    tmp_path, interrupted_run, expected, caplog, tell
):
    met = Counter()
    home = tmp_path / "run"
    for name, way in damaged(interrupted_run, "run", home):
        met[name] += 1
        caplog.clear()
        (first, *_) = whole_run(home)
        told = caplog.text
        assert outcome(home) == expected, (name, way)
        belongs = owners(interrupted_run, name)
        gone_back_to = {(): CHECKPOINT, (BEFORE,): CHECKPOINT, (CHECKPOINT,): BEFORE}
        unharmed = name.endswith(".json") and "changed" in way and first == CHECKPOINT + 1
        # One changed character of what a manifest remembers of run.json harms nothing by itself.
        assert first == gone_back_to.get(tuple(belongs), 0) + 1 or unharmed, (name, way)
        if CHECKPOINT in belongs and not (
            unharmed or (name.endswith(".json") and way == "deleted")
        ):
            assert f"a checkpoint is passed over, for {Path(name).name}" in told, (name, way)
        if len(belongs) == 2:
            assert "no checkpoint is whole, so the run begins anew" in told, (name, way)
            assert (home / "run" / "damaged_1" / "state" / f"step_{CHECKPOINT:08d}.json").is_file()
        if name == "run.json" or (name == "metrics.jsonl" and way in WAYS[:3]):
            assert f"{name} was gone or damaged" in told, (name, way)
    tell(f"{met.total()} damages of the {len(met)} files of a run directory")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "deleted"])
def test_a_run_json_that_is_damaged_before_the_first_checkpoint_begins_anew(
    tmp_path, interrupted_run, expected, way, caplog
):
    home = tmp_path / "run"
    copy(interrupted_run, home)
    for name in ("state", "weights", "pool"):
        shutil.rmtree(home / "run" / name)
    path = home / "run" / "run.json"
    path.write_bytes(DAMAGES[way](path.read_bytes()))
    assert whole_run(home)[0] == 1
    assert "run.json was gone or damaged; it is written anew" in caplog.text
    assert outcome(home) == expected


def test_an_encoded_cache_with_any_one_file_damaged_is_encoded_again_where_needed(
    tmp_path, interrupted_run, expected, caplog, tell
):
    caplog.set_level(logging.WARNING)
    met = Counter()
    home = tmp_path / "run"
    before = len(encoder_calls(interrupted_run))
    for name, way in damaged(interrupted_run, "cache", home, WAYS if LONG else WAYS[:2]):
        met[Path(name).suffix] += 1
        caplog.clear()
        whole_run(home)
        assert outcome(home) == expected, (name, way)
        assert 0 < len(encoder_calls(home)) - before <= SHARD_VALUES, (name, way)
        if way != "deleted" or name.endswith(".safetensors"):
            assert "encoded again" in caplog.text, (name, way)
        assert whole_run(home) == []
        assert len(encoder_calls(home)) - before <= SHARD_VALUES, "encoded again at every start"
    tell(f"{met.total()} damages of the encoded cache, {dict(met)}")
