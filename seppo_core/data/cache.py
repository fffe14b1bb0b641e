"""Where encoded values lie, under a name made from all that they depend on: on disk or in memory.

A value is a tensor, or nested dicts, lists and tuples of tensors and plain scalars, as conditioning is. On
disk many lie together in a shard, one safetensors file, with a JSON index beside it that is written after
it. Both appear whole or not at all and are never changed, so several runs may write to one directory, and
a killed encoding goes on after the last shard. Both have checksums: what is damaged is encoded again.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import DatasetError
from ..files import (
    SCALARS,
    UNREADABLE,
    Seal,
    atomic,
    first_line,
    flatten,
    is_whole,
    save_tensors,
    sealed,
    unflatten,
)

VERSION = 2
"""of the index; another one is passed over"""

SHARD_BYTES = 64 * 2**20
SHARD_VALUES = 512
SHARD_SECONDS = 20.0
"""A shard is written when it has so many bytes or values, or when the last one is so long ago."""

OURS = re.compile(r"encoded-[0-9a-f]{32}\.(safetensors|json)|\.[0-9a-f]{32}\.part")
LEFTOVER_SECONDS = 24 * 3600
"""Shards without a sound index of this age belong to no run that is still writing."""

MAX_INDEX_BYTES = 2**26
MAX_DEPTH = 64

log = logging.getLogger(__name__)


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

    def outline(self, key: str) -> Any:
        """The value with shapes in place of its tensors."""
        return _outline(self._values[key])

    def flush(self) -> None:
        """Nothing waits here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies on disk."""

    shard: Path
    tree: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    """of its tensors, which are called `<key>.0`, `<key>.1`, ... in the shard"""


class DiskStore:
    """Values in shards of a directory. One store serves one thread; other stores may share the directory.

    It knows what was flushed before it was made, and what was written through it. What is written waits in
    memory for its shard to fill; `flush` ends the wait.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._places: dict[str, Place] = {}
        self._unchecked: dict[Path, Seal] = {}
        """shards that were found and not read yet"""
        self._waiting: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {}
        self._bytes = 0
        self._flushed_at = time.monotonic()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._find()
        except OSError as error:
            raise _unwritable(directory, error) from None

    def __contains__(self, key: str) -> bool:
        """Whether the value is there, undamaged: its shard is read the first time it is asked for."""
        if key not in self._waiting and key in self._places:
            self._check(self._places[key].shard)
        return key in self._waiting or key in self._places

    def _check(self, shard: Path) -> None:
        """Forget a shard that is not what its index says; without its index nobody finds it again."""
        seal = self._unchecked.pop(shard, None)
        try:
            if seal is None or Seal.of(shard) == seal:
                return
            problem = "was changed"
            with suppress(OSError):
                shard.with_suffix(".json").unlink()
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        log.warning("encoded winners cannot be used and are encoded again: %s %s", shard, problem)
        self._places = {key: p for key, p in self._places.items() if p.shard != shard}

    def write(self, key: str, value: Any) -> None:
        """NotStorableError if only memory can hold `value`; DatasetError if the disk cannot take it."""
        tensors: dict[str, Tensor] = {}
        with torch.inference_mode(False):
            self._waiting[key] = flatten(value, tensors), tensors
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())
        waited = time.monotonic() - self._flushed_at
        full = self._bytes >= SHARD_BYTES or len(self._waiting) >= SHARD_VALUES
        if full or waited >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one shard. DatasetError if the disk cannot take it; then it goes on waiting."""
        if self._waiting:
            shard = self.directory / f"encoded-{uuid.uuid4().hex}.safetensors"
            try:
                places = _write_shard(shard, self._waiting)
            except (OSError, SafetensorError) as error:
                raise _unwritable(self.directory, error) from None
            self._places |= places
            self._waiting = {}
            self._bytes = 0
        self._flushed_at = time.monotonic()

    def read(self, key: str) -> Any:
        if key in self._waiting:
            return unflatten(*self._waiting[key])
        place = self._places[key]
        try:
            return unflatten(place.tree, _read_tensors(key, place))
        except (*UNREADABLE, KeyError) as error:
            raise DatasetError(
                f"an encoded winner is gone or damaged: {place.shard} ({first_line(error)}). Leave the "
                "cache alone while it is in use; remove that file and encode the winners again (in "
                "ComfyUI: after a restart)"
            ) from None

    def outline(self, key: str) -> Any:
        """The value with shapes in place of its tensors, known without opening its shard."""
        if key in self._waiting:
            return _outline(unflatten(*self._waiting[key]))
        place = self._places[key]
        return unflatten(place.tree, {str(i): shape for i, shape in enumerate(place.shapes)})

    def _find(self) -> None:
        """Learn every sound index of the directory, and remove what killed runs left there long ago."""
        for path in sorted(self.directory.iterdir()):
            if not OURS.fullmatch(path.name):
                continue
            shard, index = path.with_suffix(".safetensors"), path.with_suffix(".json")
            try:
                if path == index:
                    places, seal = _read_index(index, shard)
                    self._places |= places
                    self._unchecked[shard] = seal
                    continue
                useless = path.suffix == ".part" or not index.exists()
            except DamagedIndexError as error:
                log.warning("encoded winners cannot be used and are encoded again: %s", error)
                useless = True
            except OSError as error:
                log.warning("encoded winners cannot be read: %s", error)
                continue
            if useless:
                _remove_old(path, shard)


Store = MemoryStore | DiskStore


@contextmanager
def kept(store: Store) -> Iterator[None]:
    """What the block wrote is flushed at its end, also if it fails; then its own error is what is raised."""
    try:
        yield
    except BaseException:
        try:
            store.flush()
        except DatasetError as error:
            log.warning("the last encoded winners are lost: %s", error)
        raise
    store.flush()


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


def _outline(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if type(value) in (list, tuple):
        return type(value)(_outline(item) for item in value)
    if type(value) is dict:
        return {key: _outline(item) for key, item in value.items()}
    return value


class DamagedIndexError(Exception):
    """An index does not say what an index says, or not about the shard beside it."""


def _write_shard(
    shard: Path, values: dict[str, tuple[dict[str, Any], dict[str, Tensor]]]
) -> dict[str, Place]:
    """The shard and then its index; where the values lie now."""
    tensors = {f"{key}.{name}": t for key, (_, some) in values.items() for name, t in some.items()}
    seal = save_tensors(shard, tensors, {})
    trees: dict[str, int] = {}
    entries = {}
    for key, (tree, some) in values.items():
        number = trees.setdefault(json.dumps(tree), len(trees))
        entries[key] = {"tree": number, "shapes": [list(t.shape) for t in some.values()]}
    about = {"version": VERSION, **vars(seal)}
    about |= {"trees": [json.loads(tree) for tree in trees], "entries": entries}
    with atomic(shard.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(sealed(about)), encoding="utf-8")
    return _places(shard, about)


def _read_index(index: Path, shard: Path) -> tuple[dict[str, Place], Seal]:
    """DamagedIndexError if it does not fit its shard; no places if another version wrote it."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise DamagedIndexError(f"{index} is too large")
    try:
        about = json.loads(index.read_text(encoding="utf-8"))
        if (
            type(about) is dict
            and type(about.get("version")) is int
            and about["version"] != VERSION
        ):
            return {}, Seal(0, "")
        if not is_whole(about):
            raise DamagedIndexError(f"{index} was changed")
        places, seal = _places(shard, about), Seal(about["bytes"], about["sha256"])
        held = shard.stat().st_size if shard.exists() else 0
        if seal.bytes != held:
            raise DamagedIndexError(f"{shard} has {held} bytes, its index says {seal.bytes!r}")
        return places, seal
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedIndexError(f"{index}: {type(error).__name__}: {error}") from None


