"""What half precision does to the anchor: `python benchmarks/anchor_precision.py [--seeds 2]`.

The demo's model is trained in float32; with the weights that it had after some steps, winner margins are measured in float32 and
in bf16, several ways, under the same noise and levels. What was measured is kept in .benchmark/anchor_precision and not measured
again. bf16 products are computed in float32 and rounded after, as a GPU does; a CPU's own take ten times as long.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo import studio
from seppo_core import train
from seppo_core.adapters.lora import LoRA, LowRankPath
from seppo_core.denoisers import ComputeConfig
from seppo_core.method.objectives import mean_square
from seppo_core.training import rounding

WORK = Path(__file__).resolve().parents[1] / ".benchmark" / "anchor_precision"
WINNERS = 24
"""each at a level of its own, evenly over the schedule"""
PAIRS = [(n, 0) for n in (1, 2, 3, 5, 8, 30)] + [(30 + n, 30) for n in (1, 2, 4)]
"""steps after which policy and reference have their weights"""
PARTS_AT = PAIRS[:3]
"""where the network is tried with parts in float32, too"""
KEPT = sorted({step for pair in PAIRS for step in pair})
FARS = (16, 32)
NUDGES = (1e-4, 1e-3, 5e-3)

aten = torch.ops.aten
PRODUCTS = {
    aten.addmm.default, aten.addmm_.default, aten.mm.default, aten.bmm.default, aten.baddbmm.default,
    aten.convolution.default, aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten.convolution_backward.default, aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}  # fmt: skip


class AsOnGPU(TorchDispatchMode):
    """bf16 products: exact, summed in float32, rounded once."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or args[1].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        wide = tree_map(_wide, args)
        if func is aten.addmm_.default:
            return args[0].copy_(aten.addmm.default(*wide, **kwargs))
        if func is aten._scaled_dot_product_flash_attention_for_cpu.default:
            output, logsumexp = func(*wide, **kwargs)
            return _narrow(output), logsumexp  # which is float32 on a GPU, too
        return tree_map(_narrow, func(*wide, **kwargs))


