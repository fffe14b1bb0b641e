"""The run directory: what counts as a run, what a damaged one is taken for, what may change in it."""

import errno
import json
import os
from contextlib import nullcontext
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import pytest
from tiny import TinyDenoiser, examples

from seppo_core import files, train
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.data import in_memory
from seppo_core.errors import CheckpointError
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.runs import lock as ownership
from seppo_core.runs import run as checkpoint
from seppo_core.runs.lock import STOP
from seppo_core.runs.manifest import Checkpoint
from seppo_core.runs.run import Run
from seppo_core.training.config import RunConfig, SePPOConfig
from seppo_core.training.continuation import RESUMABLE, choose_directory, differences

CONFIG = SePPOConfig(
    steps=4,
    batch_size=2,
    references=ReferenceConfig(snapshot_every=2, sampling_steps=2),
    lora=LoRAConfig(rank=2, modules="all"),
    run=RunConfig(checkpoint_every=2, preview_every=0),
)


def rewrite(manifest: Path, **changes) -> None:
    """Change a manifest so that its checksum fits."""
    files.write_json(manifest, files.sealed(json.loads(manifest.read_text()) | changes))


def trained(directory: Path, **changes) -> list[int]:
    """The steps that training in `directory` took."""
    config = replace(CONFIG, run=replace(CONFIG.run, directory=str(directory)), **changes)
    return [r.step for r in train(TinyDenoiser(), in_memory(examples(4)), config)]


def started(directory: Path, **changes):
    config = replace(CONFIG, run=replace(CONFIG.run, directory=str(directory)), **changes)
    return train(TinyDenoiser(), in_memory(examples(4)), config)


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes folders by itself")
def test_new_folders_are_flushed_together_with_the_file_in_them(tmp_path, monkeypatch):
    """A power cut may otherwise take away a folder that nobody flushed, and the flushed file in it."""
    flushed, plain = [], os.fsync

    def fsync(handle):
        flushed.append(os.fstat(handle).st_ino)
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_json(tmp_path / "run" / "state" / "a.json", {})
    folders = [tmp_path, tmp_path / "run", tmp_path / "run" / "state"]
    assert {folder.stat().st_ino for folder in folders} <= set(flushed)
    flushed.clear()
    files.write_json(tmp_path / "run" / "state" / "b.json", {})
    assert len(flushed) == 2  # the file, and the folder that was there already


# What counts as a run.


