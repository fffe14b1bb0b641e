"""The memory of a step, computed without data, is what autograd keeps in a real one; and who is warned."""

from __future__ import annotations

import logging

import pytest
import torch
from denoising import make_case


def step(case, checkpointing: bool):
    """A dataset of the case's examples and the configuration of a step on one of them."""
    data = case.host.core("data")
    examples = [data.Example(x, c) for x, c in zip(case.latents, case.conds, strict=True)]
    config = case.config(
        lora={"rank": 4}, compute={"gradient_checkpointing": checkpointing, "precision": "fp32"}
    )
    return data.in_memory(examples), config


def plain_attention(func, *args, **kwargs):
    """The host's attention by torch's own function, whatever this device would take."""
    from comfy.ldm.modules.attention import attention_pytorch

    kwargs.pop("transformer_options", None)
    return attention_pytorch(*args, **kwargs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_what_autograd_keeps_of_winner_and_sample(host, kind, checkpointing):
    case = make_case(host, kind)
    estimate, policy = host.core("estimate"), case.denoiser
    dataset, config = step(case, checkpointing)
    with torch.inference_mode(False), policy.session(config.compute):
        call = estimate.call_of(policy, dataset)
        foreseen = estimate.step_bytes(policy, call, config, 1)
        lora = host.core("lora").LoRA(policy.network, config.lora, 0, policy.device)
        with lora.attached():
            options = policy._options["transformer_options"]
            options["optimized_attention_override"] = plain_attention
            with torch.no_grad(), estimate.recorded(policy.network) as calls:
                policy.errors(
                    policy.scale_latents(case.latents),
                    case.noise,
                    policy.levels(torch.full((2,), 0.5)),
                    policy.prepare(case.conds, case.shape),
                )
            ((args, kwargs),) = calls
            autograd = host.core("denoisers.autograd")
            with autograd.out_of_place():
                kept = estimate.kept_for_backward(
                    policy.network, lambda: policy.network(*args, **kwargs)
                )
    weights = sum(p.numel() * p.element_size() for p in lora.parameters())
    # The real attention keeps a number for each token and head besides; thin models have short heads.
    assert foreseen == pytest.approx(kept + estimate.COPIES * weights, rel=0.03)
    assert kept > weights


def test_checkpointing_is_foreseen_to_need_less(host):
    foreseen = []
    for checkpointing in (False, True):
        case = make_case(host, "sdxl")
        dataset, config = step(case, checkpointing)
        with torch.inference_mode(False), case.denoiser.session(config.compute):
            estimate, policy = host.core("estimate"), case.denoiser
            call = estimate.call_of(policy, dataset)
            foreseen.append(estimate.step_bytes(policy, call, config, 1))
    assert foreseen[1] < 0.7 * foreseen[0]


@pytest.mark.parametrize(("free", "warned"), [(10 * 2**20, True), (64 * 2**30, False)])
def test_training_warns_before_a_step_that_will_not_fit(host, monkeypatch, caplog, free, warned):
    estimate = host.core("estimate")
    monkeypatch.setattr(estimate, "free_bytes", lambda device: free)
    case = make_case(host, "sd15")
    dataset, config = step(case, False)
    with caplog.at_level(logging.WARNING), torch.inference_mode(False):
        with torch.no_grad():
            steps = host.core("trainer").train(case.denoiser, dataset, config)
            next(steps)
            steps.close()
    assert ("it will probably not fit" in caplog.text) == warned
    assert ("turn gradient_checkpointing on" in caplog.text) == warned


def test_a_network_that_cannot_be_run_without_data_trains_without_a_warning(
    host, monkeypatch, caplog
):
    estimate = host.core("estimate")
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 1)
    monkeypatch.setattr(estimate, "meta_twin", lambda network: 1 / 0)
    case = make_case(host, "sd15")
    dataset, config = step(case, False)
    with caplog.at_level(logging.INFO), torch.inference_mode(False):
        steps = host.core("trainer").train(case.denoiser, dataset, config)
        assert next(steps).step == 1
        steps.close()
    assert "could not be estimated (division by zero)" in caplog.text
    assert "not fit" not in caplog.text


def test_cancel_during_the_look_ahead_cancels(host, monkeypatch):
    import comfy.model_management as management

    monkeypatch.setattr(host.core("estimate"), "free_bytes", lambda device: 64 * 2**30)
    case = make_case(host, "sd15")
    dataset, config = step(case, False)
    with torch.inference_mode(False):
        steps = host.core("trainer").train(case.denoiser, dataset, config)
        management.interrupt_current_processing(True)
        with pytest.raises(management.InterruptProcessingException):
            next(steps)
    assert case.denoiser._patcher is None
