"""How anything reaches the disk: whole files or none, as safetensors and plain JSON."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import CheckpointError

log = logging.getLogger(__name__)

PART = ".part"
"""Ends the names of files that are being written; what a killed process left of them is of no use."""

BLOCK = 2**20

SCALARS = (bool, int, float, str, type(None))
DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


UNREADABLE = (OSError, SafetensorError, TypeError, ValueError, RuntimeError)
"""What reading a safetensors file raises; the last three where it states shapes that torch cannot hold."""


class NotStorableError(Exception):
    """A value holds something that is neither a plain tensor nor a scalar, such as a hook."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A new path beside `path`; on success its file takes `path`'s place.

    File and folder are flushed to the disk, so that a power cut leaves the old file or the new one, whole.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{uuid.uuid4().hex}{PART}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def unless_refused(path: Path) -> Iterator[None]:
    """For writing what can be made again: a full disk or a locked folder costs a warning, not what is at work."""
    try:
        yield
    except OSError as error:
        log.warning("%s could not be written: %s", path, error.strerror or error)


def make_folder(path: Path) -> None:
    """A folder, and those above it, that a power cut does not take away with what is in it."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Bring a folder's names to the disk, where the system can (Windows does so by itself)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems know no such thing
            os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Seal:
    """What a file has to be to count as undamaged."""

    bytes: int
    sha256: str

    @classmethod
    def of_content(cls, content: bytes) -> "Seal":
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def of(cls, path: Path) -> "Seal":
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
        return cls(size, digest.hexdigest())

    def complaint(self, path: Path, thoroughly: bool) -> str:
        """What is wrong with the file, empty if nothing; only its size is looked at unless `thoroughly`."""
        try:
            size = path.stat().st_size
            if size != self.bytes:
                return f"{path.name} has {size} bytes instead of {self.bytes}"
            if thoroughly and Seal.of(path) != self:
                return f"{path.name} was changed"
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
        return ""


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> Seal:
    """One safetensors file, written atomically, with the permissions that the user's files have.

    The seal is of what was to be written: reading it back shows whether the disk has it.
    """
    data = save(tensors, metadata=about)
    with atomic(path) as temporary:
        temporary.write_bytes(data)  # save_file makes it private
    return Seal.of_content(data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and the metadata; CheckpointError if the file is missing or damaged.

    They are copies: Windows can neither replace nor remove a file that is mapped into memory.
    """
    try:
        with torch.inference_mode(False), safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            return tensors, file.metadata() or {}
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """Torch appends its own stack to some messages."""
    return str(error).partition("\n")[0]


def flatten(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The nesting of `value` as JSON; its tensors are put into `tensors`, on the CPU.

    Raises NotStorableError for anything but tensors, scalars, lists, tuples and dicts with plain keys.
    """
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
    if type(value) is dict and all(type(key) in (str, int) for key in value):
        return {"dict": [[key, flatten(item, tensors)] for key, item in value.items()]}
    raise NotStorableError(type(value).__name__)


def unflatten(tree: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """What `flatten` was given."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [unflatten(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    return content


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum over the rest of it, in place of the one it may have."""
    rest = _without_checksum(values)
    return {**rest, "checksum": _checksum(rest)}


def is_whole(values: dict[str, Any]) -> bool:
    """Whether this is what `sealed` gave, unchanged."""
    return values.get("checksum") == _checksum(_without_checksum(values))


def _without_checksum(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "checksum"}


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, values: Any) -> None:
    """One JSON file, written atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