def _wide(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x


def _narrow(x: Any) -> Any:
    return x.bfloat16() if isinstance(x, Tensor) and x.dtype == torch.float32 else x


# Ways to have parts of the network in float32.


@contextmanager
def in_float32(network: nn.Module, names: tuple[str, ...]) -> Iterator[None]:
    """These modules, with all in them."""
    modules = [network.get_submodule(name) for name in names]

    def widened(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cpu", enabled=False):
                return forward(*tree_map(_wide, args), **tree_map(_wide, kwargs))

        return call

    for module in modules:
        module.forward = widened(module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def head(network: nn.Module) -> Any:
    return in_float32(network, ("conv_norm_out", "conv_out"))


def last_block(network: nn.Module) -> Any:
    last = f"up_blocks.{len(network.up_blocks) - 1}"
    return in_float32(network, ("conv_norm_out", "conv_out", last))


@contextmanager
def paths(network: nn.Module) -> Iterator[None]:
    """LoRA paths computed and added in float32; the layer's output stays float32."""
    before = LowRankPath.__call__

    def call(
        path: Any, x: Tensor, output: Tensor, scale: float, down: Tensor, up: Tensor
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return output.float() + scale * (x.float() @ down.float() @ up.float())

    LowRankPath.__call__ = call
    try:
        yield
    finally:
        LowRankPath.__call__ = before


@contextmanager
def sums(network: nn.Module) -> Iterator[None]:
    """What layers give is summed in float32: products in bf16 alone."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [
        layer.register_forward_hook(lambda m, args, output: output.float()) for layer in layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


PARTS: dict[str, Callable[[nn.Module], Any]] = {
    "today": nullcontext,
    "head in float32": head,
    "last block in float32": last_block,
    "LoRA paths in float32": paths,
    "sums in float32": sums,
}


class World:
    """The demo's model with weights of one training, and the winners that margins are measured on."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.policy, self.dataset = studio.load_policy(), studio.read_dataset(studio.Texts())
        self.config = studio.settings(120, seed)
        self.weights = self._trained()
        own = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.dataset), generator=own)[:WINNERS].tolist()
        examples = [self.dataset[i] for i in chosen]
        self.latents = torch.stack([example.latents for example in examples])
        self.conds = [example.cond for example in examples]
        self.noise = torch.randn(self.latents.shape, generator=own)
        self.levels = self.policy.levels((torch.arange(WINNERS) + 0.5) / WINNERS)
        self.seen: list[Tensor] = []
        predict = self.policy.predict
        self.policy.predict = lambda *args: self.seen.append(predict(*args)) or self.seen[-1]
        self.errors = cache(self._errors)

    def _trained(self) -> dict[int, dict[str, Tensor]]:
        path = WORK / f"weights_{self.seed}.safetensors"
        if not path.exists():
            found = {}
            for report in train(self.policy, self.dataset, self.config):
                if report.step in KEPT:
                    found |= {f"{report.step} {k}": v for k, v in self.policy.lora.state().items()}
                if report.step == KEPT[-1]:
                    break
            first = LoRA(self.policy.network, self.config.lora, self.seed, self.policy.device)
            save_file(found | {f"0 {k}": v for k, v in first.state().items()}, path)
        flat = load_file(path)
        return {
            step: {k.split()[1]: v for k, v in flat.items() if k.split()[0] == str(step)}
            for step in KEPT
        }

    @contextmanager
    def attached(self, precision: str) -> Iterator[LoRA]:
        """A session, with bf16 as a GPU computes it."""
        with self.policy.session(ComputeConfig(precision=precision)), torch.no_grad():
            lora = LoRA(self.policy.network, self.config.lora, self.seed, self.policy.device)
            with lora.attached(), AsOnGPU() if precision == "bf16" else nullcontext():
                yield lora

    def measure(self) -> Tensor:
        """Errors of the active weights."""
        prepared = self.policy.prepare(self.conds, self.latents.shape[1:])
        return mean_square(self.policy.residuals(self.latents, self.noise, self.levels, prepared))

    def _errors(
        self, step: int, precision: str, part: str, beyond: tuple = ()
    ) -> tuple[Tensor, Tensor]:
        """(errors, predictions); `beyond` is (step, times): weights on the line through those of that step."""
        with self.attached(precision) as lora:
            lora.load(self.weights[step])
            slot = lora.policy
            if beyond:
                slot = lora.beyond(lora.slot(self.weights[beyond[0]]), beyond[1])
            with lora.using(slot), PARTS[part](self.policy.network):
                return self.measure().double(), self.seen[-1]

    def margins(self, policy: int, reference: int) -> dict[str, list[float]]:
        """Of each winner, by the way of measuring."""
        found = {}
        parts = PARTS if (policy, reference) in PARTS_AT else ("today",)
        ways = {"float32": ("fp32", "today")} | {part: ("bf16", part) for part in parts}
        for name, way in ways.items():
            found[name] = self.errors(policy, *way)[0] - self.errors(reference, *way)[0]
        own, p = self.errors(policy, "bf16", "today")
        _, q = self.errors(reference, "bf16", "today")
        both = (p - q) * (p + q - 2 * self._target())
        found["difference of predictions"] = both.flatten(1).mean(1)
        for far in FARS:
            times = max(1.0, far / (policy - reference))
            other, _ = self.errors(policy, "bf16", "today", (reference, times))
            found[f"beyond, {far} steps"] = (own - other) / times
        return {name: margin.tolist() for name, margin in found.items()}

    def _target(self) -> Tensor:
        policy = self.policy
        tables = (policy._alpha, policy._sigma)
        alpha, sigma = (rearrange(table[self.levels], "winner -> winner 1 1 1") for table in tables)
        return policy.target(self.latents, self.noise, alpha, sigma).double()

    def estimates(self, step: int) -> dict[str, list[float]]:
        """Draws of roughness by the size of the nudge, and the errors themselves."""
        found = {"error": self.errors(step, "fp32", "today")[0].tolist()}
        with self.attached("bf16") as lora:
            for nudge in NUDGES:
                rounding.NUDGE = nudge
                slot = lora.slot(self.weights[step])
                found[f"nudge {nudge:g}"] = rounding.roughness(self.measure, lora, slot).tolist()
        return found


def measured(seed: int) -> list[dict[str, Any]]:
    """A line for each pair of steps, and for each step that roughness is estimated at; what the file holds is not measured again."""
    path = WORK / f"measured_{seed}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {tuple(line["what"]) for line in lines}
    jobs = (
        {(0,): World.estimates} | {pair: World.margins for pair in PAIRS} | {(30,): World.estimates}
    )
    world = None
    for what, job in jobs.items():
        if what not in done:
            world = world or World(seed)
            lines.append({"what": what, "found": job(world, *what)})
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    return lines


def table(seeds: list[list[dict[str, Any]]]) -> Iterator[str]:
    """Two rows for each way: how many signs differ from float32's, and by how much margins do."""
    columns = [rows_of(seeds, pair) for pair in PAIRS]
    true = [column["float32"] for column in columns]
    yield _row("policy and reference after steps", [f"{p}-{r}" for p, r in PAIRS])
    yield _row("median |margin|, float32", [f"{margins.abs().median():.1e}" for margins in true])
    for way in columns[0]:
        if way == "float32":
            continue
        both = [(c[way], t) for c, t in zip(columns, true, strict=True) if way in c]
        wrong = [float((found.sign() != t.sign()).float().mean()) for found, t in both]
        yield _row(f"{way}: wrong signs", [f"{share:.0%}" for share in wrong])
        yield _row("    rms of what is wrong", [f"{_rms(found - t):.1e}" for found, t in both])


def rows_of(seeds: list[list[dict[str, Any]]], what: tuple[int, ...]) -> dict[str, Tensor]:
    """[seeds, WINNERS] by name."""
    found = [line["found"] for lines in seeds for line in lines if tuple(line["what"]) == what]
    return {name: torch.tensor([one[name] for one in found]) for name in found[0]}


def text(seeds: list[list[dict[str, Any]]]) -> Iterator[str]:
    """How many margins lie above their floor, as training measures them, and how many signs of those are wrong."""
    start = rows_of(seeds, (0,))
    rough = start[f"nudge {rounding.NUDGE:g}"].square().mean().sqrt().item()
    shares, wrong = [], []
    for policy, reference in PAIRS:
        rows = rows_of(seeds, (policy, reference))
        times = rounding.stretch(torch.bfloat16, policy + 1, reference)
        floors = rounding.floor(rough, start["error"], 1) / times
        found, true = rows[f"beyond, {rounding.FAR} steps"], rows["float32"]
        above = found.abs() > floors
        shares.append(f"{above.float().mean():.0%}")
        wrong.append(f"{(found.sign() != true.sign())[above].float().mean():.0%}")
    yield _row("margins above their floor", shares)
    yield _row("    wrong signs among them", wrong)


def floors(seeds: list[list[dict[str, Any]]]) -> Iterator[str]:
    """Rounding by quarters of the schedule, from little noise to much: in today's margins, and as it is estimated."""
    yield _row("rounding, by quarters of the schedule", ["least", "", "", "most", "all"])
    for what in (*PAIRS, (0,), (30,)):
        rows = rows_of(seeds, what)
        if len(what) == 2:
            yield _quarters(f"in margins {what[0]}-{what[1]}", rows["today"] - rows["float32"])
            continue
        error = rows.pop("error")
        for name, draws in rows.items():
            estimated = draws.square().mean().sqrt() * error.sqrt()
            yield _quarters(f"estimated at step {what[0]}, {name}", estimated)


def _quarters(name: str, values: Tensor) -> str:
    quarters = rearrange(values, "seed (quarter winner) -> quarter seed winner", quarter=4)
    return _row(name, [f"{_rms(part):.1e}" for part in (*quarters, values)])


def _row(name: str, cells: list[str]) -> str:
    return f"{name:38}" + "".join(f"{cell:>9}" for cell in cells)


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    WORK.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    seeds = [measured(seed) for seed in range(parser.parse_args().seeds)]
    print(*table(seeds), *text(seeds), "", *floors(seeds), sep="\n")


if __name__ == "__main__":
    main()
