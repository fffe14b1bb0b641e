"""Our step beside the host's own trainer, a plain DPO loop and the bare network: `python benchmarks/speed.py`.

Thin SD1.5 and thin SDXL, 16x16 latents, float32, batch 1, one thread of a CPU, on every ComfyUI found. All ways take turns in
one process, whose own processor time is counted, for the machine may be busy with other work; medians over the rounds. The limit is
taken before and after each way that is compared with it, and what a way takes above the mean of both is the median of each round's
share; the mean comes with its standard error. A step ends with the optimizer's. Evaluations are samples that went through the
network, counted at its door: a forward is one, a forward with its backward three. Memory is each way's peak in a process of its own,
on Linux alone.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from each_host import MIB, apart, on_each_host, peak_bytes, reset_peak, version_of

KINDS = ("sd15", "sdxl")
SIZE, RANK, WINNERS = 16, 16, 4
PLAIN_SAMPLER_STEPS, GUIDANCE, BETA = 50, 7.5, 2000.0
ROUNDS = 7
COUNTED = 4
"""At least so many of our steps are timed a round."""
Drawings = Mapping[str, tuple[int, int]]
OURS: Drawings = {
    "ours": (1, 12),
    "ours, samples reused for 4": (4, 12),
    "ours, reused for 8": (8, 8),
}
"""name of a way: for how many steps samples are reused, and in how many sampler steps they are drawn"""

Ways = dict[str, Callable[[Any], tuple[float, float]]]
"""what each measures with a MODEL: seconds and evaluations of a step"""


class Meter:
    """When optimizers stepped, and how many samples went through a network."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.evaluations = 0

    @contextmanager
    def on(self, network: type) -> Iterator[None]:
        """Counts at the class, for the host's trainer copies the network."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        forward = network.forward

        def counted(module, x, *args, **kwargs):
            self.evaluations += len(x) * (3 if torch.is_grad_enabled() else 1)
            return forward(module, x, *args, **kwargs)

        stepped = register_optimizer_step_post_hook(
            lambda *_: self.times.append(time.process_time())
        )
        network.forward = counted
        self.times.append(time.process_time())
        try:
            yield
        finally:
            stepped.remove()
            network.forward = forward

    def per_step(self, warm: int) -> tuple[float, float]:
        """Seconds and evaluations of a step, without the first `warm` steps' time."""
        steps = len(self.times) - 1
        return (self.times[-1] - self.times[warm]) / (steps - warm), self.evaluations / steps


def examples(host, kind: str) -> list:
    import thin

    core = host.core("data")
    latents = [thin.thin_latent(kind, seed=i, size=SIZE)["samples"][0] for i in range(WINNERS)]
    conds = [thin.thin_conditioning(kind, seed=i) for i in range(WINNERS)]
    return [core.Example(*pair) for pair in zip(latents, conds, strict=True)]


def ours(
    host, model, kind: str, reuse: int, drawn: int, objective: str = "preference"
) -> tuple[float, float]:
    """Seconds and evaluations of a step, over whole windows of reuse: one warms up, at least COUNTED steps follow."""
    import torch

    config = host.core("training.config")
    policy = host.core("denoisers.comfy").ComfyDenoiser(model)
    settings = config.SePPOConfig(
        steps=reuse * (1 + math.ceil(COUNTED / reuse)),
        loss=config.LossConfig(objective=objective),
        references=config.ReferenceConfig(reuse=reuse, sampling_steps=drawn),
        lora=config.LoRAConfig(rank=RANK),
        run=config.RunConfig(preview_every=0),
    )
    meter = Meter()
    with torch.inference_mode(False), meter.on(type(policy.network)):
        for _ in host.core("training.trainer").train(
            policy, host.core("data").in_memory(examples(host, kind)), settings
        ):
            pass
    return meter.per_step(warm=reuse)


def native(host, model, kind: str) -> tuple[float, float]:
    """The host's own Train LoRA node: fine-tuning, one sample through the network a step."""
    import thin

    values = {
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": 4,
        "learning_rate": 1e-4,
        "rank": RANK,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "algorithm": "LoRA",
        "gradient_checkpointing": False,
        "existing_lora": "[None]",
        "quantized_backward": False,
        "checkpoint_depth": 1,
        "offloading": False,
        "bucket_mode": False,
        "bypass_mode": False,
    }
    import nodes

    known = nodes.NODE_CLASS_MAPPINGS["TrainLoraNode"].INPUT_TYPES()
    names = known["required"] | known.get("optional", {})
    links = {
        "model": model,
        "latents": thin.thin_latent(kind, size=SIZE, batch=1),
        "positive": thin.thin_conditioning(kind),
    }
    prompt = {f"in_{name}": host.constant(value) for name, value in links.items()}
    inputs = {name: value for name, value in values.items() if name in names}
    inputs |= {name: [f"in_{name}", 0] for name in links}
    prompt["train"] = {"class_type": "TrainLoraNode", "inputs": inputs}
    meter = Meter()
    with meter.on(type(model.model.diffusion_model)):
        host.run_graph(prompt, wanted=["train"])
    return meter.per_step(warm=2)


