"""Winners of several shapes: steps that mix them, in which every winner weighs the same."""

from dataclasses import replace

import pytest
import torch

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.data import EncodedDataset, Example, in_memory
from seppo_core.method.objectives import DenoisingErrors, LossConfig, mean_square, seppo_loss
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import generator, normal
from seppo_core.runs.run import Run
from seppo_core.training.batch import BatchPlan
from seppo_core.training.config import RunConfig
from seppo_core.training.guard import GuardConfig
from seppo_core.training.optim import OptimizerConfig

CONFIG = SePPOConfig(
    steps=7,
    batch_size=4,
    loss=LossConfig(beta=50.0, criterion="none"),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=3),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0),
    run=RunConfig(checkpoint_every=3, preview_every=1),
)
SHAPES = [(2, 4, 4)] * 5 + [(2, 4, 6), (2, 6, 4), (2, 4, 6), (2, 8, 4)]


def mixed(paired: bool = False) -> EncodedDataset:
    """Nine winners of four shapes: three steps of three."""
    return in_memory(
        [
            Example(
                latents=0.3 * normal(shape, "winner", i) + 0.5,
                cond=normal((3,), "text", i),
                caption=f"winner {i}",
                losing=normal(shape, "losing", i) if paired else None,
            )
            for i, shape in enumerate(SHAPES)
        ]
    )


def trained(policy, dataset, config):
    reports = list(train(policy, dataset, config))
    return policy.lora.state(), reports


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("objective", ["preference", "winner_error"])
@pytest.mark.parametrize("count", [9, 8, 7])
def test_the_gradient_is_the_sum_over_winners_one_by_one_in_every_step(
    make_policy, objective, count
):
    """Over the winners of a full step, also in the smaller steps of 8 or 7 winners: four, or four and three."""
    dataset = in_memory(mixed().examples[:count])
    config = replace(CONFIG, loss=replace(CONFIG.loss, objective=objective), steps=3)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=0.0))
    _, reports = trained(make_policy(), dataset, config)
    plan, policy = BatchPlan(dataset.shapes, 4, 0), make_policy()
    lora = LoRA(policy.network, config.lora, config.seed, policy.device)
    for step, report in enumerate(reports, 1):
        losses = []
        for i, position in enumerate(plan.batch(step - 1)):
            example = dataset[position]
            shape, cond = tuple(example.latents.shape), example.cond[None]
            noise = normal(shape, 0, step, 0, "noise", i)[None]
            level = torch.rand(1, generator=generator(0, step, 0, "level", i))
            with lora.attached():
                won = mean_square(policy.residuals(example.latents[None] * 2, noise, level, cond))
                if objective == "winner_error":
                    losses.append(won)
                    continue
                start = normal(shape, 0, step - 1, 0, "sample", i)[None]
                with torch.no_grad():
                    drawn = policy.sample([example.cond], start, config.references, 0)
                lost = mean_square(policy.residuals(drawn, noise, level, cond))
            current = DenoisingErrors(won, lost)
            before = DenoisingErrors(won.detach(), lost.detach())
            losses.append(seppo_loss(current, before, beta=50.0, criterion="none").loss)
        summed = torch.cat(losses).sum() / plan.fullest
        gradients = torch.autograd.grad(summed, lora.parameters())
        norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients)).item()
        assert report.grad_norm == pytest.approx(norm, rel=1e-4)
        assert report.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_mixed_steps_resume_to_the_bit(make_policy, tmp_path, paired, stop):
    dataset = mixed(paired)
    config = replace(CONFIG, loss=replace(CONFIG.loss, paired=paired))
    config = replace(config, references=replace(config.references, reuse=2))
    whole, _ = trained(make_policy(), dataset, config)
    config = replace(config, run=replace(config.run, directory=str(tmp_path)))
    stopped = train(make_policy(), dataset, config)
    for _ in range(stop):
        next(stopped)
    stopped.close()
    parts, _ = trained(make_policy(), dataset, config)
    assert same(whole, parts)
    assert [line["step"] for line in Run(tmp_path).metrics()] == list(range(1, 8))


@pytest.mark.parametrize("changes", [{"batch_size": 1, "accumulation": 4}, {"split": 1}])
def test_smaller_parts_give_what_whole_steps_give(make_policy, changes):
    whole, reports = trained(make_policy(), mixed(), CONFIG)
    policy, most = make_policy(), changes.pop("split", 4)
    errors = policy.residuals

    def limited(latents, *rest):
        if torch.is_grad_enabled() and len(latents) > 2 * most:
            raise torch.cuda.OutOfMemoryError("Tried to allocate 2.50 GiB")
        return errors(latents, *rest)

    policy.residuals = limited
    guard = GuardConfig(out_of_memory="split")
    parts, others = trained(policy, mixed(), replace(CONFIG, guard=guard, **changes))
    for key in whole:
        torch.testing.assert_close(whole[key], parts[key], rtol=1e-4, atol=1e-5)
    for one, other in zip(reports, others, strict=True):
        assert [row.winner for row in one.examples] == [row.winner for row in other.examples]


def test_every_winner_is_looked_at_equally_often_and_with_samples_of_its_own_shape(make_policy):
    config, policy, drawn = replace(CONFIG, steps=9), make_policy(), []
    sample = policy.sample

    def recorded(conds, noise, *rest):
        drawn.extend([tuple(noise.shape[1:])] * len(conds))
        return sample(conds, noise, *rest)

    policy.sample = recorded
    _, reports = trained(policy, mixed(), config)
    seen = [row.winner for report in reports for row in report.examples]
    assert sorted(seen) == sorted(list(range(9)) * 3)
    assert drawn == [SHAPES[winner] for winner in seen]
    for report in reports:
        assert tuple(report.preview.shape[1:]) == SHAPES[report.examples[0].winner]
