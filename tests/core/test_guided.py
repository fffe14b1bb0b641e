"""The objective that aims beyond the winner, and drawing away from weaker weights."""

from dataclasses import replace

import pytest
import torch

from seppo_core import DenoisingErrors, train
from seppo_core.adapters.lora import LoRA
from seppo_core.data import in_memory
from seppo_core.denoisers.guides import Guide, HostGuide, guided
from seppo_core.errors import ConfigError
from seppo_core.method.objectives import OBJECTIVES, LossConfig, mean_square
from seppo_core.randomness import normal
from seppo_core.training.config import RunConfig, SePPOConfig
from seppo_core.training.held_out import HeldOut
from seppo_core.training.optim import OptimizerConfig


def terms_of(prediction, reference, target, guidance):
    """Loss terms of predictions [B, ...], for a target that both know."""
    config = LossConfig(objective="guided", guidance=guidance)
    found = [
        DenoisingErrors(mean_square(one - target), residual=one - target)
        for one in (prediction, reference)
    ]
    return OBJECTIVES["guided"].loss(*found, config)


@pytest.fixture
def predictions():
    """(policy's, with gradient; reference's; target), [3, 4, 5, 5], float64."""
    shape = (3, 4, 5, 5)
    policy, reference, target = (normal(shape, name).double() for name in "prt")
    return policy.requires_grad_(), reference, target


def test_a_guidance_of_one_is_fine_tuning(predictions):
    policy, reference, target = predictions
    torch.testing.assert_close(
        terms_of(policy, reference, target, 1.0).loss, mean_square(policy - target)
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0, 5.0, 10.0])
def test_its_minimum_lies_so_many_times_as_far_from_the_reference_as_the_target(
    predictions, guidance
):
    policy, reference, target = predictions
    beyond = (reference + guidance * (target - reference)).requires_grad_()
    loss = terms_of(beyond, reference, target, guidance).loss
    assert loss.abs().max() < 1e-12
    elsewhere = beyond.detach() + 0.1 * policy.detach()
    assert (terms_of(elsewhere, reference, target, guidance).loss > 1e-4 / guidance).all()


@pytest.mark.parametrize("guidance", [1.0, 2.0, 5.0])
def test_where_policy_and_reference_are_one_its_gradient_is_that_of_fine_tuning(
    predictions, guidance
):
    _, reference, target = predictions
    policy = reference.clone().requires_grad_()
    terms = terms_of(policy, reference, target, guidance)
    assert terms.winner_margin.tolist() == [0.0] * 3  # a tie, to the bit
    (found,) = torch.autograd.grad(terms.loss.sum(), policy)
    (expected,) = torch.autograd.grad(mean_square(policy - target).sum(), policy)
    torch.testing.assert_close(found, expected)


def test_margins_are_those_of_the_policy_drawn_back(predictions):
    policy, reference, target = predictions
    between = reference + (policy.detach() - reference) / 4
    terms = terms_of(policy, reference, target, 4.0)
    expected = mean_square(between - target) - mean_square(reference - target)
    torch.testing.assert_close(terms.winner_margin, expected)
    assert not terms.winner_margin.requires_grad
    assert terms.role.isnan().all() and terms.sample_margin.isnan().all()


def test_guidance_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"loss.guidance must be at least 1, got 0.5"):
        LossConfig(objective="guided", guidance=0.5)


CONFIG = SePPOConfig(
    steps=60,
    batch_size=3,
    loss=LossConfig(objective="guided", guidance=4.0),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0),
    run=RunConfig(preview_every=0, held_out_every=20),
)


def errors_after(policy, dataset, config) -> tuple[torch.Tensor, list]:
    """Mean residuals of a trained policy at fixed draws, and its reports."""
    reports = list(train(policy, dataset, config))
    latents = torch.stack([dataset[i].latents for i in range(len(dataset))])
    conds = [dataset[i].cond for i in range(len(dataset))]
    prepared = policy.prepare(conds, tuple(latents.shape[1:]))
    level = torch.full((len(latents),), 0.7)
    noise = normal(tuple(latents.shape), "fixed")
    with torch.no_grad(), policy.lora.attached():
        found = policy.residuals(latents, noise, level, prepared)
        with policy.lora.using(None):
            base = policy.residuals(latents, noise, level, prepared)
    return found - base, reports


