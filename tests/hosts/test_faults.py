"""A fault at any call that the pack makes into its host leaves the host as it was.

Short: some calls, evenly spread over the places that make them, on SD 1.5. With SEPPO_RELIABILITY=long: every
call; of a place that makes more than MOST of them, as a loop over layers does, MOST.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from faults import (
    ENTRY,
    EXIT,
    HostCalls,
    bytes_in_tensors,
    changes,
    globals_of_host,
    state_of,
)
from folders import encoding
from inprocess import GraphError, GraphRun, InProcessHost
from training import dataset, graph, run_of, sampled

LONG = os.environ.get("SEPPO_RELIABILITY") == "long"
KINDS = [
    pytest.param("sd15", "fp32"),  # which fp16 weights are converted for
    *(pytest.param(kind, "bf16", marks=pytest.mark.thorough) for kind in ("sd15", "sdxl", "wan")),
]
THOROUGH = os.environ.get("SEPPO_TESTS") == "all"
SHORT, MOST = 25 if THOROUGH else 12, 150
DEEP = 200 if LONG else 8 if THOROUGH else 3
MEMORY = 0.01
"""Share by which memory may grow: Python's tensors since the first fault, the process over the last RUNS."""
RUNS = 20 if THOROUGH else 8
RUN = "faulty"
MESSAGE = "injected|interrupted|out of memory"
LOADING = {
    "model_loaded_weight_memory",
    "current_weight_patches_uuid",
    "comfy_patched_weights",
    "comfy_force_cast_weights",
}
"""Where the host notes what is loaded and how: another after every training, set anew by the next loading."""
UNDOING = "comfy._unload"
"""Calls that put the host right. Where one of these fails itself, the host's next loading does the rest."""


def errors() -> list[type[BaseException]]:
    import comfy.model_management as management

    out_of_memory, cancelled = management.OOM_EXCEPTION, management.InterruptProcessingException
    return [RuntimeError, MemoryError, out_of_memory, cancelled, OSError]