class Plain:
    """DPO as it is usually written: two whole models, all weights trained, DDIM 50 with guidance draws the loser."""

    def __init__(self, host, model, kind: str) -> None:
        import torch

        self.reference = model.model.diffusion_model.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            self.policy = copy.deepcopy(self.reference)
            for parameter in self.policy.parameters():
                parameter.data = parameter.data.clone()
                parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-8)
        self.kept = torch.linspace(0.9999, 0.005, 1000)  # alpha bar: any schedule costs the same
        example = examples(host, kind)[0]
        cond, about = example.cond[0]
        self.winner, self.text = example.latents[None].float(), cond.float().clone()
        self.vector = about["pooled_output"].float() if "pooled_output" in about else None

    def predict(self, model, x, t):
        import torch

        extra = {}
        if self.vector is not None:
            extra["y"] = torch.cat([self.vector, torch.zeros(1, 2816 - 1280)], 1).expand(len(x), -1)
        return model(x, t, context=self.text.expand(len(x), -1, -1), **extra)

    def draw(self):
        import torch

        x = torch.randn_like(self.winner)
        times = torch.linspace(999, 0, PLAIN_SAMPLER_STEPS + 1).long()
        with torch.no_grad():
            for now, then in zip(times, times[1:], strict=False):
                noise = self.predict(self.reference, torch.cat([x, x]), now.expand(2).float())
                guided, free = noise.chunk(2)
                noise = free + GUIDANCE * (guided - free)
                a, b = self.kept[now], self.kept[then]
                x = b.sqrt() * (x - (1 - a).sqrt() * noise) / a.sqrt() + (1 - b).sqrt() * noise
        return x.clamp(-4, 4)

    def step(self) -> None:
        import torch

        both = torch.cat([self.winner, self.draw()])
        noise = torch.randn_like(self.winner).expand_as(both)
        t = torch.randint(1000, (1,))
        a = self.kept[t]
        noisy = a.sqrt() * both + (1 - a).sqrt() * noise
        level = t.expand(2).float()
        with torch.no_grad():
            before = (
                (self.predict(self.reference, noisy, level) - noise).square().flatten(1).mean(1)
            )
        now = (self.predict(self.policy, noisy, level) - noise).square().flatten(1).mean(1)
        margins = now - before
        loss = -torch.nn.functional.logsigmoid(-BETA / 2 * (margins[0] - margins[1]))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def measure(self) -> tuple[float, float]:
        import torch

        meter = Meter()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            meter.on(type(self.policy)),
        ):
            for _ in range(2):
                self.step()
        return meter.per_step(warm=1)


def limit(host, model, kind: str) -> tuple[float, float, float]:
    """Seconds of what no step can do without: a forward of one, a forward of two, one of two with backward (LoRA)."""
    import torch

    core = host.core
    policy = core("denoisers.comfy").ComfyDenoiser(model)
    pair = examples(host, kind)[:2]
    config = core("training.config")
    with torch.inference_mode(False), policy.session(config.ComputeConfig()):
        lora = core("adapters.lora").LoRA(
            policy.network, config.LoRAConfig(rank=RANK), 0, policy.device
        )
        calls = recorded_calls(policy, pair)
        with torch.no_grad():
            one = timed(lambda: policy.network(*calls[1][0], **calls[1][1]))
            two = timed(lambda: policy.network(*calls[2][0], **calls[2][1]))
        with lora.attached():
            both = timed(
                lambda: policy.network(*calls[2][0], **calls[2][1]).square().sum().backward()
            )
    return one, two, both


def recorded_calls(policy, given) -> dict[int, tuple[tuple, dict]]:
    """batch size -> the arguments with which the host calls the network."""
    import torch

    calls = {}

    def keep(module, args, kwargs) -> None:
        calls[len(args[0])] = (args, kwargs)

    hook = policy.network.register_forward_pre_hook(keep, with_kwargs=True)
    for count in (1, 2):
        latents = policy.scale_latents(torch.stack([e.latents for e in given[:count]]))
        conds = [e.cond for e in given[:count]]
        prepared = policy.prepare(conds, tuple(latents.shape[1:]))
        levels = policy.levels(torch.full((count,), 0.5))
        with torch.no_grad():
            policy.residuals(latents, torch.randn(latents.shape), levels, prepared)
    hook.remove()
    return calls


