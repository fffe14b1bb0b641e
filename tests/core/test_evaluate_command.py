"""`seppo evaluate` on folders of drawn pictures and small CLIPs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from statistics import fmean

import pytest
from scorers import HEAD, make_clip, make_head, make_open_clip, picture, write_words

from seppo_core.__main__ import main

# It takes seconds to import: only tests that run wait for it.
pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")

CAPTIONS = ("a red fox", "two birds", "a boat")


def draw(folder, seed, captions=CAPTIONS, suffix=".png"):
    folder.mkdir()
    for index, caption in enumerate(captions):
        picture(seed + index).save(folder / f"{index}{suffix}")
        if caption:
            (folder / f"{index}.txt").write_text(caption)
    return folder


@pytest.fixture
def arguments(tmp_path):
    make_clip(tmp_path / "clip", seed=2)
    pictures = draw(tmp_path / "before", 0)
    scorer = f"pickscore={tmp_path / 'clip'}"
    cache = str(tmp_path / "cache")
    return ["evaluate", str(pictures), "--scorer", scorer, "--cache", cache, "--device", "cpu"]


def test_scores_are_told_and_saved_under_the_pictures_names(arguments, tmp_path, capsys):
    assert main([*arguments, "--save", str(tmp_path / "scores.json")]) == 0
    results = json.loads((tmp_path / "scores.json").read_text())
    values = [value for (value,) in results["pickscore"].values()]
    assert sorted(results["pickscore"]) == ["0.png", "1.png", "2.png"]
    assert f"pickscore: mean {fmean(values):.4g} of 3 pictures" in capsys.readouterr().out


def test_two_folders_are_compared_by_name(arguments, tmp_path, capsys):
    draw(tmp_path / "after", 50, suffix=".webp")
    path = tmp_path / "scores.json"
    assert main([*arguments, "--against", str(tmp_path / "after"), "--save", str(path)]) == 0
    pairs = list(json.loads(path.read_text())["pickscore"].values())
    wins = sum(before > after for before, after in pairs)
    out = capsys.readouterr().out
    assert f"pickscore: before wins {wins / 3:.1%} of 3 pairs" in out
    assert f"mean difference {fmean(a - b for a, b in pairs):+.4g} " in out


def test_the_same_pictures_tie(arguments, tmp_path, capsys):
    draw(tmp_path / "same", 0)
    assert main([*arguments, "--against", str(tmp_path / "same")]) == 0
    assert "wins 50.0% of 3 pairs" in capsys.readouterr().out


def test_pictures_without_a_partner_are_named(arguments, tmp_path, capsys):
    draw(tmp_path / "after", 50, CAPTIONS[:2])
    assert main([*arguments, "--against", str(tmp_path / "after")]) == 2
    assert "1 of 3 pictures have no partner there (first: 2)" in capsys.readouterr().err


def test_several_scorers_in_one_go(arguments, tmp_path, capsys):
    make_open_clip(tmp_path / "hps")
    make_clip(tmp_path / "aesthetic", words=False)
    make_head(tmp_path / "aesthetic" / HEAD)
    more = [f"--scorer=hpsv2.1={tmp_path / 'hps'}", f"--scorer=aesthetic={tmp_path / 'aesthetic'}"]
    assert main([*arguments, *more]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: mean " in out for name in ("pickscore", "hpsv2.1", "aesthetic"))


def test_pictures_need_captions_only_for_scorers_that_read_them(tmp_path, capsys):
    pictures = draw(tmp_path / "bare", 0, ("", ""))
    make_clip(tmp_path / "model", words=False)
    make_head(tmp_path / "model" / HEAD)
    common = ["evaluate", str(pictures), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert main([*common, f"--scorer=aesthetic={tmp_path / 'model'}"]) == 0
    write_words(tmp_path / "model")
    assert main([*common, f"--scorer=clip={tmp_path / 'model'}"]) == 2
    assert "no caption" in capsys.readouterr().err
    assert main([*common, f"--scorer=clip={tmp_path / 'model'}", "--caption", "a fox"]) == 0


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("fid", "unknown scorer 'fid'"),
        ("clip", "there is no model.safetensors in"),
        ("clip=hub:x", "write owner and name"),
        ("clip=/no/such/folder", "Get config.json, model.safetensors and tokenizer.json of openai"),
    ],
)
def test_wrong_scorers_are_one_clear_error(
    arguments, capsys, monkeypatch, tmp_path, scorer, message
):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--scorer", scorer]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
