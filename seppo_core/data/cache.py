"""Where encoded values lie, under a name made from all that they depend on: on disk or in memory.

A value is a tensor, or nested dicts, lists and tuples of tensors and plain scalars, as conditioning is. On
disk each is one safetensors file whose metadata holds the nesting as JSON. Files appear whole or not at all,
so that a killed encoding goes on where it was, and several runs may share one cache.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, DatasetError
from ..files import flatten, load_tensors, save_tensors, unflatten


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
        try:
            save_tensors(self._path(key), tensors, {"tree": json.dumps(tree)})
        except (OSError, SafetensorError) as error:
            raise _unwritable(self.directory, error) from None

    def read(self, key: str) -> Any:
        try:
            tensors, about = load_tensors(self._path(key))
            return unflatten(json.loads(about["tree"]), tensors)
        except CheckpointError as error:
            raise DatasetError(
                f"an encoded winner is gone or damaged: {error}. Leave the cache alone while it is in use; "
                "encode the winners again (in ComfyUI: after a restart)"
            ) from None

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the value's first tensor, without reading it."""
        with safe_open(self._path(key), framework="pt") as file:
            return tuple(file.get_slice("0").get_shape())

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"


Store = MemoryStore | DiskStore


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
