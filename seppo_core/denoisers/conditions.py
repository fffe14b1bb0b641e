"""What foreign objects say about themselves, the same in every process: settings, tensors, names, no addresses.

A best effort: an object that keeps its settings where no attribute shows them counts by its class alone.
"""

import enum
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..identity import digest_tensors, digest_value

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
DEEPEST = 12
"""Levels of nesting that are read; what lies deeper counts by its class. Ends cycles, too."""

Memo = dict[tuple[int, int], tuple[Any, str]]
"""(id, depth) -> the object, held so that its id stays its own, and its hash"""


def digest_state(value: Any, depth: int = 0, memo: Memo | None = None) -> str:
    """A hash over what can be read of `value`.

    A function counts by its name, what it closes over and its defaults; an object by the names of its
    classes and its public attributes; a network, whose weights come and go with loading, by its classes.
    """
    memo = {} if memo is None else memo
    key = (id(value), depth)
    if key not in memo:
        memo[key] = (value, digest_value(_read(value, depth, memo)))
    return memo[key][1]


def _read(value: Any, depth: int, memo: Memo) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return digest_tensors([("", value)])
    if depth == DEEPEST:
        return _name(value)
    return [_name(value), *(digest_state(part, depth + 1, memo) for part in _parts(value))]


def _name(value: Any) -> str:
    """Qualified names of classes and bases, or of the function or class that `value` is.

    Modules are left out: a host may name those of its packs after the folder they lie in.
    """
    if isinstance(value, (*FUNCTIONS, type)):
        return value.__qualname__
    names = [base.__qualname__ for base in type(value).__mro__[:-1]]
    return " ".join([*names, value.name] if isinstance(value, enum.Enum) else names)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        entries = [(_label(key), item) for key, item in value.items()]
        for label, item in sorted(entries, key=lambda entry: entry[0]):
            yield from (label, item)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(_label, value))
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, FUNCTIONS):
        yield from map(_content, getattr(value, "__closure__", None) or ())
        yield from (getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None))
    elif not isinstance(value, type | enum.Enum | types.ModuleType) and not _holds_weights(value):
        attributes = getattr(value, "__dict__", {})
        yield {name: item for name, item in attributes.items() if _tells(name)}
        if isinstance(value, nn.Module):
            yield dict(value.named_buffers())


def _label(key: Any) -> str:
    """A key's text, by which entries can be sorted: keys may be objects."""
    if isinstance(key, tuple):
        return f"({', '.join(map(_label, key))})"
    return repr(key) if isinstance(key, PLAIN) else _name(key)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was not assigned yet
        return None


def _holds_weights(value: Any) -> bool:
    """A network or a host's holder of one: loading changes it, and `Denoiser.identity` names it."""
    if isinstance(value, nn.Module):
        return any(True for _ in value.parameters())
    return isinstance(getattr(value, "model", None), nn.Module)


def _tells(attribute: str) -> bool:
    return not attribute.startswith("_") and attribute != "training"
