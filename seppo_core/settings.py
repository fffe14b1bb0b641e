"""Settings: frozen dataclasses whose fields say their bounds, choices and words; from plain JSON, checked, overridden.

A setting stands once. The check of a run's JSON, the nodes' inputs, their tooltips, the help pages and the
English texts are all made from it.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError


@dataclass(frozen=True)
class About:
    """What is known of one setting."""

    words: str = ""
    """what it does and which way to turn it, as a tooltip; a setting without words has no input on a node"""
    choices: Iterable[str] | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    least_shown: float | None = None
    most_shown: float | None = None
    """ends of an input on a node, where they are not those of what is right"""
    step: float | None = None
    """of an input's arrows"""
    widget: str = ""
    """the input's name, where the field's own would not be clear beside other sections'"""
    optional: bool = False
    """whether graphs may lack the input, because it came after they were made"""
    advanced: bool = False
    multiline: bool = False

    def require(self, name: str, value: Any) -> None:
        """ConfigError unless `value` is one of the choices and within the bounds."""
        if self.choices is not None:
            choice(name, value, self.choices)
        inside = (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )
        require(inside, f"{name} must {self._bounds()}, got {value}")

    def _bounds(self) -> str:
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        if low is not None and high not in (None, math.inf):
            return f"lie in {'(['[self.above is None]}{low}, {high}{')]'[self.below is None]}"
        if self.above is not None:
            return "be positive" if low == 0 else f"be above {low}"
        return "not be negative" if low == 0 else f"be at least {low}"


def setting(default: Any, words: str = "", **about: Any) -> Any:
    """A field of a frozen dataclass; the arguments are those of `About`."""
    return dataclasses.field(default=default, metadata={About: About(words, **about)})


class Section:
    """Settings that belong together: base of frozen dataclasses, which are checked when they are made."""

    section = ""
    """what messages call it"""

    def __init_subclass__(cls, section: str = "") -> None:
        cls.section = section

    def __post_init__(self) -> None:
        """ConfigError for the first setting that is out of its bounds."""
        for field in dataclasses.fields(self):
            if about := field.metadata.get(About):
                name = f"{self.section}.{field.name}".lstrip(".")
                about.require(name, getattr(self, field.name))


@dataclass(frozen=True)
class Input:
    """A setting as an input that a user sees."""

    section: str
    """of the configuration; empty at its top"""
    field: str
    type: type
    default: Any
    about: About

    @property
    def name(self) -> str:
        return self.about.widget or self.field

    @property
    def path(self) -> str:
        return f"{self.section}.{self.field}".lstrip(".")


def inputs(cls: type, section: str = "") -> Iterator[Input]:
    """Every setting of a configuration that has words, in the order of its fields."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from inputs(hints[field.name], field.name)
        elif (about := field.metadata.get(About)) and about.words:
            yield Input(section, field.name, hints[field.name], field.default, about)


def require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def choice(name: str, value: str, choices: Iterable[str]) -> None:
    known = sorted(choices)
    require(value in known, f"{name}: unknown {value!r}; choose from {known}")


def from_dict(cls: type, values: dict[str, Any], path: str = "") -> Any:
    """Build the frozen dataclass `cls` from plain JSON values, naming what does not fit by its path."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path.rstrip('.') or 'configuration'}: expected a JSON object, got {values!r}"
        )
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        names = ", ".join(path + name for name in unknown)
        raise ConfigError(f"unknown setting {names}; known here: {sorted(hints)}")
    return cls(**{key: _convert(hints[key], value, path + key) for key, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path + ".")
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
        return _convert(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    plain = typing.get_origin(hint) or hint
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {plain.__name__}, got {value!r}")
    return value


MAX_JSON_BYTES = 4 * 2**20
MAX_JSON_DEPTH = 50
"""Of a configuration, a run.json or a manifest; what we write has some kilobytes and four levels."""


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ConfigError names the file, and the place if one does not parse."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise ConfigError(f"{path}: over {MAX_JSON_BYTES // 2**20} MB; is it the right file?")
        values = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object at the top")
    if _deeper_than(MAX_JSON_DEPTH, values):
        raise ConfigError(f"{path}: nested more than {MAX_JSON_DEPTH} levels deep")
    return values


def _deeper_than(limit: int, values: Any) -> bool:
    level = [values]
    for _ in range(limit):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        if not inner:
            return False
        level = [value for values in inner for value in values]
    return any(isinstance(value, dict | list) for value in level)


def override(values: dict[str, Any], assignment: str) -> None:
    """Apply one `section.name=value` in place; the value is JSON, or a bare string."""
    key, found, text = assignment.partition("=")
    if not found or not key:
        raise ConfigError(f"--set {assignment}: expected section.name=value")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {assignment}: {section} is not a section")
    values[name] = value
