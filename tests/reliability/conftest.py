"""What the reliability tests counted is told at the end of the test run."""

import pytest

TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request):
    """Takes lines for the end of the test run."""
    return request.config.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(line)
