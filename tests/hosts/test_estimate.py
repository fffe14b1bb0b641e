"""The memory of a step, computed without data, is what autograd keeps in a real one."""

from __future__ import annotations

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
    estimate, policy = host.core("training.estimate"), case.denoiser
    dataset, config = step(case, checkpointing)
    with torch.inference_mode(False), policy.session(config.compute):
        calls = estimate.calls_of(policy, dataset)
        foreseen = estimate.step_bytes(policy, calls, config, 1)
        lora = host.core("adapters.lora").LoRA(policy.network, config.lora, 0, policy.device)
        with lora.attached():
            options = policy._options["transformer_options"]
            options["optimized_attention_override"] = plain_attention
            with torch.no_grad(), estimate.recorded(policy.network) as calls:
                policy.residuals(
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
            estimate, policy = host.core("training.estimate"), case.denoiser
            calls = estimate.calls_of(policy, dataset)
            foreseen.append(estimate.step_bytes(policy, calls, config, 1))
    assert foreseen[1] < 0.7 * foreseen[0]


def test_a_network_that_is_called_twice_keeps_twice_as_much(host):
    kept = []
    for times in (1, 2):
        model = host.thin_model("sd15").clone()

        def repeated(apply_model, args, times=times):
            x, sigma, c = args["input"], args["timestep"], args["c"]
            return sum(apply_model(x, sigma, **c) for _ in range(times)) / times

        model.set_model_unet_function_wrapper(repeated)
        case = make_case(host, "sd15", model=model)
        dataset, config = step(case, False)
        estimate, policy = host.core("training.estimate"), case.denoiser
        with torch.inference_mode(False), policy.session(config.compute):
            calls = estimate.calls_of(policy, dataset)
            assert len(calls) == times
            weights = sum(p.numel() * 4 for p in case.lora(rank=4).parameters())
            found = estimate.step_bytes(policy, calls, config, 1)
            kept.append(found - estimate.COPIES * weights)
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.05)
