"""Set up, lint, and run the tests: `python scripts/run_tests.py [--all | --long]`.

Core and reliability tests run in `.venv`; tests of the host and of its page run once per ComfyUI found, inside that host's
test environment. Tests marked `thorough` wait for `--all`; `--long` runs the tests alone that have a long form, in that form.
The last line sums up: `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from hosts import find_hosts, host_python
from setup_env import ROOT, setup
from venvs import SetupError, Venv

NO_TESTS_COLLECTED = 5

LINTERS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports", "--no-cache"),
)

LONG_FORM = ("SEPPO_RELIABILITY", "from fuzzing import", "from processes import LONG")
"""What a test file says that has a long form."""


@dataclass(frozen=True)
class Part:
    """What one test process or check came to."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    trouble: str = ""
    """Why the part fails although no test did; empty if it does not."""

    def __str__(self) -> str:
        counts = f"{self.passed} ran well, {self.failed} badly, {self.skipped} not at all"
        return f"{self.name}: {self.trouble or counts}"


def counted(name: str, report: Path, status: int) -> Part:
    """Read pytest's report; a process that broke before writing one counts as one failure.

    Where every file is skipped as a whole pytest says that it collected no test, which is well.
    """
    if not report.is_file():
        return Part(name, failed=1, trouble=f"pytest ended with status {status} and no report")
    suite = ElementTree.parse(report).getroot().find("testsuite")
    ran, failures, errors, skipped = (
        int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")
    )
    if status == NO_TESTS_COLLECTED and not skipped:
        return Part(name, failed=1, trouble="collected no test")
    failed = failures + errors
    broken = status not in (0, NO_TESTS_COLLECTED) and not failed
    return Part(
        name,
        passed=ran - failed - skipped,
        failed=failed or int(bool(broken)),
        skipped=skipped,
        trouble=f"pytest ended with status {status}" if broken else "",
    )


def pytest(name: str, venv: Venv, paths: list[str], extra: list[str], **environment: str) -> Part:
    """One test process; its output is printed as a whole when it ends, for several run at once."""
    print(f"== {name}: started", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [
            *(venv.script("pytest"), *paths, f"--junitxml={report}"),
            *("--durations=10", "--durations-min=1", *extra),
        ]
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | threads | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = done.stdout.decode(errors="replace")
        print(f"\n== {name}\n{output}", flush=True)
        return counted(name, report, done.returncode)


def linted(venv: Venv, tool: str, *arguments: str) -> Part:
    name = " ".join((tool, *arguments))
    print(f"\n== {name}", flush=True)
    status = subprocess.run([venv.script(tool), *arguments], cwd=ROOT).returncode
    return Part(
        name, trouble="found something" if status else "clean", failed=0 if not status else 1
    )


def tests_in(folder: str, long: bool) -> list[str]:
    """The folder, or its files that have a long form."""
    if not long:
        return [folder]
    files = sorted((ROOT / folder).glob("test_*.py"))
    return [
        path.relative_to(ROOT).as_posix()
        for path in files
        if any(words in path.read_text("utf-8") for words in LONG_FORM)
    ]


def test_runs(venv: Venv, extra: list[str], thorough: bool, long: bool) -> list[Callable[[], Part]]:
    """The test processes, those that take longest first: two for each host, the newest first, inside it and at its page;
    the core's, and the reliability tests'."""
    form = {"SEPPO_TESTS": "all"} if thorough or long else {}
    form |= {"SEPPO_RELIABILITY": "long"} if long else {}
    runs = []
    hosts = find_hosts()
    for host, folder in product(hosts[::-1] or [None], ("tests/hosts", "tests/page")):
        tests = tests_in(folder, long)
        if not tests:
            continue
        if host is None:
            runs.append(partial(pytest, f"no ComfyUI found, {folder}", venv, tests, extra))
            continue
        name = f"ComfyUI {host.version} at {host.path}, {folder}"
        where = {"SEPPO_TEST_HOST": str(host.path)}
        if host is not hosts[-1]:  # the newest
            where["SEPPO_OLDER_HOST"] = "1"
        runs.append(partial(pytest, name, host_python(host), tests, extra, **where, **form))
    return runs + [
        partial(pytest, name, venv, tests_in(f"tests/{name}", long), extra, **form)
        for name in ("core", "reliability")
    ]


def main() -> int:
    thorough, long = "--all" in sys.argv, "--long" in sys.argv
    extra = [argument for argument in sys.argv[1:] if argument not in ("--all", "--long")]
    try:
        venv = setup(["dev"])
        parts = [linted(venv, *command) for command in LINTERS]
        runs = test_runs(venv, extra, thorough, long)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts += pool.map(lambda run: run(), runs)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n== summary", *parts, sep="\n")
    passed, failed, skipped = (
        sum(getattr(part, key) for part in parts) for key in ("passed", "failed", "skipped")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
