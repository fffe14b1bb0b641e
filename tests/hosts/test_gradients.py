"""The gradient of a whole SePPO step, on every architecture, with and without checkpointing."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch
from denoising import flat_gradient, make_case

BETA = 8.0
UP = 0.02


def pair_errors(case) -> torch.Tensor:
    """Errors of a winner and its sample, which share text, noise and level."""
    denoiser = case.denoiser
    return (
        denoiser.residuals(
            denoiser.scale_latents(case.latents),
            case.noise[:1].expand_as(case.noise),
            denoiser.levels(torch.tensor([0.6, 0.6])),
            denoiser.prepare([case.conds[0], case.conds[0]], case.shape),
        )
        .square()
        .flatten(1)
        .mean(1)
    )


def step_loss(case, reference: torch.Tensor) -> torch.Tensor:
    """SePPO loss of the policy's errors against the reference's, as the trainer makes it; float64."""
    core = case.host.core("method.objectives")
    policy, reference = (
        core.DenoisingErrors(*errors.double().chunk(2)) for errors in (pair_errors(case), reference)
    )
    return core.seppo_loss(policy, reference, beta=BETA, criterion="sign").loss.mean()


def base_errors(case, lora) -> torch.Tensor:
    with torch.no_grad(), lora.using(None):
        return pair_errors(case)


def gradient(case, checkpointing: bool) -> torch.Tensor:
    with case.trained(UP, gradient_checkpointing=checkpointing) as lora:
        step_loss(case, base_errors(case, lora)).backward()
        return flat_gradient(lora)


@contextmanager
def trainer_on(case, checkpointing: bool):
    """The product's Trainer about to take a step: policy and reference are both away from the base.

    Two micro-batches of one winner each; the reference drew a sample for each winner. No clipping.
    """
    core = case.host.core
    config = case.config(
        accumulation=2,
        loss={"beta": BETA},
        references={"selection": "latest", "sampler": "euler", "sampling_steps": 2},
        lora={"rank": 2},
        optimizer={"clip": 0.0},
        compute={"gradient_checkpointing": checkpointing},
    )
    with case.denoiser.session(config.compute):
        trainer = core("training.session").Trainer(case.denoiser, case.dataset(), config, {}, None)
        trainer.start(None)
        reference, policy = (off_base(trainer.lora.state(), seed) for seed in (1, 2))
        trainer.pool.add(core("method.references").Snapshot(1, reference))
        trainer.lora.load(policy)
        with trainer.lora.attached():
            trainer._open_batch(0)
            assert trainer.batch.reference.step == 1
            yield trainer


def off_base(weights: dict, seed: int) -> dict:
    """These LoRA weights with `up` normal, deviation UP, drawn from `seed`."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: UP * torch.randn(weight.shape, generator=draw) if name.endswith("up") else weight
        for name, weight in weights.items()
    }


def slopes(trainer, change: float) -> list[tuple[float, float]]:
    """(slope by the step's gradient, by central differences) along the gradient, and along a direction in
    which every weight tensor has the same say, small ones too; the loss moves by about `change` each way."""
    weights = trainer.parameters
    starts = [weight.detach().clone() for weight in weights]
    roles = trainer.gradients.of_step(1, trainer.batch)["flip_rate"]
    parts = [weight.grad.clone() for weight in weights]
    pairs = []
    for direction in (parts, [part / part.norm() for part in parts]):
        slope = sum((part * way).sum() for part, way in zip(parts, direction, strict=True)).item()
        losses = []
        for step in (change / slope, -change / slope):
            with torch.no_grad():
                for weight, start, way in zip(weights, starts, direction, strict=True):
                    weight.copy_(start + step * way)
            statistics = trainer.gradients.of_step(1, trainer.batch)
            assert statistics["flip_rate"] == roles
            losses.append(statistics["loss"])
        pairs.append((slope, (losses[0] - losses[1]) / (2 * change / slope)))
    return pairs


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_of_the_trainers_step_matches_finite_differences(host, kind, checkpointing):
    """Arithmetic is float32: the errors near 1, times beta / 2 = 4, are known to about 1e-6 and the loss
    is moved by 4e-3, so central differences are good to 1e-3; 1e-2 leaves room for curvature."""
    case = make_case(host, kind)
    with trainer_on(case, checkpointing) as trainer:
        for computed, measured in slopes(trainer, change=2e-3):
            assert computed > 0
            assert measured == pytest.approx(computed, rel=1e-2)


