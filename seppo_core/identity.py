"""Names for content: a hash over weights that is quick for gigabytes, and one over values in full."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

WHOLE_BYTES = 64 * 1024
"""Tensors up to this size enter `digest_tensors` whole, larger ones by about this much of them."""


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of `tensor` in row-major order as stored, whatever its dtype and device."""
    flat = tensor.detach().reshape(-1).to("cpu").contiguous()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def digest_tensors(items: Iterable[tuple[str, Tensor]]) -> str:
    """A hash over named tensors: name, shape, dtype and values, whatever the order of `items`.

    Of a tensor above 64 KiB every n-th element enters, n odd, so that the rows of a matrix, mostly of
    even length, are not met in the same few columns. A fine-tune moves all weights and so is noticed; a
    change of single elements of a large tensor may not be.
    """
    digests = sorted(_digest(name, tensor) for name, tensor in items)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(name: str, tensor: Tensor) -> bytes:
    header = repr((name, str(tensor.dtype), tuple(tensor.shape)))
    return hashlib.sha256(header.encode() + tensor_bytes(_strided(tensor))).digest()


def _strided(tensor: Tensor) -> Tensor:
    keep = WHOLE_BYTES // tensor.element_size()
    if tensor.numel() <= keep:
        return tensor
    return tensor.detach().reshape(-1)[:: -(-tensor.numel() // keep) | 1]


def tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Named tensors for `digest_tensors` from a nested value; a plain value names an empty tensor.

    Of an object with `weights`, as a host's LoRA patch is, these and its class count.
    """
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from tensors_in(f"{name} {place}", item)
    elif hasattr(value, "weights"):
        yield from tensors_in(f"{name} {type(value).__name__}", value.weights)
    else:
        plain = isinstance(value, int | float | str | None)
        yield f"{name} = {value!r}" if plain else f"{name}: {type(value).__name__}", torch.empty(0)


def digest_value(value: Any) -> str:
    """A hash over nested dicts, lists and tuples of tensors (in full) and of what `repr` tells apart."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(tensor_bytes(value))
    elif isinstance(value, dict):
        digest.update(f"{{{len(value)}".encode())
        for key in sorted(value, key=str):
            digest.update(f"{key!r}:".encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{value!r};".encode())
