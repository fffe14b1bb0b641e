"""The run panel, as tests wait for what it shows."""

from __future__ import annotations


def panel(page):
    return page.by("run-panel")


def until_state(page, state: str) -> None:
    page.wait_for(
        "state => document.querySelector('[data-testid=run-panel] [data-testid=run-state]')"
        "?.dataset.state === state",
        state,
    )


def until_step(page, step: int) -> None:
    page.wait_for(
        "step => Number(document.querySelector('[data-testid=run-panel] [data-testid=run-state]')"
        "?.dataset.step) >= step",
        step,
    )


def until_pictures(page, testid: str, count: int) -> None:
    """Wait for so many loaded pictures below an element of the panel."""
    page.wait_for(
        """([testid, count]) => [...document.querySelectorAll(`[data-testid=run-panel] [data-testid=${testid}] img`)]
            .filter((image) => image.complete && image.naturalWidth > 0).length >= count""",
        [testid, count],
    )


def points(page, chart: str) -> int:
    return int(panel(page).locator(f"[data-testid='chart-{chart}']").get_attribute("data-points"))
