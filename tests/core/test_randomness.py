"""Global generators around foreign code: seeded for it, and afterwards as they were."""

import logging
import random

import numpy as np
import pytest
import torch
from torch import nn

from seppo_core.denoisers.autograd import checkpointed
from seppo_core.randomness import isolated_global_rng
from seppo_core.training.config import SePPOConfig
from seppo_core.training.trainer import train

DRAWS = (lambda: torch.rand(()).item(), random.random, np.random.rand)


def test_foreign_code_draws_the_same_whatever_was_drawn_before_and_leaves_no_trace():
    drawn = []
    for before in (1, 2):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        with isolated_global_rng(7):
            drawn.append(torch.randn(3))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*drawn)
    with isolated_global_rng(8):
        assert not torch.equal(torch.randn(3), drawn[0])


@pytest.mark.parametrize(
    ("backend", "in_use", "suffix"),
    [
        (torch.mps, (torch.backends.mps, "is_available"), ""),
        (torch.xpu, (torch.xpu, "is_initialized"), "_all"),
    ],
)
def test_generators_of_other_devices_are_given_back_even_after_an_error(
    monkeypatch, backend, in_use, suffix
):
    """Neither device is here, so torch's own functions are stood in for; `state` is the device's."""
    state = {"seed": 5}
    monkeypatch.setattr(*in_use, lambda: True)
    monkeypatch.setattr(backend, f"get_rng_state{suffix}", lambda: state["seed"])
    monkeypatch.setattr(backend, f"set_rng_state{suffix}", lambda seed: state.update(seed=seed))
    monkeypatch.setattr(backend, f"manual_seed{suffix}", lambda seed: state.update(seed=seed))
    with pytest.raises(KeyError), isolated_global_rng(7):
        assert state["seed"] == 7
        raise KeyError
    assert state["seed"] == 5


@pytest.mark.parametrize("draw", DRAWS)
def test_a_block_that_is_computed_again_draws_again_what_it_drew(draw):
    class Noisy(nn.Module):
        def forward(self, x):
            return torch.sin(x * (1 + draw()))

    block, grads, drawn = Noisy(), [], []
    for blocks in ([], [block]):
        x = torch.ones(3, requires_grad=True)
        with isolated_global_rng(5), checkpointed(blocks):
            out = block(block(x)).sum()
            between = draw()
            (grad,) = torch.autograd.grad(out, x)
            drawn.append((between, draw()))
        grads.append(grad)
    assert torch.equal(*grads)
    assert drawn[0] == drawn[1]


def test_patches_that_draw_at_random_draw_the_same_for_policy_and_reference(
    policy, dataset, caplog
):
    for draw in DRAWS:
        hook = policy.network.conv.register_forward_hook(
            lambda module, args, output, draw=draw: output * (1 + draw())
        )
        (report, *_) = train(policy, dataset, SePPOConfig(steps=1))
        hook.remove()
        assert report.winner_margin == 0
    assert not caplog.records


def test_who_predicts_another_thing_each_time_is_warned_once(policy, dataset, caplog):
    own = torch.Generator().manual_seed(0)
    policy.network.conv.register_forward_hook(
        lambda module, args, output: output * (1 + torch.rand((), generator=own))
    )
    with caplog.at_level(logging.WARNING):
        list(train(policy, dataset, SePPOConfig(steps=2)))
    assert caplog.text.count("predicts something else each time") == 1
