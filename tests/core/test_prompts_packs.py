"""Prompts of pictures that popular node packs made: what is linked and what is drawn decides, not names."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from seppo_core.data.generation import NoPromptError
from seppo_core.data.prompts import read_generation

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[1] / "scripts")]
from pack_passes import CASES  # noqa: E402


def picture(graph) -> io.BytesIO:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(graph))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prompt_of(case):
    if case.prompt is None:
        with pytest.raises(NoPromptError):
            read_generation(picture(case.graph), "ComfyUI_00001_.png")
        return
    found = read_generation(picture(case.graph), "ComfyUI_00001_.png")
    assert (found.prompt, found.negative) == (case.prompt, case.negative)


def test_page_counts_the_graphs_that_are_tried_here():
    from real_data import COMPARED

    silent = sum(case.prompt is None for case in CASES)
    assert f"| seppo | {len(CASES) - silent} | 0 | 0 | {silent} |" in COMPARED
