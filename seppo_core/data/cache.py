"""Where encoded values lie, under a name made from all that they depend on: on disk or in memory.

A value is a tensor, or nested dicts, lists and tuples of tensors and plain scalars, as conditioning is. On
disk each is one safetensors file whose metadata holds the nesting as JSON. Files appear whole or not at all,
so that a killed encoding goes on where it was, and several runs may share one cache.
"""

import json
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DatasetError

SCALARS = (bool, int, float, str, type(None))
DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


class NotStorableError(Exception):
    """A value holds something that is neither a plain tensor nor a scalar, such as a hook."""


class MemoryStore:
    """Values kept as they are, for as long as somebody holds the store."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def write(self, key: str, value: Any) -> None:
        self._values[key] = value

    def read(self, key: str) -> Any:
        return self._values[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the value's first tensor."""
        return tuple(self._values[key].shape)


class DiskStore:
    """Values below a directory, `<first two letters of the key>/<key>.safetensors`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(directory, error) from None

    def __contains__(self, key: str) -> bool:
        try:
            with safe_open(self._path(key), framework="pt") as file:
                return "tree" in (file.metadata() or {})
        except (OSError, SafetensorError):
            return False

    def write(self, key: str, value: Any) -> None:
        """NotStorableError if only memory can hold `value`; DatasetError if the disk cannot take it."""
        tensors: dict[str, Tensor] = {}
        tree = flatten(value, tensors)
        path = self._path(key)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(tensors, part, {"tree": json.dumps(tree)})
            part.replace(path)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise _unwritable(self.directory, error) from None

    def read(self, key: str) -> Any:
        path = self._path(key)
        try:
            # Tensors born in ComfyUI's inference mode could not be trained on, and those that safetensors
            # maps would keep the file open.
            with torch.inference_mode(False), safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
                return unflatten(json.loads(file.metadata()["tree"]), tensors)
        except (OSError, SafetensorError) as error:
            raise DatasetError(
                f"{path}: an encoded winner is gone or damaged ({error}). Leave the cache alone while it "
                "is in use; encode the winners again (in ComfyUI: after a restart)"
            ) from None

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the value's first tensor, without reading it."""
        with safe_open(self._path(key), framework="pt") as file:
            return tuple(file.get_slice("0").get_shape())

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"


Store = MemoryStore | DiskStore


def flatten(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The nesting of `value` as JSON; its tensors are put into `tensors`, on the CPU."""
    if type(value) in (Tensor, torch.nn.Parameter):
        if value.dtype not in DTYPES or value.layout != torch.strided:
            raise NotStorableError(f"tensor of {value.dtype}, {value.layout}")
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if type(value) in SCALARS:
        return {"scalar": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [flatten(item, tensors) for item in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: flatten(item, tensors) for key, item in value.items()}}
    raise NotStorableError(type(value).__name__)


def unflatten(tree: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """What `flatten` was given."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in content.items()}
    if kind in ("list", "tuple"):
        items = [unflatten(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    return content


def at_hand(value: Any) -> Any:
    """A copy of a nested value whose tensors lie on the CPU and may be trained on; the rest is shared."""
    if isinstance(value, Tensor):
        with torch.inference_mode(False):
            return value.detach().to("cpu").clone()
    if type(value) in (list, tuple):
        return type(value)(at_hand(item) for item in value)
    if type(value) is dict:
        return {key: at_hand(item) for key, item in value.items()}
    return value


def _unwritable(directory: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{directory}: encoded winners cannot be kept there ({error}); free some space or choose "
        "another place"
    )
