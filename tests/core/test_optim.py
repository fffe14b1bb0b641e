"""Every optimizer moves the weights, keeps its state through plain data, and schedules are as drawn."""

import json

import pytest
import torch
from torch import nn

from seppo_core.errors import MissingPackageError
from seppo_core.randomness import normal
from seppo_core.training import optim
from seppo_core.training.optim import (
    OPTIMIZERS,
    OptimizerConfig,
    evaluation_weights,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)

RATES = {"prodigy": 1.0}


def started(name):
    parameters = [nn.Parameter(normal((3, 2), "p", i)) for i in range(2)]
    config = OptimizerConfig(name=name, learning_rate=RATES.get(name, 1e-2))
    try:
        return parameters, make_optimizer(parameters, config)
    except MissingPackageError as error:
        pytest.skip(str(error))


def advance(parameters, optimizer, steps):
    for step in steps:
        for index, parameter in enumerate(parameters):
            parameter.grad = parameter.detach() + 0.1 * normal((3, 2), "g", step, index)
        optimizer.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_lowers_a_quadratic(name):
    parameters, optimizer = started(name)
    before = sum(p.square().sum().item() for p in parameters)
    advance(parameters, optimizer, range(60))
    with evaluation_weights(optimizer, parameters):
        assert sum(p.square().sum().item() for p in parameters) < 0.95 * before


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_continued_optimizer_equals_an_uninterrupted_one_to_the_bit(name):
    parameters, optimizer = started(name)
    advance(parameters, optimizer, range(3))
    weights = [p.detach().clone() for p in parameters]
    tensors, text = optimizer_state(optimizer)
    json.loads(text)
    advance(parameters, optimizer, range(3, 6))

    others, other = started(name)
    with torch.no_grad():
        for parameter, weight in zip(others, weights, strict=True):
            parameter.copy_(weight)
    load_optimizer_state(other, tensors, text)
    advance(others, other, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_goes_on_from_a_state_that_other_kernels_left(monkeypatch, fused):
    parameters, optimizer = started("adamw")
    advance(parameters, optimizer, range(3))
    weights, state = [p.detach().clone() for p in parameters], optimizer_state(optimizer)
    advance(parameters, optimizer, range(3, 6))

    monkeypatch.setattr(optim, "has_fused_adamw", lambda device: fused)
    others, other = started("adamw")
    with torch.no_grad():
        for parameter, weight in zip(others, weights, strict=True):
            parameter.copy_(weight)
    load_optimizer_state(other, *state)
    (group,) = other.param_groups
    assert (bool(group["fused"]), bool(group["foreach"])) == (fused, not fused)
    advance(others, other, range(3, 6))
    torch.testing.assert_close(others, parameters, rtol=1e-6, atol=1e-7)


def test_schedule_free_evaluates_averaged_weights_and_gives_back_the_trained_ones():
    parameters, optimizer = started("adamw_schedule_free")
    advance(parameters, optimizer, range(5))
    trained = [p.detach().clone() for p in parameters]
    with evaluation_weights(optimizer, parameters):
        assert not torch.equal(parameters[0], trained[0])
    assert all(torch.equal(a, b) for a, b in zip(parameters, trained, strict=True))


def test_learning_rate_warms_up_then_follows_its_schedule():
    def rates(schedule):
        config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup=0.2)
        return [learning_rate(config, step, 10) for step in range(1, 11)]

    assert rates("constant") == [0.5] + [1.0] * 9
    assert rates("linear") == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert rates("cosine")[6] == pytest.approx(
        0.5
    )  # half way through the eight steps after warm-up
    assert learning_rate(OptimizerConfig(learning_rate=1.0, warmup=0.0), 1, 10) == 1.0


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(MissingPackageError, match=r"bitsandbytes.*seppo\[bits\]"):
        make_optimizer([nn.Parameter(torch.zeros(1))], OptimizerConfig(name="adamw_8bit"))
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(MissingPackageError, match=r"pytorch-optimizer.*seppo\[optimizers\]"):
        make_optimizer([nn.Parameter(torch.zeros(1))], OptimizerConfig(name="lion"))


def test_adafactor_moves_weights_that_start_at_zero_at_the_learning_rate():
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = make_optimizer([weight], OptimizerConfig(name="adafactor", learning_rate=1e-3))
    for _ in range(10):
        weight.grad = torch.ones(4, 4)
        optimizer.step()
    # ten steps against a constant gradient, each of about the learning rate
    assert weight.mean().item() == pytest.approx(-10 * 1e-3, rel=0.3)


def test_a_run_that_got_more_steps_keeps_the_warm_up_it_began_with():
    config = OptimizerConfig(learning_rate=1.0, warmup=0.5)
    assert [learning_rate(config, step, 100, warm=2) for step in (1, 2, 3, 50)] == [0.5, 1, 1, 1]
