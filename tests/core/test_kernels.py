"""Every module's attention asks the session while a step is trained, and is as it was afterwards."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from seppo_core.denoisers.kernels import OVERRIDE, Kernels


def chosen(q, k, v, heads, transformer_options=None, **settings):
    """As a host's attention: an override in the options takes the call."""
    if transformer_options and OVERRIDE in transformer_options:
        return transformer_options[OVERRIDE](deaf, q, k, v, heads)
    return deaf(q, k, v, heads)


def deaf(q, k, v, heads, **settings):
    with torch.no_grad():
        return (q + k + v).clone()


def with_gradient(q, k, v, heads, **settings):
    return q + k + v


@pytest.fixture
def host(monkeypatch):
    """The module of a host's attention, and one of a network that took it by name."""
    attention, network = ModuleType("host_attention"), ModuleType("host_network")
    for module in (attention, network):
        module.optimized_attention = module.optimized_attention_masked = chosen
        monkeypatch.setitem(sys.modules, module.__name__, module)
    attention.attention_pytorch = with_gradient
    return attention


def kernels(host) -> Kernels:
    ops = SimpleNamespace(fp8_linear=lambda layer, x: "float8")
    return Kernels(nn.Linear(2, 2), host, ops, SimpleNamespace(in_training=False))


def learns(module: ModuleType, **settings) -> bool:
    q = torch.ones(2, requires_grad=True)
    return module.optimized_attention(q, q, q, 1, **settings).requires_grad


def test_calls_without_options_have_a_gradient_in_training_and_are_the_hosts_own_in_sampling(host):
    network, ours = sys.modules["host_network"], kernels(host)
    with ours.training():
        assert learns(network) and learns(network, transformer_options={"block": 1})
        with ours.sampling():
            assert not learns(network)
            assert ours.ops.fp8_linear(None, None) == "float8"
        assert learns(network) and ours.ops.fp8_linear(None, None) is None
        assert ours.management.in_training
    assert network.optimized_attention is host.optimized_attention is chosen
    assert not ours.management.in_training


def test_an_override_in_the_options_stays(host):
    network = sys.modules["host_network"]
    with kernels(host).training():
        taken = {OVERRIDE: lambda *args, **settings: torch.zeros(1)}
        assert not learns(network, transformer_options=taken)


def test_a_module_that_came_meanwhile_is_as_it_was_too(host, monkeypatch):
    late = ModuleType("late")
    with kernels(host).training():
        late.optimized_attention = host.optimized_attention
        monkeypatch.setitem(sys.modules, "late", late)
    assert late.optimized_attention is chosen
    with kernels(host).training():
        assert learns(late)