def _places(shard: Path, about: dict[str, Any]) -> dict[str, Place]:
    """Equal trees and shapes are held once, for there may be 100,000 values."""
    trees = [_checked(tree, MAX_DEPTH) for tree in about["trees"]]
    shapes: dict[tuple, tuple] = {}
    complete: set[tuple[int, int]] = set()
    places = {}
    for key, entry in about["entries"].items():
        sizes = tuple(tuple(_size(side) for side in shape) for shape in entry["shapes"])
        sizes = shapes.setdefault(sizes, sizes)
        number, count = _size(entry["tree"]), len(sizes)
        if (number, count) not in complete:
            unflatten(
                trees[number], {str(i): None for i in range(count)}
            )  # KeyError names what lacks
            complete.add((number, count))
        places[key] = Place(shard, trees[number], sizes)
    return places


def _size(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no size")
    return number


def _checked(tree: Any, depth: int) -> dict[str, Any]:
    """The tree, if it is one that `flatten` could have made; ValueError or TypeError if not."""
    if depth == 0:
        raise ValueError("nested too deeply")
    ((kind, content),) = tree.items()
    if kind == "tensor":
        known = type(content) is str
    elif kind == "scalar":
        known = type(content) in SCALARS
    else:
        known = kind in ("dict", "list", "tuple") and type(content) is list
    if not known:
        raise ValueError(f"{kind!r} is not known")
    if kind == "dict":
        for key, item in content:
            if type(key) not in (str, int):
                raise TypeError(f"{key!r} is no key")
            _checked(item, depth - 1)
    elif kind in ("list", "tuple"):
        for item in content:
            _checked(item, depth - 1)
    return tree


def _read_tensors(key: str, place: Place) -> dict[str, Tensor]:
    """Copies, for Windows cannot remove a file that is mapped into memory. KeyError if they do not fit."""
    tensors = {}
    with torch.inference_mode(False), safe_open(place.shard, framework="pt") as file:
        for number, shape in enumerate(place.shapes):
            tensors[str(number)] = file.get_tensor(f"{key}.{number}").clone()
            if tuple(tensors[str(number)].shape) != shape:
                raise KeyError(f"tensor {number} is not of the shape {shape}")
    return tensors


def _remove_old(*paths: Path) -> None:
    """Remove files that nobody can be writing any more; another process may be quicker."""
    for path in paths:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def _unwritable(directory: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{directory}: encoded winners cannot be kept there ({error}); free some space or choose "
        "another place"
    )
