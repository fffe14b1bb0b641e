"""The run directory: what counts as a run, what a damaged one is taken for, who may write to it."""

import os

import pytest

from seppo_core import files


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
