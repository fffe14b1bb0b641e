"""Prompts of pictures that popular node packs made: what is linked and what is drawn decides, not names."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from seppo_core.data.generation import NoPromptError
from seppo_core.data.prompts import read_generation

sys.path.append(str(Path(__file__).resolve().parent))
from pack_chains import CASES  # noqa: E402


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
