"""The set-up's decisions: which hosts, which torch, what counts as a failed test run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import hosts
import run_tests
import venvs


def make_host(folder: Path, version: str, requirements: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', "utf-8")
    (folder / "requirements.txt").write_text(requirements, "utf-8")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(hosts, "ROOT", tmp_path / "pack")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def test_hosts_below_home_come_oldest_release_first(home):
    make_host(home / "comfy" / "ComfyUI", "0.33.0")
    make_host(home / "comfy" / "ComfyUI-old", "0.3.64")
    (home / "comfy" / "ComfyUI-half").mkdir()
    assert [host.version for host in hosts.find_hosts()] == ["0.3.64", "0.33.0"]


def test_named_hosts_hide_those_below_home(home, monkeypatch):
    make_host(home / "comfy" / "ComfyUI", "0.33.0")
    one, two = make_host(home / "a", "0.4.0"), make_host(home / "b", "0.5.0")
    monkeypatch.setenv("COMFYUI_PATH", f"{two}{os.pathsep}{one}")
    assert [host.path for host in hosts.find_hosts()] == [one, two]


def test_named_host_that_is_not_there_is_an_error(home, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(home / "nowhere"))
    with pytest.raises(venvs.SetupError, match=r"COMFYUI_PATH names .*nowhere.*no main.py"):
        hosts.find_hosts()


def test_pack_inside_custom_nodes_finds_the_host_around_it(home, monkeypatch):
    make_host(home / "comfy" / "ComfyUI", "0.33.0")
    around = make_host(home / "portable", "0.7.1")
    monkeypatch.setattr(hosts, "ROOT", around / "custom_nodes" / "seppo")
    assert hosts.find_hosts() == [hosts.Host(around, "0.7.1")]


def test_host_requirements_leave_out_the_torch_family_and_comments(home):
    text = "torch\ntorchsde\n# a word\ntorchvision>=0.2\nkornia>=0.7.1 # why\n\ntorchaudio\n"
    host = make_host(home / "h", "1.0.0", text)
    (home / "pack").mkdir()
    (home / "pack" / "requirements.txt").write_text("matplotlib\n", "utf-8")
    wanted = hosts.requirements_of(hosts.Host(host, "1.0.0"))
    assert wanted == ["torchsde", "kornia>=0.7.1", "matplotlib"]


@pytest.mark.parametrize(
    ("platform", "gpu", "ways"),
    [
        ("linux", False, ["pip_cpu_build", "uv_cpu_build", "plain_pip"]),
        ("linux", True, ["uv_gpu_build", "plain_pip"]),
        ("win32", True, ["uv_gpu_build", "plain_pip"]),
        ("win32", False, ["plain_pip"]),
        ("darwin", False, ["plain_pip"]),
    ],
)
def test_torch_is_sought_in_the_order_that_suits_the_machine(monkeypatch, platform, gpu, ways):
    monkeypatch.setattr(venvs.sys, "platform", platform)
    monkeypatch.setattr(venvs, "has_gpu", lambda: gpu)
    assert [attempt.__name__ for attempt in venvs.torch_attempts().values()] == ways


JUNIT = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="3"/></testsuites>'


def test_errors_count_as_failures_in_the_sum(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(JUNIT, "utf-8")
    part = run_tests.counted("core", report, 1)
    assert (part.passed, part.failed, part.skipped) == (4, 2, 3)


def test_run_that_collects_nothing_fails_but_one_that_skips_every_file_does_not(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(re.sub(r"\d", "0", JUNIT), "utf-8")
    part = run_tests.counted("host", report, 5)
    assert (part.passed, part.failed, part.trouble) == (0, 1, "collected no test")
    report.write_text(JUNIT.replace("9", "3").replace("1", "0"), "utf-8")
    part = run_tests.counted("host", report, 5)
    assert (part.passed, part.failed, part.skipped, part.trouble) == (0, 0, 3, "")


def test_run_that_breaks_without_a_failed_test_fails(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(JUNIT.replace("1", "0"), "utf-8")
    assert run_tests.counted("host", report, 3).failed == 1
    assert run_tests.counted("host", tmp_path / "none.xml", -9).failed == 1
    assert run_tests.counted("host", report, 0).failed == 0


def test_the_long_forms_are_those_of_the_files_that_have_one():
    assert run_tests.tests_in("tests/core", long=False) == ["tests/core"]
    assert "tests/core/test_fuzz_pictures.py" in run_tests.tests_in("tests/core", long=True)
    assert "tests/core/test_loss.py" not in run_tests.tests_in("tests/core", long=True)
    long = run_tests.tests_in("tests/reliability", long=True)
    assert {"tests/reliability/test_kills.py", "tests/reliability/test_disk.py"} <= set(long)


@pytest.mark.parametrize("folder", ["tests/hosts", "tests/page"])
def test_without_a_host_its_tests_skip_and_say_so(folder, monkeypatch, capsys):
    """In an environment that need not have the browser's driver either."""
    monkeypatch.delenv("SEPPO_TEST_HOST", raising=False)
    here = venvs.Venv(Path(sys.prefix))
    part = run_tests.pytest("nowhere", here, [folder], ["-q", "-p", "no:cacheprovider"])
    said = capsys.readouterr().out
    assert (part.passed, part.failed, part.trouble) == (0, 0, ""), said
    assert part.skipped > 5
    assert "needs a ComfyUI: put one at ~/comfy/ComfyUI or name it in COMFYUI_PATH" in said
