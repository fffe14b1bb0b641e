"""Fixtures around the tiny denoiser."""

import pytest
from tiny import TinyDenoiser, examples

from seppo_core.data import EncodedDataset, in_memory


@pytest.fixture
def policy() -> TinyDenoiser:
    return TinyDenoiser()


@pytest.fixture
def make_policy():
    return TinyDenoiser


@pytest.fixture
def make_examples():
    return examples


@pytest.fixture
def dataset() -> EncodedDataset:
    return in_memory(examples(6))
