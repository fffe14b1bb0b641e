"""Nodes' inputs made from the settings of the core, and the settings made from inputs' values."""

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..seppo_core.errors import ConfigError
from ..seppo_core.settings import Input
from . import host

KINDS = {bool: io.Boolean.Input, int: io.Int.Input, float: io.Float.Input, str: io.String.Input}
OF_THE_HOST = {"sampler": "SAMPLERS", "sampler_name": "SAMPLERS", "scheduler": "SCHEDULERS"}
"""Choices that the core leaves to whoever draws; other packs may add some."""
FLAGS = ("optional", "advanced", "multiline")


def of_the_host(field: str) -> list[str] | None:
    name = OF_THE_HOST.get(field)
    return name and list(getattr(comfy.samplers.KSampler, name))


def require_of_the_host(values: Mapping[str, Any]) -> None:
    """ConfigError for a sampler or scheduler that the host does not have; 0.3.64 checks no choices."""
    for field, value in values.items():
        known = of_the_host(field)
        if known is not None and value not in known:
            raise ConfigError(f"{field}: unknown {value!r}; choose from {known}")


def widget(one: Input) -> Any:
    """The input of a node for one setting of the core."""
    about = one.about
    given = {"default": one.default, "tooltip": about.words}
    given |= {name: True for name in FLAGS if getattr(about, name)}
    choices = about.choices or of_the_host(one.field)
    if choices is not None:
        return host.input(io.Combo.Input, one.name, options=list(choices), **given)
    if one.type in (int, float):
        low, high = about.least_shown, about.most_shown
        given["min"] = one.type(about.least if low is None else low)
        given["max"] = one.type(about.most if high is None else high)
        given |= {"step": about.step} if about.step else {}
        given |= {"control_after_generate": False} if one.name.endswith("seed") else {}
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
