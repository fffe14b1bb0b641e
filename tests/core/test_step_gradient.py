"""The accumulated gradient of the trainer's step against central differences, in double precision."""

import pytest

from seppo_core import SePPOConfig
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig, Snapshot
from seppo_core.randomness import normal
from seppo_core.training.optim import OptimizerConfig
from seppo_core.training.session import Trainer


def off_base(lora, seed):
    return {
        name: 0.3 * normal(tuple(weight.shape), "up", seed, name) if name.endswith("up") else weight
        for name, weight in lora.state().items()
    }


def precise_trainer(make_policy, dataset, loss, accumulation):
    """Before a step: policy and reference both off the base, every number float64, nothing clipped."""

    class Precise(make_policy):
        def scale_latents(self, latents):
            return super().scale_latents(latents).double()

        def prepare(self, conds, shape):
            return super().prepare(conds, shape).double()

        def residuals(self, latents, noise, levels, prepared):
            return super().residuals(latents, noise.double(), levels.double(), prepared)

        def sample(self, conds, noise, sampling, seed):
            return super().sample(conds, noise.double(), sampling, seed)

    policy = Precise()
    policy.network.double()
    config = SePPOConfig(
        steps=1,
        batch_size=4 // accumulation,
        accumulation=accumulation,
        loss=loss,
        references=ReferenceConfig(selection="latest", sampling_steps=2),
        lora=LoRAConfig(rank=2, modules="all"),
        optimizer=OptimizerConfig(clip=0.0),
    )
    trainer = Trainer(policy, dataset, config, {}, None)
    trainer.start(None)
    trainer.pool.add(Snapshot(1, off_base(trainer.lora, 1)))
    trainer.lora.load(off_base(trainer.lora, 2))
    for weight in trainer.parameters:
        weight.data = weight.data.double()
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "loss",
    [
        {"criterion": "sign"},
        {"criterion": "indicator"},
        {"criterion": "none"},
        {"criterion": "constant"},
    ],
)
def test_step_has_the_gradient_of_the_loss_it_reports(make_policy, dataset, loss, accumulation):
    """Central differences at h = 1e-4 of a loss known to 1e-16: good to about 1e-8; 1e-6 is asserted."""
    trainer = precise_trainer(make_policy, dataset, LossConfig(beta=5.0, **loss), accumulation)
    with trainer.lora.attached():
        trainer._open_batch(0)
        trainer.gradients.of_step(1, trainer.batch)
        computed = [weight.grad.clone() for weight in trainer.parameters]
        assert all(gradient.norm() > 0 for gradient in computed)
        for number, (weight, gradient) in enumerate(zip(trainer.parameters, computed, strict=True)):
            way = normal(tuple(weight.shape), "way", number).double()
            start, losses = weight.detach().clone(), []
            for step in (1e-4, -1e-4):
                weight.data = start + step * way
                losses.append(trainer.gradients.of_step(1, trainer.batch)["loss"])
            weight.data = start
            measured = (losses[0] - losses[1]) / 2e-4
            assert measured == pytest.approx((gradient * way).sum().item(), rel=1e-6, abs=1e-9)
