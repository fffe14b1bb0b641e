"""The loss against hand-worked numbers and finite differences."""

import math

import pytest
import torch

from seppo_core import CRITERIA, DenoisingErrors, seppo_loss
from seppo_core.errors import ConfigError


def errors(winner, sample):
    return DenoisingErrors(
        torch.tensor(winner, dtype=torch.float64), torch.tensor(sample, dtype=torch.float64)
    )


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_loss_is_log_two_when_policy_equals_reference(criterion):
    same = errors([0.3, 0.7], [0.2, 0.1])
    terms = seppo_loss(same, same, beta=2000.0, criterion=criterion)
    assert terms.loss.tolist() == [math.log(2)] * 2


def test_hand_worked_example_where_the_sample_loses():
    # d_w = 0.1 - 0.3 = -0.2, d_r = 0.5 - 0.4 = 0.1, anchor = 0.2 > 0, so s = 1.
    # z = -(10 / 2) (-0.2 - 0.1) = 1.5; loss = log(1 + exp(-1.5)).
    terms = seppo_loss(errors([0.1], [0.5]), errors([0.3], [0.4]), beta=10.0, criterion="sign")
    assert terms.role.item() == 1
    assert terms.winner_margin.item() == pytest.approx(-0.2)
    assert terms.sample_margin.item() == pytest.approx(0.1)
    assert terms.logits.item() == pytest.approx(1.5)
    assert terms.loss.item() == pytest.approx(math.log1p(math.exp(-1.5)))


def test_winner_the_policy_explains_worse_flips_the_sample():
    # d_w = 0.1, d_r = -0.2, s = -1: z = -5 (0.1 - 0.2) = 0.5.
    terms = seppo_loss(errors([0.4], [0.2]), errors([0.3], [0.4]), beta=10.0, criterion="sign")
    assert terms.role.item() == -1
    assert terms.logits.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("criterion", "roles"),
    [
        ("sign", [1.0, 0.0, -1.0]),
        ("indicator", [1.0, 0.0, 0.0]),
        ("none", [1.0, 1.0, 1.0]),
        ("constant", [0.25, 0.25, 0.25]),
    ],
)
def test_roles_of_a_policy_ahead_level_and_behind(criterion, roles):
    terms = seppo_loss(
        errors([0.1, 0.2, 0.3], [0.5] * 3),
        errors([0.2, 0.2, 0.2], [0.5] * 3),
        beta=1.0,
        criterion=criterion,
        loser_weight=0.25,
    )
    assert terms.role.tolist() == roles


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_gradient_is_the_formula_of_the_paper(criterion):
    # dL/de_w = (beta / 2) sigma(-z), dL/de_r = -s (beta / 2) sigma(-z).
    policy = errors([0.1, 0.4], [0.5, 0.2])
    policy.winner.requires_grad_()
    policy.sample.requires_grad_()
    terms = seppo_loss(policy, errors([0.3, 0.3], [0.4, 0.4]), beta=10.0, criterion=criterion)
    terms.loss.sum().backward()
    weight = 5 * torch.sigmoid(-terms.logits.detach())
    torch.testing.assert_close(policy.winner.grad, weight)
    torch.testing.assert_close(policy.sample.grad, -terms.role * weight)


def test_gradient_matches_finite_differences():
    reference = errors([0.3, 0.3], [0.4, 0.4])

    def loss(winner, sample):
        return seppo_loss(DenoisingErrors(winner, sample), reference, beta=4.0).loss.sum()

    policy = errors([0.1, 0.4], [0.5, 0.2])
    inputs = (policy.winner.requires_grad_(), policy.sample.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6)


def test_no_gradient_reaches_the_reference():
    reference = errors([0.3], [0.4])
    reference.winner.requires_grad_()
    policy = errors([0.1], [0.5])
    policy.winner.requires_grad_()
    seppo_loss(policy, reference, beta=1.0).loss.sum().backward()
    assert reference.winner.grad is None


def test_at_equality_the_gradient_of_sign_and_indicator_is_the_winners_alone():
    for criterion in ("sign", "indicator"):
        policy = errors([0.3], [0.4])
        policy.winner.requires_grad_()
        policy.sample.requires_grad_()
        seppo_loss(policy, errors([0.3], [0.4]), beta=8.0, criterion=criterion).loss.backward()
        assert policy.winner.grad.item() == 2.0  # (8 / 2) * sigma(0)
        assert policy.sample.grad.item() == 0.0


def test_unknown_criterion_lists_the_choices():
    with pytest.raises(ConfigError, match="constant.*indicator.*none.*sign"):
        seppo_loss(errors([0.1], [0.1]), errors([0.1], [0.1]), beta=1.0, criterion="coin")


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 10.0])
def test_a_random_gate_opens_at_its_rate_whatever_the_anchor_says(chance, scale):
    anchor = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * scale
    role = CRITERIA["random"](anchor, chance)
    assert set(role.tolist()) <= {0.0, 1.0}
    groups = [anchor > 0, anchor < 0, anchor.abs() > scale, anchor.abs() < scale / 4]
    for group in groups:  # five standard deviations of a mean over at least 3,900 coins
        assert role[group].mean().item() == pytest.approx(chance, abs=0.04)
    assert not torch.equal(role, CRITERIA["random"](anchor.roll(1), chance)) or chance in (0, 1)


def test_a_random_gate_leaves_out_ties_and_draws_the_same_again():
    anchor = torch.tensor([0.0, 0.1, -0.1])
    assert CRITERIA["random"](anchor, 1.0).tolist() == [0.0, 1.0, 1.0]
    first = CRITERIA["random"](torch.linspace(-1, 1, 99), 0.5)
    assert torch.equal(first, CRITERIA["random"](torch.linspace(-1, 1, 99), 0.5))
