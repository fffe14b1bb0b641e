"""What a step spends outside the network: `python benchmarks/step_overhead.py`, on every ComfyUI found.

Thin SD1.5 at 32x32 latents. Time inside the network is measured around its own forward (sampling,
reference, policy) and around backward; the share is what remains of the step. A pool switch is timed by
itself, with the addresses of all base weights before and after.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

from each_host import on_each_host, version_of

STEPS, WARM_UP, SIZE = 8, 1, 32


class Clock:
    """Seconds spent inside a network's forwards and in backward."""

    def __init__(self) -> None:
        self.inside = 0.0
        self.calls = 0

    @contextmanager
    def timed(self):
        started = time.perf_counter()
        try:
            yield
        finally:
            self.inside += time.perf_counter() - started
            self.calls += 1

    @contextmanager
    def around(self, network):
        """Time `network`'s forward and Tensor.backward while the block runs."""
        import torch

        forward, backward = network.forward, torch.Tensor.backward

        def timed_forward(*args, **kwargs):
            with self.timed():
                return forward(*args, **kwargs)

        def timed_backward(*args, **kwargs):
            with self.timed():
                return backward(*args, **kwargs)

        network.forward, torch.Tensor.backward = timed_forward, timed_backward
        try:
            yield
        finally:
            del network.forward
            torch.Tensor.backward = backward


def measure_all(host, rounds: int) -> None:
    version = version_of(host)
    for batch_size, reuse in ((1, 1), (1, 4), (2, 4)):
        overhead(host, version, batch_size, reuse)
    switch(host, version)


def policy_and_data(host):
    import thin

    core = host.core("data")
    examples = [
        core.Example(
            thin.thin_latent("sd15", seed=i, size=SIZE)["samples"][0],
            thin.thin_conditioning("sd15", seed=i),
        )
        for i in range(8)
    ]
    model = host.thin_model("sd15", "fp32")
    return host.core("denoisers.comfy").ComfyDenoiser(model), core.in_memory(examples)


def overhead(host, version: str, batch_size: int, reuse: int) -> None:
    import torch

    policy, dataset = policy_and_data(host)
    config = host.core("training.config")
    settings = config.SePPOConfig(
        steps=WARM_UP * reuse + STEPS,
        batch_size=batch_size,
        references=config.ReferenceConfig(reuse=reuse),
        run=config.RunConfig(preview_every=0),
    )
    clock, spent = Clock(), []
    with torch.inference_mode(False), clock.around(policy.network):
        for report in host.core("training.trainer").train(policy, dataset, settings):
            if report.step <= WARM_UP * reuse:
                clock.inside, clock.calls = 0.0, 0
            else:
                spent.append(report.seconds)
    total = sum(spent)
    print(
        f"ComfyUI {version}  batch {batch_size}  reuse {reuse}:  {total / STEPS * 1000:7.1f} ms a step, "
        f"{clock.inside / STEPS * 1000:7.1f} ms of it in {clock.calls / STEPS:.1f} forwards and backwards, "
        f"outside {1 - clock.inside / total:.1%}",
        flush=True,
    )


def switch(host, version: str) -> None:
    import torch

    policy, _ = policy_and_data(host)
    config, lora_module = host.core("training.config"), host.core("adapters.lora")
    with torch.inference_mode(False), policy.session(config.ComputeConfig()):
        lora = lora_module.LoRA(policy.network, config.LoRAConfig(), 0, policy.device)
        snapshot = lora.state()
        addresses = [p.data_ptr() for p in policy.network.parameters()]
        asks = torch.empty(0, dtype=policy.compute_dtype, device=policy.device)
        with lora.attached():
            started = time.perf_counter()
            for _ in range(100):
                slot = lora.slot(snapshot)
                with lora.using(slot):
                    for path in lora.paths:
                        slot.of(path, asks)  # weights come when their layer asks
            seconds = (time.perf_counter() - started) / 100
        same = addresses == [p.data_ptr() for p in policy.network.parameters()]
    paths = sum(value.numel() * value.element_size() for value in snapshot.values())
    base = sum(p.numel() * p.element_size() for p in policy.network.parameters())
    print(
        f"ComfyUI {version}  pool switch:  {seconds * 1000:.2f} ms for {paths / 2**20:.1f} MiB of LoRA; "
        f"{base / 2**20:.0f} MiB of base weights {'stay in place' if same else 'MOVED'}",
        flush=True,
    )


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure_all)