def test_checkpointing_leaves_the_gradient_of_a_step_as_it_is(host, kind):
    case = make_case(host, kind)
    plain, checkpointed = gradient(case, False), gradient(case, True)
    assert torch.cosine_similarity(plain, checkpointed, dim=0) > 0.99999
    assert checkpointed.norm().item() == pytest.approx(plain.norm().item(), rel=1e-4)


def blocks_that_add_in_place(host) -> str:
    """Flux adds to its stream in place; 0.3.64 cannot load a thin one."""
    if host.version < (0, 33, 0):
        pytest.skip("0.3.64 fixes Flux's width at 3072, too large for a test")
    return "flux"


def test_in_place_blocks_without_the_mode_are_refused_with_and_without_checkpointing(
    host, monkeypatch
):
    case = make_case(host, blocks_that_add_in_place(host))
    monkeypatch.setattr(host.core("denoisers.autograd"), "out_of_place", nullcontext)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(case, False)
    with pytest.raises(host.core("errors").UnsupportedModelError, match="changed in place"):
        gradient(case, True)


def test_in_place_blocks_without_mode_and_guard_would_train_on_a_wrong_gradient(host, monkeypatch):
    case = make_case(host, blocks_that_add_in_place(host))
    right = gradient(case, True)
    autograd = host.core("denoisers.autograd")
    monkeypatch.setattr(autograd, "out_of_place", nullcontext)
    monkeypatch.setattr(autograd, "_require_unchanged", lambda versions, forward: None)
    wrong = gradient(case, True)
    assert torch.isfinite(wrong).all()
    assert torch.cosine_similarity(right, wrong, dim=0) < 0.99


def test_host_kernels_without_gradient_are_off_in_a_session_and_back_on_after_it(host):
    import comfy.model_management as management

    case = make_case(host, blocks_that_add_in_place(host))
    with case.trained(UP):
        assert management.in_training
        management.in_training = False  # what a session without the flag would run into
        with pytest.raises((RuntimeError, NotImplementedError)):
            case.errors().sum().backward()
    assert not management.in_training


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp8"])
def test_base_weights_of_any_storage_train_and_stay_as_they_are(host, dtype):
    case = make_case(host, "sd3", dtype)
    stored = case.denoiser.network.joint_blocks[0].x_block.mlp.fc1.weight.dtype
    assert str(stored).endswith(
        {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float8_e4m3fn"}[dtype]
    )
    found = gradient(case, True)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all() and found.norm() > 0
    assert case.denoiser.network.joint_blocks[0].x_block.mlp.fc1.weight.dtype == stored


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_policy_with_gradient_ties_with_an_equal_reference_to_the_bit(host, kind, precision):
    """up = 0: the policy is the base. Ties decide the roles, so they must be exact."""
    case = make_case(host, kind)
    levels = {"fp32": (0.3, 0.8), "fp16": (0.6,)}[precision]  # float16 is slow on a CPU
    with case.trained(0.0, precision=precision) as lora:
        assert (
            str(case.denoiser.compute_dtype)
            == {"fp32": "torch.float32", "fp16": "torch.float16"}[precision]
        )
        with torch.no_grad(), lora.using(lora.slot(lora.state())):
            reference = case.errors(levels)
        policy = case.errors(levels)
        assert policy.requires_grad
    with case.trained(0.0, precision=precision, gradient_checkpointing=True):
        checkpointed = case.errors(levels)
    assert torch.isfinite(policy).all()
    assert torch.equal(policy, reference)
    assert torch.equal(policy, checkpointed)


def test_a_model_that_already_carries_a_lora_trains_on_top_of_it(host):
    import comfy.sd

    plain = make_case(host, "sd15")
    with plain.trained(UP) as lora:
        file = {
            f"diffusion_model.{name}.lora_{part}.weight": weight.data.clone()
            for name, (down, up) in lora.policy.items()
            for part, weight in (("down", down), ("up", up))
        }
        with torch.no_grad():
            injected = plain.errors()
    patched, _ = comfy.sd.load_lora_for_models(plain.denoiser.model, None, file, 1.0, 0)
    case = make_case(host, "sd15", model=patched)
    with case.trained() as lora:
        start = case.errors()
        start.sum().backward()
        assert flat_gradient(lora).norm() > 0
    torch.testing.assert_close(start.detach(), injected, rtol=1e-3, atol=0)  # fp16 weights, patched
    assert case.denoiser.base_fingerprint() != plain.denoiser.base_fingerprint()
