"""Where every random number comes from: a generator derived from what it is for, never global state."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derived_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key`, e.g. `(seed, step, rank, "noise", 3)`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded from `key`: the same numbers on every device."""
    return torch.Generator().manual_seed(derived_seed(*key))


def normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal float32 tensor of `shape` on the CPU, determined by `key`."""
    return torch.randn(shape, generator=generator(*key))


GENERATORS = {
    "cuda": ("get_rng_state_all", "set_rng_state_all", "manual_seed_all"),
    "xpu": ("get_rng_state_all", "set_rng_state_all", "manual_seed_all"),
    "mps": ("get_rng_state", "set_rng_state", "manual_seed"),
}
"""torch's backends with global generators of their own, and what reads, sets and seeds them."""

RNGState = list[tuple[Callable[[Any], object], Any]]
"""(what sets a generator's state, the state) for every generator that foreign code may read"""


def _backends() -> Iterator[tuple[Callable[..., Any], ...]]:
    """Of each backend in use the functions that GENERATORS names."""
    for name, functions in GENERATORS.items():
        backend = getattr(torch, name, None)
        in_use = getattr(backend, "is_initialized", torch.backends.mps.is_available)
        if backend is not None and in_use():
            yield tuple(getattr(backend, function) for function in functions)


def _set_numpy(state: tuple[Any, Any]) -> None:
    bits, where = state
    np.random.set_bit_generator(bits)
    bits.state = where


def global_rng() -> RNGState:
    """Where the global generators of Python, numpy, torch and its backends in use stand."""
    bits = np.random.get_bit_generator()
    return [
        (random.setstate, random.getstate()),
        (_set_numpy, (bits, bits.state)),
        (torch.set_rng_state, torch.get_rng_state()),
        *((write, read()) for read, write, _ in _backends()),
    ]


def set_global_rng(state: RNGState) -> None:
    for write, value in state:
        write(value)


@contextmanager
def global_rng_kept() -> Iterator[None]:
    """Foreign code may draw from the global generators in the block; they are given back as they were."""
    before = global_rng()
    try:
        yield
    finally:
        set_global_rng(before)


@contextmanager
def isolated_global_rng(seed: int) -> Iterator[None]:
    """Run foreign code that reads global generators from `seed`; give them back as they were.

    Numpy's own takes 0.1 ms to read and set, so another stands in for it.
    """
    numpys_own = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(seed))
    try:
        with global_rng_kept():
            random.seed(seed)
            torch.default_generator.manual_seed(
                seed
            )  # torch.manual_seed takes 0.3 ms to find backends
            for _, _, seed_backend in _backends():
                seed_backend(seed)
            yield
    finally:
        np.random.set_bit_generator(numpys_own)