def test_a_damaged_run_json_without_a_checkpoint_is_no_run(tmp_path):
    run = Run(tmp_path)
    assert not run.exists()
    for content in ("", "{", "[]", '{"format": 3}', '{"format": 3, "checksum": "0"}'):
        (tmp_path / "run.json").write_text(content)
        assert not run.exists()
        assert trained(tmp_path) == [1, 2, 3, 4]
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_a_run_of_another_version_is_neither_continued_nor_overwritten(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "config": {}}')
    assert Run(tmp_path).exists()
    with pytest.raises(CheckpointError, match="run format 1 is not 3"):
        trained(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == {"format": 1, "config": {}}


def test_a_changed_run_json_is_told_by_the_newest_checkpoint(tmp_path, caplog):
    trained(tmp_path, steps=2)
    path = tmp_path / "run.json"
    right = Run(tmp_path).about()
    path.write_text(path.read_text().replace('"beta": 2000.0', '"beta": 9000.0'))
    assert Run(tmp_path).about() == right
    assert right["config"]["loss"]["beta"] == 2000
    assert trained(tmp_path) == [3, 4]
    assert "run.json was gone or damaged" in caplog.text
    assert Run(tmp_path).about()["created"] == right["created"]


@pytest.mark.parametrize("about", [{}, {"format": 3}, {"format": 3, "config": 3}, {"format": "3"}])
def test_a_checkpoint_that_remembers_no_run_is_a_clear_error(tmp_path, about):
    trained(tmp_path)
    (tmp_path / "run.json").unlink()
    for manifest in (tmp_path / "state").glob("*.json"):
        rewrite(manifest, about=about)
    with pytest.raises(CheckpointError, match="another version|not a run directory|is damaged"):
        trained(tmp_path)


def test_what_a_first_save_left_is_replaced_and_not_put_aside(tmp_path, caplog):
    trained(tmp_path, steps=2)
    (tmp_path / "state" / "step_00000002.json").unlink()
    assert trained(tmp_path) == [1, 2, 3, 4]
    assert not list(tmp_path.glob("damaged*"))
    assert "no checkpoint is whole" not in caplog.text
    assert len(list((tmp_path / "weights").iterdir())) == 2


# Manifests.


@pytest.mark.parametrize(
    "change",
    [
        {"step": "2"},
        {"step": 2.0},
        {"step": True},
        {"step": 3},
        {"pool": [0]},
        {"pool": ["0"]},
        {"pool": 0},
        {"files": {}},
        {"files": []},
        {"files": {"../../elsewhere": {"bytes": 1, "sha256": ""}}},
        {"about": None},
        {"about": "text"},
        {"metrics": None},
        {"metrics": {"bytes": 1}},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_name_its_own_files_is_damaged(tmp_path, change):
    trained(tmp_path)
    (_, manifest) = sorted((tmp_path / "state").glob("*.json"))
    assert Checkpoint.read(manifest).step == 4
    rewrite(manifest, **change)
    with pytest.raises(CheckpointError, match=f"{manifest.name} is damaged"):
        Checkpoint.read(manifest)
    assert Run(tmp_path).step() == 2


def test_a_manifest_of_which_one_digit_was_changed_is_damaged(tmp_path):
    trained(tmp_path)
    (_, manifest) = sorted((tmp_path / "state").glob("*.json"))
    text = manifest.read_text()
    manifest.write_text(text.replace('"beta": 2000', '"beta": 3000'))
    assert manifest.read_text() != text
    with pytest.raises(CheckpointError, match=f"{manifest.name} is damaged"):
        Checkpoint.read(manifest)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
@pytest.mark.parametrize("damage", ["deleted", "cut", "changed"])
def test_a_finished_run_that_is_queued_again_has_its_damaged_files_mended(tmp_path, name, damage):
    trained(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[:-9])
    if damage == "changed":
        path.write_bytes(whole.replace(b"1", b"7", 1))
    assert trained(tmp_path) == []
    assert path.read_bytes() == whole


@pytest.mark.parametrize("trouble", ["the state cannot be read", "the disk is full", "locked"])
def test_a_finished_run_that_cannot_be_mended_is_left_as_it_was(
    tmp_path, monkeypatch, caplog, trouble
):
    trained(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("torn")
    there = {path: path.read_bytes() for path in tmp_path.rglob("step_*")}
    if trouble == "the state cannot be read":
        real = checkpoint.load_tensors

        def fails(path):
            if path.parent.name == "state":
                raise CheckpointError("an input/output error")
            return real(path)

        monkeypatch.setattr(checkpoint, "load_tensors", fails)
    if trouble == "the disk is full":
        monkeypatch.setattr(checkpoint, "write_json", full)
    with Run(tmp_path).locked() if trouble == "locked" else nullcontext():
        assert trained(tmp_path) == []
    assert "is finished, but could not be mended" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.rglob("step_*")} == there
    assert Run(tmp_path).step() == 4


def test_only_the_newest_two_checkpoints_and_what_they_name_stay(tmp_path):
    trained(tmp_path, steps=7)
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    pool = {f"pool/step_{step:08d}.safetensors" for step in (0, 2, 4, 6)}
    own = {
        f"{name.format(step)}"
        for step in (6, 7)
        for name in (
            "weights/step_{:08d}.safetensors",
            "state/step_{:08d}.safetensors",
            "state/step_{:08d}.json",
        )
    }
    assert names - {"run.lock"} == {"run.json", "run.state", "metrics.jsonl", *pool, *own}


# A disk that does not take what is written.


def full(*args, **settings):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_step_whose_line_did_not_reach_the_disk_is_in_the_checkpoint_all_the_same(
    tmp_path, monkeypatch
):
    steps = started(tmp_path)
    next(steps)
    plain = Path.open

    def torn(self, mode="r", *args, **settings):
        file = plain(self, mode, *args, **settings)
        if mode == "ab":
            with file:
                file.write(b'{"step": 2, "lo')
            full()
        return file

    with monkeypatch.context() as patches:
        patches.setattr(Path, "open", torn)
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written .*No space"):
            next(steps)
    assert Run(tmp_path).step() == 2
    assert trained(tmp_path) == [3, 4]
    assert [line["step"] for line in Run(tmp_path).metrics()] == [1, 2, 3, 4]


def test_a_last_line_that_did_not_reach_the_disk_is_written_with_the_last_checkpoint(
    tmp_path, monkeypatch
):
    """The run is finished then, and nothing would write metrics.jsonl again."""
    steps = started(tmp_path)
    for _ in range(3):
        next(steps)
    plain = Path.open
    with monkeypatch.context() as patches:
        patches.setattr(
            Path,
            "open",
            lambda self, mode="r", *a, **s: (full if mode == "ab" else plain)(self, mode, *a, **s),
        )
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written"):
            next(steps)
    assert trained(tmp_path) == []
    assert [line["step"] for line in Run(tmp_path).metrics()] == [1, 2, 3, 4]


def test_a_run_whose_metrics_are_deleted_while_it_trains_has_them_all_in_its_checkpoint(tmp_path):
    steps = started(tmp_path)
    next(steps)
    (tmp_path / "metrics.jsonl").unlink()
    next(steps)
    steps.close()
    assert [line["step"] for line in Run(tmp_path).state().metrics] == [1, 2]
    assert [line["step"] for line in Run(tmp_path).metrics()] == [1, 2]


def test_a_run_json_that_is_deleted_while_the_run_trains_is_in_its_checkpoint(tmp_path):
    steps = started(tmp_path)
    next(steps)
    (tmp_path / "run.json").unlink()
    next(steps)
    steps.close()
    assert trained(tmp_path) == [3, 4]


def test_a_save_that_fails_leaves_nothing_behind_and_takes_nothing_away(tmp_path, monkeypatch):
    steps = started(tmp_path, steps=6)
    for _ in range(3):
        next(steps)
    before = {path: path.stat().st_size for path in tmp_path.rglob("step_*")}
    with monkeypatch.context() as patches:
        patches.setattr(checkpoint, "write_json", full)
        with pytest.raises(CheckpointError, match="step 4 cannot be saved .*free some space"):
            next(steps)
    assert {path: path.stat().st_size for path in tmp_path.rglob("step_*")} == before
    assert trained(tmp_path, steps=6) == [3, 4, 5, 6]


def test_a_disk_that_holds_other_bytes_than_were_written_is_found_out(tmp_path, monkeypatch):
    steps = started(tmp_path)
    next(steps)
    plain = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: plain(self, data[:-1] + b"?"))
    with pytest.raises(CheckpointError, match="step 2 was not saved: .* was changed"):
        next(steps)
    monkeypatch.undo()
    assert Run(tmp_path).step() == 0
    assert trained(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "module, name", [(ownership, "make_folder"), (checkpoint, "write_json"), (checkpoint, "atomic")]
)
def test_a_run_that_cannot_begin_says_what_to_do(tmp_path, monkeypatch, module, name):
    monkeypatch.setattr(module, name, full)
    with pytest.raises(CheckpointError, match="cannot (be locked|begin) .*free some space"):
        trained(tmp_path / "run")
    monkeypatch.undo()
    assert trained(tmp_path / "run") == [1, 2, 3, 4]


# Stopping.


def test_a_file_called_stop_ends_the_run_after_the_current_step(tmp_path):
    steps = started(tmp_path)
    next(steps)
    (tmp_path / STOP).touch()
    assert list(steps) == []
    assert Run(tmp_path).step() == 1
    assert not (tmp_path / STOP).exists()
    assert trained(tmp_path) == [2, 3, 4]


def test_a_stop_that_was_meant_for_an_earlier_time_stops_nothing(tmp_path):
    (tmp_path / STOP).touch()
    assert trained(tmp_path) == [1, 2, 3, 4]
    assert not (tmp_path / STOP).exists()


# What may change between a run and its continuation.


def settings(config, path="") -> dict[str, object]:
    """Every setting by its path."""
    found = {}
    for field in fields(config):
        value = getattr(config, field.name)
        inner = settings(value, f"{path}{field.name}.") if is_dataclass(value) else {}
        found |= inner or {path + field.name: value}
    return found


def about(config) -> dict:
    return {"base": "b", "conditions": "", "dataset": "d", "initial": None, "config": config}


def with_changed(config: dict, path: str) -> dict:
    """The configuration as JSON, with another value at `path`; whether it is allowed does not matter here."""
    changed = json.loads(json.dumps(config))
    *sections, name = path.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[name] = f"not {place[name]!r}"
    if path == "steps":
        place[name] = config["steps"] + 1
    return changed


FREE = {
    "steps",
    "optimizer.learning_rate",
    *("run.directory", "run.checkpoint_every", "run.preview_every", "run.held_out_every"),
    "run.initial_weights",
}
"""Written out, so that a setting becomes free by decision and not by accident."""


@pytest.mark.parametrize("path", settings(CONFIG))
def test_every_setting_may_change_or_is_refused_by_its_name(path):
    before = json.loads(json.dumps(asdict(CONFIG)))
    found = differences(about(before), about(with_changed(before, path)), step=2)
    assert found == ([] if path in FREE else [path])


def test_the_settings_that_may_change_are_settings():
    assert set(RESUMABLE) == FREE <= set(settings(CONFIG))


def test_steps_may_not_change_where_they_stretch_the_schedule():
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, schedule="cosine"))
    before = json.loads(json.dumps(asdict(config)))
    changed = with_changed(before, "steps")
    assert differences(about(before), about(changed), step=2) == ["steps"]


