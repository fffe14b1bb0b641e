"""Small finished runs for tests of what is done with a run afterwards."""

from __future__ import annotations

import torch
from thin import thin_conditioning, thin_latent


def dataset(host, kind: str, count: int = 2):
    """Winners with captions in the loaded core's own class; 8 x 8 latents."""
    data = host.core("data")
    return data.in_memory(
        [
            data.Example(
                latents=thin_latent(kind, seed=i, size=8)["samples"][0],
                cond=thin_conditioning(kind, seed=i),
                caption=f"winner {i}",
            )
            for i in range(count)
        ]
    )


def config_of(host, run):
    """The settings of a run."""
    return host.core("training.config").config_of(run.about())


def make_run(
    host,
    kind: str,
    name: str,
    model=None,
    config=None,
    steps: int = 4,
    modules: str = "linear",
    dtype: str = "fp16",
):
    """The run directory `name` after `steps` big steps; a snapshot after every second one."""
    c = host.core("training.config")
    denoisers = host.core("denoisers.comfy")
    directory = host.output / "seppo" / name
    if config is None:
        config = c.SePPOConfig(
            steps=steps,
            loss=c.LossConfig(criterion="none"),
            references=c.ReferenceConfig(
                snapshot_every=2, sampling_steps=2, sampler="euler", scheduler="normal"
            ),
            lora=c.LoRAConfig(rank=4, alpha=2.0, modules=modules),
            optimizer=c.OptimizerConfig(learning_rate=0.02, warmup=0.0),
            run=c.RunConfig(directory=str(directory), preview_every=0),
        )
    with torch.inference_mode(False), torch.enable_grad():
        policy = denoisers.ComfyDenoiser(model or host.thin_model(kind, dtype))
        for _ in host.core("training.trainer").train(policy, dataset(host, kind), config):
            pass
    return host.core("runs.run").Run(directory)


def sampled(model, kind: str, seed: int = 3) -> torch.Tensor:
    """Latents of two Euler steps of the host's own sampler."""
    import comfy.sample

    latent = torch.zeros_like(thin_latent(kind, size=8)["samples"])
    noise = comfy.sample.prepare_noise(latent, seed)
    cond = thin_conditioning(kind)
    with torch.no_grad():
        return comfy.sample.sample(
            model,
            noise,
            2,
            1.0,
            "euler",
            "normal",
            cond,
            cond,
            latent,
            disable_pbar=True,
            seed=seed,
        )
