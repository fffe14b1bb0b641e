"""What the user chose in the page's settings holds on the server: where runs lie, and how often they show a picture."""

from __future__ import annotations

import json
import os
import threading

import pytest
from inprocess import GraphError
from runs import config_of
from training import graph

KIND = "sd15"


@pytest.fixture
def choose(host):
    """Write the host's settings as its page does: `choose(**{"SePPO.Runs.folder": "mine"})`."""
    file = host.base / "user" / "default" / "comfy.settings.json"
    before = file.read_text("utf-8") if file.is_file() else None

    def write(**settings) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), "utf-8")

    yield write
    file.unlink(missing_ok=True)
    if before is not None:
        file.write_text(before, "utf-8")


def folder(name: str) -> dict[str, str]:
    return {"SePPO.Runs.folder": name}


def trained(host, name, **changes):
    return host.run_graph(graph(host, KIND, name, **changes))["train"][3]


def test_new_runs_lie_in_the_chosen_folder_and_earlier_ones_are_still_found(host, choose):
    choose()
    first = trained(host, "kept_early")
    choose(**folder("other place"))
    second = trained(host, "made_later")
    assert first.directory == (host.output / "seppo" / "kept_early").resolve()
    assert second.directory == (host.output / "other place" / "made_later").resolve()
    for run in (first, second):
        (found,) = host.call("SePPOLoadRun", run_name=run.name)
        assert found.directory == run.directory
    assert {"kept_early", "made_later"} <= set(host.module("nodes.host").run_names())
    choose()
    (found,) = host.call("SePPOLoadRun", run_name="made_later")
    assert found.directory == second.directory


def test_a_run_goes_on_where_it_lies_and_other_settings_make_one_in_the_new_folder(host, choose):
    choose()
    begun = trained(host, "goes_on_there", train={"steps": 2})
    choose(**folder("elsewhere"))
    continued = trained(host, "goes_on_there", train={"steps": 3})
    assert continued.directory == begun.directory and continued.step() == 3
    other = trained(host, "goes_on_there", train={"steps": 2, "rank": 2})
    assert other.directory == (host.output / "elsewhere" / "goes_on_there").resolve()


@pytest.mark.parametrize("name", ["../out", "/tmp", "a/b", "..", "CON", 7.5, ["x"], "x" * 300])
def test_a_folder_that_is_no_plain_name_is_refused_before_training(host, choose, name):
    module = host.module("nodes.host")
    choose(**folder(name))
    with pytest.raises(host.core("errors").ConfigError, match="Settings > SePPO > Run folder"):
        module.runs_root()
    with pytest.raises(GraphError, match="Run folder"):
        host.run_graph(graph(host, KIND, "never"))


def test_an_empty_folder_is_the_default(host, choose):
    choose(**folder(""))
    assert host.module("nodes.host").runs_root() == host.output / "seppo"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_runs_behind_a_link_out_of_the_output_are_not_taken(host, choose, tmp_path):
    choose()
    away = tmp_path / "away" / "hidden"
    away.mkdir(parents=True)
    (away / "run.json").write_text("{}")
    link = host.output / "link_out"
    link.symlink_to(away.parent, target_is_directory=True)
    try:
        module = host.module("nodes.host")
        assert "hidden" not in module.run_names()
        assert module.run_directory("hidden") == (host.output / "seppo" / "hidden").resolve()
        choose(**folder("link_out"))
        with pytest.raises(host.core("errors").ConfigError, match="inside"):
            module.runs_root()
    finally:
        link.unlink()


def test_encoded_winners_stay_where_they_are_whatever_folder_runs_have(host, choose):
    choose(**folder("other place"))
    assert host.module("nodes.host").cache_root() == host.output / "seppo" / ".cache"


def test_preview_interval_holds_where_no_optimizer_settings_are_connected(host, choose):
    choose(**{"SePPO.Runs.preview_every": 3})
    prompt = graph(host, KIND, "own_interval")
    del prompt["train"]["inputs"]["optimizer"]
    assert config_of(host, host.run_graph(prompt)["train"][3]).run.preview_every == 3
    connected = trained(host, "connected_interval", optimizer={"preview_every": 2})
    assert config_of(host, connected).run.preview_every == 2


def test_settings_that_are_being_written_are_waited_for(host, choose):
    choose(**folder("written"))
    module = host.module("nodes.user_settings")
    file = module.settings_file()
    whole = file.read_text("utf-8")
    file.write_text("", "utf-8")
    writer = threading.Timer(module.PAUSE, lambda: file.write_text(whole, "utf-8"))
    writer.start()
    assert module.chosen(module.RUN_FOLDER, "seppo") == "written"
    writer.join()


def test_damaged_settings_stop_a_run_instead_of_moving_it(host, choose):
    choose()
    module = host.module("nodes.user_settings")
    module.settings_file().write_text("[", "utf-8")
    with pytest.raises(host.core("errors").ConfigError, match="repair or remove"):
        module.chosen(module.RUN_FOLDER, "seppo")