@dataclass
class Bench:
    """One MODEL that is trained with faults, and how it was before."""

    host: InProcessHost
    kind: str
    patcher: Any
    prompt: dict[str, Any]
    drawn: torch.Tensor = field(init=False)
    state: dict[str, object] = field(init=False)
    globals: dict[str, object] = field(init=False)

    @classmethod
    def make(cls, host: InProcessHost, kind: str, **settings: Any) -> Bench:
        settings = {"gradient_checkpointing": True, "precision": "fp32"} | settings
        links = {"dataset": host.constant(dataset(host, kind))}
        steps = {"steps": 2, "batch_size": 1}
        prompt = graph(host, kind, RUN, train=steps, optimizer=settings, **links)
        model = host.thin_model(kind)
        model.model.diffusion_model.training = True  # so that it is seen whether that comes back
        bench = cls(host, kind, model, prompt | {"model": host.constant(model)})
        bench.drawn = bench.draw()
        bench.state, bench.globals = state_of(model), globals_of_host()
        return bench

    def train(self, calls: HostCalls, anew: bool = True) -> GraphRun:
        if anew:
            shutil.rmtree(self.host.output / "seppo" / RUN, ignore_errors=True)
        with calls.watched():
            return self.host.run_graph(self.prompt, wanted=["train"])

    def draw(self) -> torch.Tensor:
        """What the host's KSampler draws with the MODEL; what it needs for that is let go."""
        constants = dict(self.host.constants)
        drawn = sampled(self.host, self.kind, self.patcher)
        self.host.constants.clear()
        self.host.constants.update(constants)
        return drawn

    def calls(self, deep: bool = False) -> list[str]:
        """Every call of an undisturbed run."""
        calls = HostCalls(deep=deep)
        self.train(calls)
        return calls.made

    def fail(self, number: int, nth: int, deep: bool = False) -> str:
        """Train with a fault at call `number`, of the `nth` kind; which call that was."""
        error = errors()[nth % len(errors())]
        where = (ENTRY, EXIT)[nth // len(errors()) % 2]
        calls = HostCalls(number, error, where, deep)
        with pytest.raises(GraphError, match=MESSAGE):
            self.train(calls)
        return f"{error.__name__} at the {where} of {number}: {calls.made[number - 1]}"

    def require_as_before(self, fault: str) -> None:
        """At once, but for LOADING; after the next loading without exception."""
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled(), fault
        assert not changes(self.globals, globals_of_host()), fault
        if UNDOING not in fault:
            left = changes(self.state, state_of(self.patcher))
            left = {
                name: pair for name, pair in left.items() if name.rpartition(".")[2] not in LOADING
            }
            assert not left, (fault, left)
        assert torch.equal(self.draw(), self.drawn), fault
        left = changes(self.state, state_of(self.patcher))
        assert not left, (fault, left)


def spread(calls: list[str], count: int) -> list[int]:
    """`count` numbers of calls, evenly spread over the first calls of each place; up to MOST of each if LONG."""
    if LONG:
        places: dict[str, list[int]] = {}
        for number, call in enumerate(calls, 1):
            places.setdefault(call, []).append(number)
        return sorted(n for found in places.values() for n in found[:: -(-len(found) // MOST)])
    first = sorted({calls.index(call) + 1 for call in calls})
    return [first[i * len(first) // count] for i in range(min(count, len(first)))]


@pytest.mark.parametrize(("kind", "precision"), KINDS)
def test_a_fault_at_any_call_of_the_host_leaves_it_as_it_was(
    host, kind, precision, record_property
):
    """Its memory, too: no tensor stays after any of the faults, and the process does not grow."""
    process = pytest.importorskip("psutil").Process()
    bench = Bench.make(host, kind, precision=precision)
    calls = bench.calls()
    assert len(set(calls)) > 40
    numbers = spread(calls, SHORT)
    tensors, resident = [], []
    for nth, number in enumerate(numbers):
        fault = bench.fail(number, nth)
        bench.require_as_before(fault)
        tensors.append(bytes_in_tensors())
        resident.append(process.memory_info().rss)
        assert tensors[-1] <= (1 + MEMORY) * tensors[0], (fault, tensors)
    grown = resident[-1] / resident[-1 - RUNS] - 1
    record_property("faults", f"{kind}: {len(numbers)} of {len(calls)} calls, memory {grown:+.2%}")
    assert grown < MEMORY, resident


def test_a_fault_deep_within_the_host_leaves_it_as_it_was(host, record_property):
    """Where the host itself runs into it: amid loading, a forward, drawing. Plain training, nothing converted."""
    bench = Bench.make(host, "sd15", gradient_checkpointing=False, precision="auto")
    total = len(bench.calls(deep=True))
    assert total > 5000
    record_property("faults", f"{DEEP} of {total} calls")
    for nth in range(DEEP):
        fault = bench.fail(1 + nth * total // DEEP, nth, deep=True)
        bench.require_as_before(fault)


@pytest.mark.parametrize("nth", range(5))
def test_a_run_that_met_a_fault_goes_on_to_the_weights_of_an_undisturbed_one(host, nth):
    bench = Bench.make(host, "sd15")
    calls = HostCalls()
    whole = bench.train(calls)["train"][1]
    second_step = next(n for n, call in enumerate(calls.made) if "update_absolute" in call) + 1
    number = second_step + 1 + nth * (len(calls.made) - second_step) // 5
    bench.fail(number, nth)
    assert run_of(host, RUN).step() >= 1
    resumed = bench.train(HostCalls(), anew=False)["train"][1]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


# Encoding


@dataclass
class Encoders:
    """A VAE and a CLIP in a graph that encodes two winners, and how both were before."""

    host: InProcessHost
    prompt: dict[str, Any]
    vae: Any
    clip: Any
    outputs: list[torch.Tensor] = field(init=False)
    state: dict[str, object] = field(init=False)
    globals: dict[str, object] = field(init=False)

    @classmethod
    def make(cls, host: InProcessHost, checkpoint: str, folder: str) -> Encoders:
        prompt = encoding(folder, checkpoint)
        _, clip, vae = host.run_graph({"1": prompt["1"]}, wanted=["1"])["1"]
        prompt["3"]["inputs"] |= {"vae": ["vae", 0], "clip": ["clip", 0]}
        prompt |= {"vae": host.constant(vae), "clip": host.constant(clip)}
        del prompt["1"]
        encoders = cls(host, prompt, vae, clip)
        encoders.outputs = encoders.used()
        encoders.state = encoders.states()
        encoders.globals = globals_of_host()
        return encoders

    def states(self) -> dict[str, object]:
        vae, clip = state_of(self.vae.patcher), state_of(self.clip.patcher)
        return {f"vae {k}": v for k, v in vae.items()} | {f"clip {k}": v for k, v in clip.items()}

    def used(self) -> list[torch.Tensor]:
        """What the host's own nodes make with them."""
        import nodes

        pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            text = nodes.CLIPTextEncode().encode(self.clip, "a fox")[0]
            latents = nodes.VAEEncode().encode(self.vae, pixels)[0]["samples"]
        return [text[0][0].clone(), text[0][1]["pooled_output"].clone(), latents.clone()]

    def encode(self, calls: HostCalls) -> Any:
        with calls.watched():
            return self.host.run_graph(self.prompt, wanted=["3"])["3"][0]


def test_a_fault_at_any_call_while_winners_are_encoded_leaves_the_host_as_it_was(
    host, checkpoint, folder, own_cache, record_property
):
    encoders = Encoders.make(host, checkpoint, folder.name)
    calls = HostCalls()
    whole = encoders.encode(calls)
    expected = [example.latents for example in whole.examples]
    assert any("sd.encode" in call for call in calls.made)
    numbers = spread(calls.made, SHORT // 3)
    record_property("faults", f"{len(numbers)} of {len(calls.made)} calls")
    for nth, number in enumerate(numbers):
        shutil.rmtree(own_cache, ignore_errors=True)
        faulty = HostCalls(number, errors()[nth % len(errors())], (ENTRY, EXIT)[nth % 2])
        with pytest.raises(GraphError, match="injected|interrupted"):
            encoders.encode(faulty)
        fault = faulty.made[number - 1]
        assert not changes(encoders.globals, globals_of_host()), fault
        assert all(map(torch.equal, encoders.used(), encoders.outputs)), fault
        left = changes(encoders.state, encoders.states())
        assert not left, (fault, left)
    after = encoders.encode(HostCalls())
    assert after.identity == whole.identity
    found = [example.latents for example in after.examples]
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)
