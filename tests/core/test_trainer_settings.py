"""Settings whose effect, or the lack of one, shows in the weights of a tiny run."""

from dataclasses import replace

import pytest
import torch

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.training.config import RunConfig
from seppo_core.training.optim import OptimizerConfig

CONFIG = SePPOConfig(
    steps=1,
    batch_size=4,
    loss=LossConfig(beta=50.0, criterion="none"),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=3),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0, clip=0.0),
    run=RunConfig(preview_every=0),
)


def trained(policy, dataset, config):
    """(the weights in one vector, the reports)"""
    reports = list(train(policy, dataset, config))
    weights = policy.lora.state()
    return torch.cat([weights[name].flatten() for name in sorted(weights)]), reports


def clipped(clip):
    return replace(CONFIG, optimizer=replace(CONFIG.optimizer, clip=clip))


def test_clip_bounds_the_gradient_that_the_optimizer_sees(make_policy, dataset):
    """Adam's first update is lr g / (|g| + 1e-8) per entry, so its norm is at most lr |g| / 1e-8.

    A gradient cut to norm 1e-10 moves the weights by at most 0.02 x 0.01; left alone it moves every
    entry it is not all but zero at by 0.02. `up` starts at zero and is alone in having a gradient.
    """
    start, _ = trained(
        make_policy(),
        dataset,
        replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=0.0)),
    )
    bounded, cut = trained(make_policy(), dataset, clipped(1e-10))
    free, whole = trained(make_policy(), dataset, clipped(0.0))
    assert 0 < (bounded - start).norm() <= 0.02 * 0.01 * 1.001
    assert (free - start).abs().max() == pytest.approx(0.02, rel=1e-3)
    assert cut[0].grad_norm == whole[0].grad_norm > 1e-3  # reported as it was before clipping


def test_clip_above_the_gradients_norm_changes_nothing(make_policy, dataset):
    free, reports = trained(make_policy(), dataset, replace(clipped(0.0), steps=4))
    longest = max(report.grad_norm for report in reports)
    above, _ = trained(make_policy(), dataset, replace(clipped(2 * longest), steps=4))
    below, _ = trained(make_policy(), dataset, replace(clipped(longest / 1e9), steps=4))
    assert torch.equal(above, free)
    assert (below - free).abs().max() > 0.01


@pytest.mark.parametrize("size", [1, 3])
def test_how_many_samples_are_drawn_at_once_changes_no_result(make_policy, dataset, size):
    def config(batch_size):
        return replace(
            CONFIG, steps=4, references=replace(CONFIG.references, batch_size=batch_size)
        )

    together, _ = trained(make_policy(), dataset, config(4))
    chunked, reports = trained(make_policy(), dataset, config(size))
    assert [report.flip_rate for report in reports] == [0.0] * 4  # every sample is pushed away
    assert (chunked - together).abs().max() <= 1e-5 * together.abs().max()
