"""Fixtures of a real ComfyUI: one in this process, one as a server. Without a host every file is skipped.

scripts/run_tests.py runs these tests once per host, inside that host's test environment, with
SEPPO_TEST_HOST naming its folder. Test files import ComfyUI's modules inside tests and fixtures only:
the `host` fixture has to start it first.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from folders import draw
from inprocess import InProcessHost, prepare_base, start, version_at
from over_http import HttpHost
from thin import kinds, random_weights

HOST_PATH = os.environ.get("SEPPO_TEST_HOST")
REASON = (
    "needs a ComfyUI: put one at ~/comfy/ComfyUI or name it in COMFYUI_PATH, then "
    "run `python scripts/run_tests.py`"
)


ON_THE_NEWEST = {
    "test_faults.py",
    "test_held_out.py",
    "test_queue.py",
    "test_rounding.py",
    "test_states_http.py",
    "test_stopped_runs.py",
    "test_test_prompts.py",
}
"""What older hosts run only if the tests are to be thorough: nothing in it depends on the release."""


def pytest_itemcollected(item):
    if os.environ.get("SEPPO_OLDER_HOST") and item.path.name in ON_THE_NEWEST:
        item.add_marker(pytest.mark.thorough)


class SkippedFile(pytest.Module):
    def collect(self):
        pytest.skip(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent):
    return None if HOST_PATH else SkippedFile.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """The base directory both hosts share: input, output, models, and the pack in custom_nodes."""
    return prepare_base(tmp_path_factory.mktemp("host").resolve())


@pytest.fixture(scope="session")
def host(base) -> InProcessHost:
    """The host started in this process, with the pack loaded from `seppo-for.comfyui`."""
    return start(Path(HOST_PATH), base)


@pytest.fixture(autouse=True)
def forgetful(request):
    """The host forgets what this test gave it and made with it; what wider fixtures gave it stays."""
    if "host" not in request.fixturenames:
        yield
        return
    host = request.getfixturevalue("host")
    before = dict(host.constants)
    yield
    host.constants.clear()
    host.constants.update(before)
    host.executor = None


@pytest.fixture(scope="session")
def checkpoint(host) -> str:
    """Name of a whole SD1.5 checkpoint for CheckpointLoaderSimple: thin UNet, CLIP-L and TAESD."""
    return host.thin_checkpoint()


@pytest.fixture(scope="session")
def http_host(host, checkpoint):
    """The host as a server of its own on a free port; it shares base directory and models."""
    server = HttpHost.start(Path(HOST_PATH), host.base)
    yield server
    server.stop()


LARGE = {"sdxl", "sdxl_v"}
"""Architectures whose thin form is large; SD 1.5 has the same blocks."""


def pytest_generate_tests(metafunc):
    """A test that takes `kind` runs for every architecture this host release can load, LARGE ones if it is thorough."""
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if (
        "kind" in metafunc.fixturenames
        and HOST_PATH
        and not any("kind" in names for names in chosen)
    ):
        marks = {kind: [pytest.mark.thorough] for kind in LARGE}
        every = kinds(version_at(Path(HOST_PATH)))
        metafunc.parametrize("kind", [pytest.param(k, marks=marks.get(k, [])) for k in every])


@pytest.fixture
def folder(host, tmp_path_factory) -> Path:
    """A fresh folder in the host's input with two captioned pictures."""
    path = host.base / "input" / tmp_path_factory.mktemp("winners").name
    draw(path / "a.png", "a fox", seed=1)
    draw(path / "b.png", "a red bird", seed=2)
    return path


@pytest.fixture
def own_cache(host, monkeypatch, tmp_path) -> Path:
    """The cache of a test that begins with nothing encoded."""
    monkeypatch.setattr(host.module("nodes.host"), "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def video_vae(host, monkeypatch):
    """A Wan VAE of random weights, thin enough to encode quickly."""
    import comfy.ldm.wan.vae
    import comfy.sd

    full = comfy.ldm.wan.vae.WanVAE  # 0.3.64 always builds it 96 channels wide
    thin = lambda **config: full(**(config | {"dim": 8}))  # noqa: E731
    monkeypatch.setattr(comfy.ldm.wan.vae, "WanVAE", thin)
    shape = {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    network = thin(**shape, temperal_downsample=[False, True, True], dropout=0.0)
    return comfy.sd.VAE(sd=random_weights(network, 0))