def timed(work: Callable[[], object], times: int = 3) -> float:
    work()
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def measure_all(host, rounds: int) -> None:
    for kind in KINDS:
        compare(host, kind, rounds)


def compare(host, kind: str, rounds: int) -> None:
    def model():
        return host.thin_model(kind, "fp32")

    others: Ways = {
        "ours, preset sft": lambda model: ours(host, model, kind, 2, 1, "winner_error"),
        "the host's trainer (SFT)": lambda model: native(host, model, kind),
        "plain DPO": lambda model: Plain(host, model, kind).measure(),
    }
    medians = beside_limit(host, model, kind, f"thin {kind}", rounds, others)
    gained = ", ".join(
        f"{medians['plain DPO'] / medians[name]:.1f} times ({name})" for name in OURS
    )
    print(f"  against plain DPO: {gained}", flush=True)
    if Path("/proc/self/clear_refs").exists():
        first = dict(list(OURS.items())[:1])
        tell_memory(model, drawn(host, kind, first) | others)


def drawn(host, kind: str, drawings: Drawings) -> Ways:
    return {
        way: lambda model, given=given: ours(host, model, kind, *given)
        for way, given in drawings.items()
    }


def tell_memory(model: Callable, ways: Ways) -> None:
    """Prints what each way needs at most beyond the model as loaded, which is plain DPO's reference."""
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork

    def peak(way: Callable) -> dict[str, float]:
        loaded, size = model(), 0.0
        for weight in loaded.model.diffusion_model.parameters():
            size += weight.nbytes / MIB
            weight.sum()  # a file that is mapped takes memory where it is read
        reset_peak()
        before = peak_bytes()
        way(loaded)
        return {"loaded": size, "more": (peak_bytes() - before) / MIB}

    found = {name: apart(partial(peak, way)) for name, way in ways.items()}
    size = next(iter(found.values()))["loaded"]
    told = ", ".join(f"{name} {each['more']:.0f} MiB" for name, each in found.items())
    print(f"  needed beyond the {size:.0f} MiB of the model: {told}", flush=True)


def beside_limit(
    host,
    model: Callable,
    kind: str,
    name: str,
    rounds: int,
    others: Ways,
    drawings: Drawings = OURS,
) -> dict[str, float]:
    """Prints what our steps on `model()`, and `others`, take beside the limit; returns seconds a step."""
    ways = drawn(host, kind, drawings) | others
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    bare: dict[str, list[tuple[float, float, float]]] = {way: [] for way in drawings}
    for _ in range(rounds):
        before = limit(host, model(), kind)
        for way, measure in ways.items():  # ours come first, each between two limits
            found[way].append(measure(model()))
            if way in drawings:  # on both sides and near in time, for the machine's pace drifts
                after = limit(host, model(), kind)
                bare[way].append(tuple(map(statistics.mean, zip(before, after, strict=True))))
                before = after
    print(f"ComfyUI {version_of(host)}, {name}, {SIZE}x{SIZE} latents, {rounds} rounds", flush=True)
    medians = {}
    for way, rows in found.items():
        seconds, evaluations = (statistics.median(column) for column in zip(*rows, strict=True))
        medians[way] = seconds
        print(
            f"  {way:<30}{1000 * seconds:9.1f} ms a step  {evaluations:6.2f} evaluations  "
            f"{1000 * seconds / evaluations:8.2f} ms each"
        )
    backward = statistics.median(both / two for rows in bare.values() for _, two, both in rows)
    print(f"  with a LoRA a forward with its backward takes {backward:.2f} bare forwards")
    for way, (reuse, steps) in drawings.items():
        least = [steps / reuse * one + two + both for one, two, both in bare[way]]
        above = [took / alone - 1 for (took, _), alone in zip(found[way], least, strict=True)]
        print(
            f"  limit of '{way}': {1000 * statistics.median(least):.1f} ms in {steps / reuse:g} forwards of one, one of two, "
            f"one of two with backward; we take {statistics.median(above):+.1%} "
            f"(rounds {min(above):+.0%} to {max(above):+.0%}, mean {mean_with_error(above)})",
            flush=True,
        )
    return medians


def mean_with_error(values: list[float]) -> str:
    """Mean and standard error, in percent."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.1%} +- {error:.1%}"


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure_all, ROUNDS)
