"""Makes the helper modules that lie beside the tests importable, without putting the pack's root on sys.path."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("core", "hosts", "reliability")]


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests counted with `record_property`, summed up: a line each."""
    counts: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for name, value in (
            pair for report in reports for pair in getattr(report, "user_properties", ())
        ):
            if isinstance(value, int):
                counts[name] = counts.get(name, 0) + value
    for name, count in sorted(counts.items()):
        terminalreporter.write_line(f"{name}: {count:,}")
