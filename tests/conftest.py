"""Makes the helper modules that lie beside the tests importable, without putting the pack's root on sys.path."""

import sys
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parent / folder) for folder in ("core", "hosts", "page", "reliability")
]


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
