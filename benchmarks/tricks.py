"""What torch offers to make a step faster, beside the step as it is: `python benchmarks/tricks.py`.

Thin SD1.5 and thin SDXL, 32x32 latents, float32, on the first ComfyUI found; on a GPU where the host uses one. The network's part
of a step: a forward of winner and sample by the reference, and one with backward by the policy. Every row takes turns
with the row `as it is` in one process; medians over the rounds. Compiling is not in its time, and stands beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager

from each_host import on_each_host, version_of

KINDS, SIZE, RANK, ROUNDS = ("sd15", "sdxl"), 32, 16, 7
RECOMPILES = (8, 64)
"""Torch's own limit, and a higher one."""


class Bench:
    """A network with its LoRA inside a session, and the arguments with which the host calls it."""

    def __init__(self, policy, lora, calls) -> None:
        self.policy, self.lora, self.calls = policy, lora, calls
        self.slot = lora.slot(lora.state())

    def step(self, network=None) -> None:
        """Reference, then policy with backward: two samples each."""
        import torch

        run = self.policy.network if network is None else network
        args, kwargs = self.calls[2]
        with torch.no_grad(), self.lora.using(self.slot):
            before = run(*args, **kwargs)
        (run(*args, **kwargs) - before).square().sum().backward()
        self.wait()

    def step_in_one(self) -> None:
        """Policy and reference as one batch of four: a path takes its half of the batch, and so does the backward."""
        args, kwargs = self.calls[4]
        with two_slots(self.lora, self.slot):
            now, before = self.policy.network(*args, **kwargs).chunk(2)
        (now - before.detach()).square().sum().backward()
        self.wait()

    def wait(self) -> None:
        import torch

        if self.policy.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def two_slots(lora, slot):
    """The first half of every batch goes through the policy's paths, the second through `slot`'s."""
    import torch

    def add(path):
        def hook(module, args, output):
            halves = zip(args[0].chunk(2), output.chunk(2), (lora.policy, slot), strict=True)
            return torch.cat([path(x, y, *w[path.name], lora.scale) for x, y, w in halves])

        return hook

    with lora.using(None):
        bare, lora._active = lora._active, None
        handles = [path.module.register_forward_hook(add(path)) for path in lora.paths]
        try:
            yield
        finally:
            lora._active = bare
            for handle in handles:
                handle.remove()


def timed(work: Callable[[], object]) -> float:
    """Seconds of the process's own on a CPU, which others may use too; of the clock on a GPU, which computes by itself."""
    import torch

    now = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = now()
    work()
    return now() - began


def beside(rounds: int, plain: Callable[[], object], other: Callable[[], object]) -> str:
    """Both in turns, after one of each to warm up."""
    plain(), other()
    pairs = [(timed(plain), timed(other)) for _ in range(rounds)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    shares = sorted(y / x for x, y in pairs)
    return (
        f"{1000 * a:8.1f} ms as it is, {1000 * b:8.1f} ms so: {b / a - 1:+6.1%} "
        f"(rounds {shares[0] - 1:+.0%} to {shares[-1] - 1:+.0%})"
    )


def measure_all(host, rounds: int) -> None:
    import torch

    version = version_of(host)
    print(f"ComfyUI {version}, torch {torch.__version__}, {rounds} rounds", flush=True)
    for kind in KINDS:
        networks(host, kind, rounds)
    optimizers(rounds)


def networks(host, kind: str, rounds: int) -> None:
    import thin
    import torch
    from speed import recorded_calls

    core = host.core
    config, data = core("training.config"), core("data")
    policy = core("denoisers.comfy").ComfyDenoiser(host.thin_model(kind, "fp32"))
    latents = [thin.thin_latent(kind, seed=i, size=SIZE)["samples"][0] for i in range(4)]
    conds = [thin.thin_conditioning(kind, seed=i) for i in range(4)]
    examples = [data.Example(*pair) for pair in zip(latents, conds, strict=True)]
    with torch.inference_mode(False), policy.session(config.ComputeConfig()):
        lora = core("adapters.lora").LoRA(
            policy.network, config.LoRAConfig(rank=RANK), 0, policy.device
        )
        calls = recorded_calls(policy, examples, counts=(2, 4))
        bench = Bench(policy, lora, calls)
        with lora.attached():
            say = f"  thin {kind}, {policy.device}"
            result = beside(rounds, bench.step, bench.step_in_one)
            print(f"{say}, policy and reference in one forward: {result}", flush=True)
            for limit in RECOMPILES:
                result = compiled_step(rounds, bench, limit)
                print(
                    f"{say}, torch.compile, at most {limit} variants of a function: {result}",
                    flush=True,
                )
            last = channels_last(rounds, bench)
            print(f"{say}, channels-last: {last}", flush=True)


def compiled_step(rounds: int, bench: Bench, limit: int) -> str:
    """Beside the step as it is, where a function may be compiled `limit` times for other shapes and modules."""
    import torch

    torch._dynamo.reset()
    compiled = torch.compile(bench.policy.network)
    began = time.perf_counter()  # the compiler is another process
    most = max(256, 8 * limit)  # torch's own over all functions, or more
    with torch._dynamo.config.patch(recompile_limit=limit, accumulated_recompile_limit=most):
        try:
            bench.step(compiled)
        except Exception as error:  # any compiler's own type
            return f"fails ({str(error).splitlines()[0]})"
        took = time.perf_counter() - began
        result = beside(rounds, bench.step, lambda: bench.step(compiled))
    return f"{result}, compiled in {took:.0f} s"


def channels_last(rounds: int, bench: Bench) -> str:
    """Convolutions' weights and the latents in that layout; put back for every other turn, outside the time."""
    import torch

    def lay_out(layout) -> None:
        for module in bench.policy.network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=layout)
        args, kwargs = bench.calls[2]
        bench.calls[2] = ((args[0].contiguous(memory_format=layout), *args[1:]), kwargs)

    layouts = (torch.contiguous_format, torch.channels_last)
    times = {layout: [] for layout in layouts}
    for _ in range(rounds + 1):
        for layout in layouts:
            lay_out(layout)
            times[layout].append(timed(bench.step))
    lay_out(torch.contiguous_format)
    (a, b), pairs = (
        [statistics.median(times[x][1:]) for x in layouts],
        zip(*times.values(), strict=True),
    )
    shares = sorted(y / x for x, y in list(pairs)[1:])
    return (
        f"{1000 * a:8.1f} ms as it is, {1000 * b:8.1f} ms so: {b / a - 1:+6.1%} "
        f"(rounds {shares[0] - 1:+.0%} to {shares[-1] - 1:+.0%})"
    )


def optimizers(rounds: int) -> None:
    """One step of AdamW on the weights of a rank 16 LoRA of SD1.5's size: 256 layers of 768."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = [
        torch.nn.Parameter(torch.randn(16, 768, device=device) * 0.01) for _ in range(2 * 256)
    ]
    for weight in weights:
        weight.grad = torch.randn_like(weight)

    def stepper(**kind):
        optimizer = torch.optim.AdamW(weights, lr=1e-8, **kind)

        def step():
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return step

    result = beside(20 * rounds, stepper(foreach=True), stepper(fused=True))
    print(f"  AdamW fused, {device}: {result}", flush=True)


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure_all, ROUNDS, only_first=True)
