"""Runs a check on many made-up inputs, the same ones every time; SEPPO_RELIABILITY=long: 25 times as many, others.

A check may raise SePPOError; whatever else it raises is a bug, and hypothesis makes its input small.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import hypothesis.configuration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seppo_core.errors import SePPOError

hypothesis.configuration.set_hypothesis_home_dir(tempfile.gettempdir() + "/seppo-hypothesis")

LONG = os.environ.get("SEPPO_RELIABILITY") == "long"
HANG = timedelta(seconds=30)
"""Inputs of a few kilobytes take milliseconds; so long a time is a loop that grows with a stated number."""
MOST_MEMORY = 600 * 2**20
"""By which the process may grow over a whole test."""


def fuzz(
    record_property: Callable[[str, object], None],
    what: str,
    examples: int,
    check: Callable[..., None],
    *strategies: st.SearchStrategy,
) -> None:
    """Call `check` with values of the strategies, so many times, and count the calls as "inputs fuzzed"."""
    count = 0

    @settings(
        max_examples=examples * (25 if LONG else 1),
        derandomize=not LONG,
        database=None,
        deadline=HANG,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(*strategies))
    def run(values: tuple) -> None:
        nonlocal count
        count += 1
        try:
            check(*values)
        except SePPOError as error:
            assert str(error)

    before = peak_memory()
    run()
    assert peak_memory() - before < MOST_MEMORY
    record_property(f"inputs fuzzed: {what}", count)


def peak_memory() -> int:
    """Of this process so far, in bytes; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# Values

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 1e-320, 1e308, -0.0]),
    st.floats(),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "0", "-1", "1e999", "NaN", "\0", "\ud800", "../..", "a" * 3000, "\u202e"]),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)

EDITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from("rrrdm"), JSON), min_size=1, max_size=4
)


def mutated(values: Any, edits: list[tuple[int, str, Any]]) -> Any:
    """A JSON value with some of its parts replaced, removed, or given more parts."""
    root = [copy.deepcopy(values)]
    for number, kind, junk in edits:
        places = list(_places(root))
        container, key = places[number % len(places)]
        if kind == "r" or container is root:
            container[key] = junk
        elif kind == "d":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, junk)
        else:
            container[f"{junk!r}"[:20]] = junk
    return root[0]


def _places(container: Any) -> Any:
    keys = container if isinstance(container, dict) else range(len(container))
    for key in list(keys):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])


CUTS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["write", "write", "insert", "remove", "end"]),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]),
        ),
    ),
    min_size=1,
    max_size=5,
)


def damaged(data: bytes, cuts: list[tuple[float, str, bytes]], reach: int | None = None) -> bytes:
    """`data` with bytes overwritten, inserted or removed within its first `reach`, or with its end cut off."""
    found = bytearray(data)
    for place, kind, junk in cuts:
        at = int(place * min(len(found), reach or len(found)))
        if kind == "write":
            found[at : at + len(junk)] = junk
        elif kind == "insert":
            found[at:at] = junk
        elif kind == "remove":
            del found[at : at + 4 * len(junk)]
        else:
            del found[at:]
    return bytes(found)
