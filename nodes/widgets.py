"""Nodes' inputs made from the settings of the core, and the settings made from inputs' values."""

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..seppo_core.settings import Input
from . import host

KINDS = {bool: io.Boolean.Input, int: io.Int.Input, float: io.Float.Input, str: io.String.Input}
OF_THE_HOST = {
    "sampler": comfy.samplers.KSampler.SAMPLERS,
    "scheduler": comfy.samplers.KSampler.SCHEDULERS,
}
"""Choices that the core leaves to whoever draws."""


def widget(one: Input) -> Any:
    """The input of a node for one setting of the core."""
    about = one.about
    given = {"default": one.default, "tooltip": about.words}
    given |= {name: True for name in ("optional", "advanced") if getattr(about, name)}
    choices = about.choices or OF_THE_HOST.get(one.field)
    if choices is not None:
        return host.input(io.Combo.Input, one.name, options=list(choices), **given)
    if one.type in (int, float):
        low, high = about.least_shown, about.most_shown
        given["min"] = one.type(about.least if low is None else low)
        given["max"] = one.type(about.most if high is None else high)
        given |= {"step": about.step} if about.step else {}
        given |= {"control_after_generate": False} if one.name == "seed" else {}
    return host.input(KINDS[one.type], one.name, **given)


def widgets(settings: Iterable[Input]) -> list[Any]:
    return [widget(one) for one in settings]


def sections(settings: Iterable[Input], values: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs' values as the configuration has them; what a graph lacks stays at its default."""
    found: dict[str, Any] = {}
    for one in settings:
        if one.name in values:
            place = found.setdefault(one.section, {}) if one.section else found
            place[one.field] = values[one.name]
    return found
