"""The same SD1.5 weights behind both denoisers: ComfyUI's own UNet and diffusers' agree."""

from __future__ import annotations

import pytest
import torch
from thin import thin_conditioning, thin_latent


@pytest.fixture(scope="module")
def both(host):
    """(ComfyUI's denoiser, diffusers' denoiser) over one set of float32 weights."""
    diffusers = pytest.importorskip("diffusers")
    import comfy.utils

    model = host.thin_model("sd15", "fp32")
    config = model.model.model_config.unet_config
    names = comfy.utils.unet_to_diffusers(config)
    weights = model.model.diffusion_model.state_dict()
    network = diffusers.UNet2DConditionModel(
        block_out_channels=(320,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    ours = {name: weights[other] for name, other in names.items() if other in weights}
    network.load_state_dict(ours)  # strict: every weight of the network came from the host's
    network.requires_grad_(False)
    schedule = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    comfy_policy = host.core("denoisers.comfy").ComfyDenoiser(model)
    diffusers_policy = host.core("denoisers.diffusers").DiffusersDenoiser(
        network, schedule, latent_scale=0.18215
    )
    return comfy_policy, diffusers_policy


def batch(size=4):
    latents = torch.cat([thin_latent("sd15", seed=i, size=8)["samples"] for i in range(size)])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    conds = [thin_conditioning("sd15", seed=i) for i in range(size)]
    return latents * 5, noise, conds


def measured(host, policy, conds):
    """Errors of winners and samples under the base, and the loss against slightly shifted references."""
    latents, noise, _ = batch()
    uniform = torch.tensor([0.03, 0.3, 0.6, 0.97])
    config, loss = host.core("training.config"), host.core("method.objectives")
    with torch.inference_mode(False), policy.session(config.ComputeConfig(precision="fp32")):
        levels = policy.levels(uniform)
        prepared = policy.prepare(conds, tuple(latents.shape[1:]))
        with torch.no_grad():
            errors = (
                policy.residuals(policy.scale_latents(latents), noise, levels, prepared)
                .square()
                .flatten(1)
                .mean(1)
            )
        winner, sample = errors.chunk(2)
        terms = loss.seppo_loss(
            loss.DenoisingErrors(winner, sample),
            loss.DenoisingErrors(winner * 1.01, sample * 0.98),
            beta=100.0,
        )
    return errors, terms


def test_errors_and_loss_agree_through_both_denoisers(host, both):
    _, _, conds = batch()
    comfy_errors, comfy_terms = measured(host, both[0], conds)
    plain = [{"embeds": cond[0][0][0]} for cond in conds]
    diffusers_errors, diffusers_terms = measured(host, both[1], plain)
    torch.testing.assert_close(comfy_errors, diffusers_errors, rtol=1e-4, atol=0)
    torch.testing.assert_close(comfy_terms.loss, diffusers_terms.loss, rtol=1e-4, atol=0)
    assert torch.equal(comfy_terms.role, diffusers_terms.role)


def test_predictions_and_targets_agree_through_both_denoisers(host, both):
    """errors = mean((raw - target)^2): with the host's raw output, target = noise follows from it."""
    comfy_policy, diffusers_policy = both
    latents, noise, conds = batch()
    config = host.core("training.config")
    text = torch.cat([cond[0][0] for cond in conds])
    timestep = torch.tensor([30, 300, 600, 970])
    with torch.inference_mode(False), torch.no_grad():
        with diffusers_policy.session(config.ComputeConfig(precision="fp32")):
            scaled = diffusers_policy.scale_latents(latents)
            noisy = diffusers_policy.scheduler.add_noise(scaled, noise, timestep)
            theirs = diffusers_policy.predict(noisy, timestep, {"embeds": text})
            target = diffusers_policy.target(scaled, noise, None, None)
        with comfy_policy.session(config.ComputeConfig(precision="fp32")):
            hosts = comfy_policy.network(noisy, timestep, context=text)
            errors = (
                comfy_policy.residuals(
                    comfy_policy.scale_latents(latents),
                    noise,
                    comfy_policy.levels((timestep + 0.5) / 1000),
                    comfy_policy.prepare(conds, tuple(latents.shape[1:])),
                )
                .square()
                .flatten(1)
                .mean(1)
            )
    torch.testing.assert_close(hosts, theirs, rtol=1e-4, atol=1e-4)
    expected = (hosts - target).square().flatten(1).mean(1)
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=0)
