"""Raises at a chosen one of the calls that the pack makes into its host, and tells what state the host is in.

The calls are found by a profile function, not listed by hand.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import torch
from inprocess import PACK_FOLDER
from torch import Tensor, nn

PACK = os.sep + PACK_FOLDER + os.sep
HOST = str(Path(os.environ.get("SEPPO_TEST_HOST", "no host")).resolve()) + os.sep

ENTRY, EXIT = "call", "return"
"""A fault in the place of the call, or one at its end, when its effects are there already."""


@dataclass
class HostCalls:
    """Counts the calls of the host's functions that a node's `execute` leads to, while `watched`.

    At number `fault_at` an `error` is raised. What the host calls by itself counts only if `deep`. Finalizers
    never count: Python lets no error out of them.
    """

    fault_at: int = 0
    error: type[BaseException] = RuntimeError
    where: str = ENTRY
    deep: bool = False
    made: list[str] = field(default_factory=list)
    """the pack's line and the host's function, of every call in order"""
    _sides: dict[CodeType, str] = field(default_factory=dict)
    _armed: FrameType | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(before)
            self._armed = None

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event == ENTRY and self._side(frame.f_code) == "host":
            caller = self._caller(frame)
            if caller is not None:
                self.made.append(f"{_place(caller)}:{caller.f_lineno} -> {_place(frame)}")
                if len(self.made) == self.fault_at:
                    self._armed = frame
        if frame is self._armed and event == self.where:
            self._armed = None
            raise self.error(f"injected at {self.made[self.fault_at - 1]}")

    def _caller(self, frame: FrameType) -> FrameType | None:
        """The pack's frame that leads to `frame`, if that lies in a node's `execute` and counts."""
        found = None
        while frame is not None:
            code = frame.f_code
            if code.co_name == "__del__" or code.co_filename == weakref.__file__:
                return None
            side = self._side(code)
            if side == "pack":
                found = found or frame
                if code.co_name == "execute":
                    return found
            frame = frame.f_back
            asked_by_host = frame is not None and self._side(frame.f_code) == "host"
            if found is None and asked_by_host and not self.deep:
                return None
        return None

    def _side(self, code: CodeType) -> str:
        """`host`, `pack`, or empty for libraries and tests."""
        if code not in self._sides:
            name = code.co_filename
            side = "host" if name.startswith(HOST) else ""
            self._sides[code] = "pack" if PACK in name else side
        return self._sides[code]


def _place(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"


# What is there

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
DEEPEST = 4


def state_of(patcher: Any) -> dict[str, object]:
    """All that can be read of a ModelPatcher and its network: settings, bits of weights, hooks, functions."""
    state = {f"patcher.{name}": said(value) for name, value in vars(patcher).items()}
    for name, module in patcher.model.named_modules():
        for key, value in vars(module).items():
            if key == "_modules":
                state[f"{name}.{key}"] = [type(child).__qualname__ for child in value.values()]
            elif said(value) != said(
                getattr(type(module), key, nn)
            ):  # as its class has it: no matter
                state[f"{name}.{key}"] = said(value)
    return state


def globals_of_host() -> dict[str, object]:
    """What the host's modules hold: plain values by value, functions and classes by identity."""
    state = {}
    for module_name, module in sys.modules.copy().items():  # GC may import
        if (getattr(module, "__file__", None) or "").startswith(HOST):
            for name, value in vars(module).copy().items():
                if isinstance(value, PLAIN):
                    state[f"{module_name}.{name}"] = value
                elif isinstance(value, FunctionType | type):
                    state[f"{module_name}.{name}"] = id(value)
    return state


def said(value: Any, depth: int = 0) -> object:
    """`value` so that it can be compared: tensors by their bits, other objects by their class."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        bits = hashlib.sha1(data).hexdigest()
        return (str(value.dtype), tuple(value.shape), value.requires_grad, bits)
    if depth < DEEPEST and isinstance(value, dict):
        return {str(said(k, depth + 1)): said(v, depth + 1) for k, v in value.items()}
    if depth < DEEPEST and isinstance(value, list | tuple | set):
        return [said(item, depth + 1) for item in value]
    if isinstance(value, FunctionType | MethodType):  # wrappers take the name of what they wrap
        code = value.__code__
        return (code.co_filename, code.co_firstlineno, code.co_name)
    return type(value).__qualname__


def changes(before: dict[str, object], after: dict[str, object]) -> dict[str, tuple]:
    """Name -> (before, after) of what is not the same."""
    found = {}
    for name in sorted(before.keys() | after.keys()):
        pair = before.get(name, "absent"), after.get(name, "absent")
        if pair[0] != pair[1]:
            found[name] = pair
    return found


def bytes_in_tensors() -> int:
    """Bytes of all tensors that Python still knows, once garbage is collected; shared storage counts once."""
    for _ in range(3):  # what a collected autograd graph held is garbage only then
        gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
