"""A layer that no gradient reaches, though it counts, ends the run before it trained."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

from seppo_core.adapters.lora import LoRA
from seppo_core.errors import UnsupportedModelError
from seppo_core.method.objectives import mean_square
from seppo_core.randomness import normal
from seppo_core.settings import from_dict
from seppo_core.training.config import SePPOConfig
from seppo_core.training.reach import require_reach
from seppo_core.training.trainer import train


def config(**sections):
    defaults = {"steps": 2, "batch_size": 2, "lora": {"rank": 2, "modules": "all"}}
    return from_dict(SePPOConfig, defaults | sections)


def deafened(policy, *names):
    """What comes before these layers gets no gradient through them; a path of theirs still does."""
    for name in names:
        layer = policy.network.get_submodule(name)
        layer.register_forward_pre_hook(lambda module, args: tuple(x.detach() for x in args))
    return policy


def unused_called(network):
    def call(module, args):
        network.unused(args[0])

    return call


def test_layers_behind_a_kernel_without_gradient_are_named(policy, dataset):
    deafened(policy, "attn_mix")
    with pytest.raises(UnsupportedModelError, match=r"2 of the LoRA's 4 layers .*: conv, text\. "):
        next(train(policy, dataset, config()))
    assert all(up.abs().max() == 0 for _, up in policy.lora.policy.values())


@pytest.mark.parametrize("objective", ["preference", "winner_error"])
def test_every_layer_behind_it_is_an_error_too_not_torchs_own_words(policy, dataset, objective):
    deafened(policy, "out")
    chosen = config(lora={"rank": 2, "pattern": "conv|text|attn"}, loss={"objective": objective})
    with pytest.raises(UnsupportedModelError, match="has no gradient .*--use-sage-attention"):
        next(train(policy, dataset, chosen))


def test_an_operator_without_a_gradient_is_explained(policy, dataset):
    @torch.library.custom_op("seppo_test::norm", mutates_args=())
    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    policy.network.attn_mix.register_forward_pre_hook(lambda module, args: (norm(args[0]),))
    with pytest.raises(UnsupportedModelError, match=r"seppo_test\.norm"):
        next(train(policy, dataset, config()))


def test_a_layer_whose_output_nobody_uses_is_no_reason_to_stop(policy, dataset):
    network = policy.network
    network.unused = nn.Linear(3, 3)
    network.text.register_forward_pre_hook(unused_called(network))
    network.never_called = nn.Linear(3, 3)
    steps = list(train(policy, dataset, config()))
    assert [report.step for report in steps] == [1, 2]


def test_a_loss_that_asks_for_nothing_is_no_reason_to_stop(make_policy):
    """Zeros everywhere, as where winner and sample are one picture: the errors' own gradient tells."""
    inputs = (normal((2, 2, 4, 4), "x"), normal((2, 2, 4, 4), "e"), torch.rand(2), torch.ones(2, 3))
    for policy, hears in ((make_policy(), True), (deafened(make_policy(), "attn_mix"), False)):
        lora = LoRA(policy.network, config().lora, 0, policy.device)
        with lora.attached():
            for weight in lora.parameters():
                weight.grad = torch.zeros_like(weight)
            refused = pytest.raises(UnsupportedModelError, match="conv, text")
            with nullcontext() if hears else refused:
                require_reach(
                    lora,
                    lambda policy=policy: mean_square(policy.residuals(*inputs)),
                    zeros_tell=True,
                )
        assert all(not weight.grad.any() for weight in lora.parameters())


def test_a_gradient_that_rounds_to_zero_in_most_layers_is_no_reason_to_stop(make_policy):
    """Where the policy is far ahead the loss asks for next to nothing: what is left after rounding may be one layer's."""
    policy = make_policy()
    lora = LoRA(policy.network, config().lora, 0, policy.device)
    with lora.attached():
        for name, pair in lora.policy.items():
            for weight in pair:
                weight.data += 0.1 * normal(tuple(weight.shape), name)
                weight.grad = torch.zeros_like(weight)
        next(iter(lora.policy.values()))[1].grad += 1e-45
        inputs = (normal((2, 2, 4, 4), "x"), normal((2, 2, 4, 4), "e"), torch.rand(2))
        residuals = partial(policy.residuals, *inputs, torch.ones(2, 3))
        require_reach(lora, lambda: mean_square(residuals()), zeros_tell=True)
        assert [w.grad.abs().max() > 0 for w in lora.parameters()].count(True) == 1


def test_the_question_is_asked_once_in_a_session(policy, dataset):
    network = policy.network
    network.unused = nn.Linear(3, 3)
    network.text.register_forward_pre_hook(unused_called(network))
    calls = []
    for _ in train(policy, dataset, config(steps=3)):
        calls.append(policy.calls)
    asked = calls[0] - (calls[1] - calls[0])
    assert asked == 4  # three times as it is, once with other weights in what has no gradient
    assert calls[2] - calls[1] == calls[1] - calls[0]
