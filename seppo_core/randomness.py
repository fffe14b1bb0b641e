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
    "cuda": ("get_rng_state_all", "set_rng_state_all"),
    "xpu": ("get_rng_state_all", "set_rng_state_all"),
    "mps": ("get_rng_state", "set_rng_state"),
}
"""torch's backends with global generators of their own, and what reads and sets their state."""


RNGState = list[tuple[Callable[[Any], object], Any]]
"""(what sets a generator's state, the state) for every generator that foreign code may read"""


def global_rng() -> RNGState:
    """Where the global generators of Python, numpy, torch and its backends in use stand."""
    found: RNGState = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    for name, (read, write) in GENERATORS.items():
        backend = getattr(torch, name, None)
        in_use = getattr(backend, "is_initialized", torch.backends.mps.is_available)
        if backend is not None and in_use():
            found.append((getattr(backend, write), getattr(backend, read)()))
    return found


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
    """Run foreign code that reads global generators from `seed`; give them back as they were."""
    with global_rng_kept():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield
