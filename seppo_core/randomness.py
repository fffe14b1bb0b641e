"""Where every random number comes from: a generator derived from what it is for, never global state."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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


@contextmanager
def isolated_global_rng(seed: int) -> Iterator[None]:
    """Run foreign code that reads torch's global generators from `seed`; give them back as they were."""
    with torch.random.fork_rng(devices=[]), ExitStack() as undo:
        for name, (read, write) in GENERATORS.items():
            backend = getattr(torch, name, None)
            in_use = getattr(backend, "is_initialized", torch.backends.mps.is_available)
            if backend is not None and in_use():
                undo.callback(getattr(backend, write), getattr(backend, read)())
        torch.manual_seed(seed)
        yield