def test_training_moves_further_than_fine_tuning_and_tells_margins_that_fall(make_policy, dataset):
    plain = replace(CONFIG, loss=LossConfig(objective="winner_error"))
    selection = replace(CONFIG.references, selection="initial")
    guided, reports = errors_after(make_policy(), dataset, replace(CONFIG, references=selection))
    tuned, _ = errors_after(make_policy(), dataset, plain)
    assert guided.norm() > 1.5 * tuned.norm()
    assert torch.cosine_similarity(guided.flatten(), tuned.flatten(), dim=0) > 0.8
    assert reports[0].winner_margin == 0.0
    assert all(report.winner_margin < 0 for report in reports[-10:])
    assert reports[-1].flip_rate is None and reports[-1].reference_error is not None


def test_held_out_margins_are_those_of_the_policy_drawn_back(make_policy, make_examples):
    winners, held_out = in_memory(make_examples(6)), in_memory(make_examples(6))
    winners.held_out = held_out
    policy, config = make_policy(), replace(CONFIG, loss=replace(CONFIG.loss, guidance=8.0))
    reports = list(train(policy, winners, config))
    margins = [r.held_out_margin for r in reports if r.held_out_margin is not None]
    assert len(margins) == 3
    assert all(margin < 0 for margin in margins)
    lora, trained = policy.lora, policy.lora.state()
    initial = {
        name: weight * 0 if name.endswith("up") else weight for name, weight in trained.items()
    }
    with lora.attached():
        own = HeldOut(policy, lora, held_out, initial, 3).margin()
        drawn_back = HeldOut(policy, lora, held_out, initial, 3, overshoot=8.0).margin()
    assert drawn_back == pytest.approx(margins[-1], rel=1e-5)
    assert drawn_back < own  # its own error rises again beyond the target


# Drawing


def linear(weight):
    """A network of one number for each caption: predictions that tell who made them."""
    return {"base": 1.0, "policy": 10.0}[weight]


class Recorder:
    """`predict` and `using` of a network whose weights are a name, and which calls were made."""

    def __init__(self):
        self.active, self.calls = "policy", []

    def predict(self, cond):
        self.calls.append((self.active, cond["text"].tolist()))
        return linear(self.active) * cond["text"]

    def using(self, slot):
        recorder = self

        class Using:
            def __enter__(self):
                self.before, recorder.active = recorder.active, "base" if slot is None else slot

            def __exit__(self, *fault):
                recorder.active = self.before

        return Using()


POSITIVE, NEGATIVE = {"text": torch.tensor([1.0, 2.0])}, {"text": torch.tensor([3.0, 4.0])}


def test_without_a_guide_both_go_through_the_network_at_once():
    made = Recorder()
    found = guided(made.predict, POSITIVE, NEGATIVE, 2.0, None, made.using)
    assert made.calls == [("policy", [3.0, 4.0, 1.0, 2.0])]
    assert found.tolist() == [30 + 2 * (10 - 30), 40 + 2 * (20 - 40)]


def test_the_base_draws_the_negative_at_no_cost():
    made = Recorder()
    found = guided(made.predict, POSITIVE, NEGATIVE, 2.0, Guide(), made.using)
    assert made.calls == [("policy", [1.0, 2.0]), ("base", [3.0, 4.0])]
    assert found.tolist() == [3 + 2 * (10 - 3), 4 + 2 * (20 - 4)]


def test_extrapolating_costs_one_call_more():
    made = Recorder()
    found = guided(made.predict, POSITIVE, NEGATIVE, 2.0, Guide(extrapolation=3.0), made.using)
    assert len(made.calls) == 3
    first = 1 + 3 * (10 - 1)
    assert found[0].item() == 3 + 2 * (first - 3)


@pytest.mark.parametrize(("extrapolation", "calls"), [(1.0, 1), (2.0, 2)])
def test_without_guidance_the_negative_is_not_asked_for(extrapolation, calls):
    made = Recorder()
    found = guided(
        made.predict, POSITIVE, None, 1.0, Guide(extrapolation=extrapolation), made.using
    )
    assert len(made.calls) == calls
    assert found[0].item() == 1 + extrapolation * (10 - 1)


def test_the_host_asks_nobody_where_nothing_is_to_be_predicted(make_policy):
    """A guider may have conditionings of other names, and none at all."""
    policy = make_policy()
    lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
    calls = []

    def executor(model, conds, *rest):
        calls.append([cond is not None for cond in conds])
        return [torch.zeros(1)] * len(conds)

    host = HostGuide(lora, Guide())
    assert len(host.predict(executor, None, [[{"uuid": 1}], None])) == 2
    assert calls == [[True, False]]
