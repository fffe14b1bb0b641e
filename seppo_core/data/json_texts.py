"""What programs write as JSON: graphs of ComfyUI bare or wrapped, SwarmUI's settings, and what nobody knows."""

import json
import re
from collections.abc import Callable
from typing import Any

from .generation import Generation

MAX_WRAPS = 3
"""Objects or texts of JSON within each other that are looked into for a graph."""

WRAPS = ("prompt", "workflow", "output", "extra_pnginfo", "extra_data", "comfyui", "graph")
"""Keys under which programs put a graph, in the order they are asked."""

SWARM = "sui_image_params"

FOOOCUS = {"base_model", "base_model_hash", "sampler", "prompt"}
"""Keys that Fooocus writes."""

MAKING = {"seed", "steps", "sampler", "cfg", "cfg_scale", "guidance_scale"}
"""Keys of which one stands beside the prompt in settings of a picture."""

SECTIONS = re.compile(
    r"<(?:segment|clear|object|region|refiner|video|videoswap|extend)(?:[:\[/][^<>]*)?>"
)
"""SwarmUI's marks after which a text is for a part of the picture, or for another pass."""

SETTINGS = re.compile(r"<(?:base|break)(?:[:/\[][^<>]*)?>|<(?:comment|param|embed-?weight)[^<>]*>")
"""SwarmUI's marks that are no text, and end nothing."""


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None for anything else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def graph_in(values: dict[str, Any], depth: int = 0) -> tuple[str, dict[str, Any]] | None:
    """("prompt" or "workflow", graph) of a JSON object that is one, or holds one."""
    if any(isinstance(node, dict) and "class_type" in node for node in values.values()):
        return "prompt", values
    if isinstance(values.get("nodes"), list) and isinstance(values.get("links"), list):
        return "workflow", values
    if depth == MAX_WRAPS:
        return None
    for key in WRAPS:
        inner = values.get(key)
        inner = json_object(inner) if isinstance(inner, str) else inner
        if isinstance(inner, dict) and (found := graph_in(inner, depth + 1)):
            return found
    return None


def told_in_json(text: str) -> Generation | None:
    """What settings in JSON tell, SwarmUI's or others that name their prompt; None if there are none."""
    values = json_object(text) or {}
    if isinstance(values.get(SWARM), dict):
        return _generation(values[SWARM], _global)
    plain = {str(key).lower(): value for key, value in values.items()}
    if isinstance(plain.get("prompt"), str) and MAKING & plain.keys():
        return _generation(plain, str)
    return None


def _generation(settings: dict[str, Any], cleaned: Callable[[str], str]) -> Generation:
    def first(*names: str) -> Any:
        return next((settings[name] for name in names if settings.get(name) is not None), None)

    prompt, negative = first("prompt"), first("negativeprompt", "negative_prompt")
    return Generation(
        prompt=cleaned(prompt) if isinstance(prompt, str) else "",
        negative=cleaned(negative) if isinstance(negative, str) else "",
        seed=_number(first("seed"), int),
        steps=_number(first("steps"), int),
        cfg=_number(first("cfgscale", "cfg_scale", "guidance_scale", "cfg"), float),
        sampler=_name(first("sampler")),
        scheduler=_name(first("scheduler")),
        model=_name(first("model")),
    )


def _global(text: str) -> str:
    """The part of a SwarmUI prompt that is for the whole picture."""
    return SETTINGS.sub(" ", SECTIONS.split(text, 1)[0]).strip()


def _number(value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def is_fooocus(text: str) -> bool:
    values = json_object(text)
    return bool(values and values.keys() >= FOOOCUS)


def unknown_json(text: str) -> str:
    """Why JSON that no reader knows tells nothing, with what is in it; empty for anything else."""
    if not text.lstrip().startswith("{"):
        return ""
    values = json_object(text)
    if values is None:
        return "its text cannot be read as that of any program: it starts like JSON and is none"
    keys = ", ".join(repr(str(key)[:40]) for key in [*values][:5])
    return f"its text is JSON of a program that is not known (keys: {keys or 'none'})"
