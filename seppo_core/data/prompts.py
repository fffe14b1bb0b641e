"""The prompt that a picture or clip carries within its own file."""

import json
from typing import BinaryIO

from .embedded import embedded_texts
from .generation import Generation, NoPromptError
from .graphs import generation_of


def read_generation(file: BinaryIO, name: str) -> Generation:
    """How the picture or clip in `file`, called `name`, was generated. NoPromptError says why it tells nothing."""
    texts = embedded_texts(file)
    if "prompt" not in texts:
        raise NoPromptError("it carries no text of a program that makes pictures")
    try:
        return generation_of(json.loads(texts["prompt"]), name)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise NoPromptError(f"its graph cannot be read ({error})") from None
