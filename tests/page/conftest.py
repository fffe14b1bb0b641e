"""Fixtures of the host's page in a real browser. Apart from tests/hosts, for Playwright keeps an event loop of its own.

scripts/run_tests.py runs these tests once per host, inside that host's test environment, with SEPPO_TEST_HOST naming its
folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from folders import sets_of
from inprocess import prepare_base
from over_http import HttpHost
from pages import HOST_PATH, IS_NEW, SCREENSHOTS, chromium, find_browser, page_of

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
WRITE_CHECKPOINT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import inprocess
print(inprocess.start(Path(sys.argv[2]), Path(sys.argv[3])).thin_checkpoint())
"""


ON_EACH = {"test_loads.py", "test_refusals.py"}
"""What runs at the page of an older host, too, if the tests need not be thorough."""


IN_BOTH = ON_EACH | {"test_panels.py"}
"""What runs in both renderers of a host that has two; other pages are tried in the new one, if not to be thorough."""


def pytest_itemcollected(item):
    older = os.environ.get("SEPPO_OLDER_HOST") and item.path.name not in ON_EACH
    vue = getattr(item, "callspec", None) and item.callspec.params.get("vue")
    in_the_old = vue is False and IS_NEW and item.path.name not in IN_BOTH
    if older or in_the_old:
        item.add_marker(pytest.mark.thorough)


def pytest_collection_modifyitems(items):
    missing = (
        "needs a ComfyUI: put one at ~/comfy/ComfyUI or name it in COMFYUI_PATH"
        if not HOST_PATH
        else "needs Chromium: install it, or name it in SEPPO_CHROMIUM"
        if find_browser() is None
        else ""
    )
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """The host's base directory, with the pack in custom_nodes."""
    return prepare_base(tmp_path_factory.mktemp("host").resolve())


@pytest.fixture
def sets(base) -> Iterator[Path]:
    """The folder of all sets; it is emptied after each test."""
    with sets_of(base) as folder:
        yield folder


@pytest.fixture(scope="session")
def checkpoint(base) -> str:
    """Name of a whole SD1.5 checkpoint for CheckpointLoaderSimple, written by a host of its own."""
    command = [sys.executable, "-c", WRITE_CHECKPOINT, HOSTS, HOST_PATH, base]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture(scope="session")
def server(base, checkpoint):
    """The host as a server on a free port."""
    started = HttpHost.start(Path(HOST_PATH), base)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(params=[False, True], ids=["canvas", "vue"])
def vue(request) -> bool:
    """Both of the host's renderers of nodes."""
    if request.param and not IS_NEW:
        pytest.skip("the new renderer of this release takes no widgets of packs")
    return request.param


@pytest.fixture(
    params=[False, pytest.param(True, marks=pytest.mark.thorough)], ids=["dark", "light"]
)
def light(request) -> bool:
    """Both themes, for tests that ask for them."""
    return request.param


@pytest.fixture
def open_page(browser, server, vue, tmp_path, request):
    """Open a page: `open_page(light=False)`; it is closed at the end, and must have had no error of the pack."""
    folder = Path(os.environ.get(SCREENSHOTS) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield lambda light=False: stack.enter_context(
            page_of(browser, server, folder, request.node.name, vue, light)
        ).open()
