"""What SePPOTrain refuses: one clear error each, before the model is moved or anything is written."""

from __future__ import annotations

import pytest
import torch
from inprocess import GraphError
from thin import thin_conditioning, thin_latent
from training import graph

BAD = {
    "steps": ({"train": {"steps": 0}}, "smaller than min"),
    "rank": ({"train": {"rank": 0}}, "smaller than min"),
    "beta": ({"train": {"beta": 0.0}}, "smaller than min"),
    "criterion": ({"train": {"criterion": "coin"}}, "coin"),
    "sampler": ({"references": {"sampler": "magic"}}, "magic"),
    "prodigy": ({"optimizer": {"optimizer": "prodigy"}}, "finds its own rate"),
    "pattern": ({"optimizer": {"pattern": "nothing"}}, "matches no layer"),
    "regex": ({"optimizer": {"pattern": "("}}, "lora.pattern"),
    "dpo": ({"train": {"preset": "dpo"}}, "losing image for every winner"),
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_a_wrong_setting_is_one_clear_error_before_any_work(host, monkeypatch, what):
    import comfy.model_management as management

    settings, message = BAD[what]
    prompt = graph(host, "sd15", f"bad_{what}", **settings)

    def no_loading(*args, **kwargs):
        raise AssertionError("the model was moved")

    monkeypatch.setattr(management, "load_models_gpu", no_loading)
    with pytest.raises(GraphError, match=message):
        host.run_graph(prompt)
    assert not (host.output / "seppo" / f"bad_{what}").exists()


def bad_datasets(host):
    core = host.core("data")
    shape = thin_latent("sd15", size=8)["samples"][0]
    cond = thin_conditioning("sd15")
    wide = thin_conditioning("sdxl")
    return {
        "channels": ([core.Example(torch.zeros(16, 8, 8), cond)], "do not fit"),
        "frames": ([core.Example(torch.zeros(4, 2, 8, 8), cond)], "do not fit"),
        "nan": ([core.Example(shape * float("nan"), cond)], "NaN"),
        "text": ([core.Example(shape, wide)], "wide"),
        "two texts": ([core.Example(shape, cond + cond)], "winner 0"),
    }


@pytest.mark.parametrize("what", ["channels", "frames", "nan", "text", "two texts"])
def test_a_dataset_that_does_not_fit_is_named_before_any_work(host, monkeypatch, what):
    import comfy.model_management as management

    def no_loading(*args, **kwargs):
        raise AssertionError("the model was moved")

    examples, message = bad_datasets(host)[what]
    data = host.constant(host.core("data").in_memory(examples))
    prompt = graph(host, "sd15", "bad_data", dataset=data)
    monkeypatch.setattr(management, "load_models_gpu", no_loading)
    with pytest.raises(GraphError, match=message):
        host.run_graph(prompt, wanted=["train"])
    assert not (host.output / "seppo" / "bad_data").exists()


@pytest.mark.parametrize("name", ["", "..", ".cache", "a/b", "../out", "C:\\x", "a\0b", "/tmp/x"])
def test_a_run_name_is_a_plain_name(host, name):
    with pytest.raises(GraphError, match="run_name"):
        host.run_graph(graph(host, "sd3", name), wanted=["train"])


def test_a_linked_run_name_is_taken_and_checked_when_the_graph_runs(host):
    prompt = graph(host, "sd3", "", train={"steps": 1}, run_name=host.constant("linked_run"))
    assert host.run_graph(prompt, wanted=["train"])["train"][3].name == "linked_run"
    prompt = graph(host, "sd3", "", run_name=host.constant("../out"))
    with pytest.raises(GraphError, match="not a usable name"):
        host.run_graph(prompt, wanted=["train"])


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("what", ["a file", "no permission"])
def test_an_unwritable_run_directory_is_refused_before_any_work(host, monkeypatch, what):
    import comfy.model_management as management

    def no_loading(*args, **kwargs):
        raise AssertionError("the model was moved")

    runs = host.output / "seppo"
    runs.mkdir(exist_ok=True)
    if what == "a file":
        (runs / "taken").write_text("where the run should be")
    else:  # patched, since root may write anywhere
        monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(runs)))
    monkeypatch.setattr(management, "load_models_gpu", no_loading)
    before = files_below(host.output)
    with pytest.raises(GraphError, match="taken: cannot be written"):
        host.run_graph(graph(host, "sd3", "taken"), wanted=["train"])
    assert files_below(host.output) == before
    (runs / "taken").unlink(missing_ok=True)
