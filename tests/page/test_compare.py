"""Base and aligned under a slider."""

from __future__ import annotations

import itertools

from graphs import node

SEEDS = itertools.count()
"""Another one for each graph: what the host has cached is not shown again."""


def graph(checkpoint: str) -> dict:
    """A model compared with itself: what counts here is what the page makes of the pictures."""
    return {
        "base": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "compare": node(
            "SePPOCompare",
            model=["base", 0],
            aligned=["base", 0],
            clip=["base", 1],
            vae=["base", 2],
            prompts="a crimson disc\na green disc",
            first_seed=next(SEEDS),
            seeds=1,
            steps=1,
            cfg=1.0,
            width=64,
            height=64,
        ),
    }


def test_pairs_are_shown_one_after_the_other_under_a_slider(open_page, checkpoint, light):
    page = open_page(light=light)
    page.load(graph(checkpoint))
    page.look_at("SePPOCompare")
    page.queue()
    page.wait_for(
        """() => {
            const images = [...document.querySelectorAll("[data-testid=pairs] img")];
            return images.length === 2 && images.every((image) => image.naturalWidth === 64);
        }"""
    )
    words = page.by("pair-words")
    assert "a crimson disc" in words.inner_text()
    page.by("pair-slider").fill("20")
    assert (
        page.ask("() => document.querySelector('.seppo-over').style.clipPath")
        == "inset(0px 0px 0px 20%)"
    )
    first = page.ask("() => document.querySelector('[data-testid=pairs] img').src")
    page.by("pair-select").select_option("1")
    assert "a green disc" in words.inner_text()
    assert page.ask("() => document.querySelector('[data-testid=pairs] img').src") != first
    assert page.is_legible()
    page.shot(f"compare_{'light' if light else 'dark'}")
