"""Makes the helper modules that lie beside the tests importable, without putting the pack's root on sys.path."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [
    str(Path(__file__).parent / folder) for folder in ("core", "hosts", "page", "reliability")
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: left to `make test-all`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `thorough` run with SEPPO_TESTS=all, or where one is named by its file and `::`."""
    if os.environ.get("SEPPO_TESTS") == "all" or any("::" in arg for arg in config.args):
        return
    left = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left)


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests counted with `record_property`, summed up: a line each."""
    counts: dict[str, int] = {}
    reports = (report for some in terminalreporter.stats.values() for report in some)
    for report in reports:
        pairs = report.user_properties if getattr(report, "when", "") == "call" else ()
        for name, value in pairs:
            if isinstance(value, int):
                counts[name] = counts.get(name, 0) + value
    for name, count in sorted(counts.items()):
        terminalreporter.write_line(f"{name}: {count:,}")