@pytest.mark.parametrize("part", ["base", "conditions", "dataset", "initial"])
def test_another_model_or_dataset_is_refused_by_its_name(part):
    before = about(asdict(CONFIG))
    assert differences(before, before | {part: "another"}, step=2) == [part]


@pytest.mark.parametrize("beta", [LossConfig().beta, 1.0])
def test_a_setting_that_an_older_run_did_not_have_was_as_its_default(beta):
    now = asdict(replace(CONFIG, loss=replace(CONFIG.loss, beta=beta)))
    before = json.loads(json.dumps(now))
    del before["loss"]["beta"]
    found = differences(about(before), about(now), step=2)
    assert found == ([] if beta == LossConfig().beta else ["loss.beta"])


def test_the_same_graph_again_finds_its_run_and_a_changed_one_gets_a_directory_of_its_own(tmp_path):
    trained(tmp_path / "run")
    same = Run(tmp_path / "run").about()
    assert choose_directory(tmp_path, "run", same) == tmp_path / "run"
    changed = same | {"config": with_changed(same["config"], "seed")}
    assert choose_directory(tmp_path, "run", changed) == tmp_path / "run_00002"
    fewer = same | {"config": same["config"] | {"steps": 3}}
    assert choose_directory(tmp_path, "run", fewer) == tmp_path / "run_00002"


def test_a_run_of_another_version_is_left_as_it_is_and_a_numbered_one_begun(tmp_path):
    (tmp_path / "run").mkdir()
    old = '{"format": 1, "config": {}}'
    (tmp_path / "run" / "run.json").write_text(old)
    about = {"config": {"steps": 4}}
    assert choose_directory(tmp_path, "run", about) == tmp_path / "run_00002"
    assert (tmp_path / "run" / "run.json").read_text() == old
