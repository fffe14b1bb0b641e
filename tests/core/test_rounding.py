"""Margins in half precision: their floor, and how those near a reference are measured."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import TinyDenoiser

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.denoisers import ComputeConfig
from seppo_core.method.objectives import LossConfig, mean_square
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal
from seppo_core.runs.run import Run
from seppo_core.training.config import RunConfig
from seppo_core.training.optim import OptimizerConfig
from seppo_core.training.rounding import brought_near, floor, roughness, stretch
from seppo_core.views.anchor import PreviewSettings, preview, summary

CONFIG = SePPOConfig(
    steps=4,
    batch_size=3,
    loss=LossConfig(beta=50.0, criterion="sign"),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=2, selection="latest"),
    lora=LoRAConfig(rank=2, modules="linear"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.0),
    run=RunConfig(checkpoint_every=2, preview_every=0),
)


class Half(TinyDenoiser):
    """The tiny network with products in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype = torch.bfloat16

    def residuals(self, latents, noise, levels, prepared):
        with torch.autocast("cpu", self.compute_dtype):
            return super().residuals(latents, noise, levels, prepared)


def apart(lora: LoRA, by: float) -> dict:
    """Weights away from the policy's by `by`, as some optimizer steps are."""
    return {
        name: weight + by * normal(tuple(weight.shape), "step", name)
        for name, weight in lora.state().items()
    }


@torch.no_grad()
def errors(policy, lora, slot, count: int = 64):
    latents = normal((count, 2, 4, 4), "latents")
    levels = (torch.arange(count) + 0.5) / count
    with lora.attached(), lora.using(slot):
        text = normal((count, 3), "text")
        return mean_square(
            policy.residuals(latents, normal((count, 2, 4, 4), "noise"), levels, text)
        ).double()


def test_beyond_lies_on_the_line_through_both(policy):
    lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
    here, there = lora.state(), apart(lora, 0.5)
    far = lora.beyond(lora.slot(there), 4.0)
    for name, (down, up) in far.items():
        for part, found in (("down", down), ("up", up)):
            start, end = here[f"{name}.{part}"], there[f"{name}.{part}"]
            torch.testing.assert_close(found, start + 4 * (end - start))
            assert not found.requires_grad


def test_beyond_the_policy_itself_is_the_policy_to_the_bit(policy):
    lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
    lora.load(apart(lora, 0.3))
    far = lora.beyond(lora.slot(lora.state()), 16 / 3)
    assert all(torch.equal(a, b) for n in far for a, b in zip(far[n], lora.policy[n], strict=True))


def test_margins_are_measured_far_out_only_near_a_reference_and_in_half_precision():
    half = torch.bfloat16
    # At step s the policy has had s - 1 steps: none, one, two, sixteen, forty.
    found = [stretch(half, step, 30) for step in (31, 32, 33, 47, 71)]
    assert found == [16, 16, 8, 1, 1]
    assert stretch(torch.float16, 2, 0) == 16
    assert {stretch(torch.float32, step, 0) for step in (1, 2, 40)} == {1.0}


def test_near_a_reference_half_precision_tells_who_is_ahead():
    rough, fine = Half(), TinyDenoiser()
    margins, far_margins = [], []
    for policy in (rough, fine):
        lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
        lora.load(apart(lora, 0.01))
        slot = lora.slot(apart(lora, 2e-4))
        own = errors(policy, lora, lora.policy)
        margins.append(own - errors(policy, lora, slot))
        far = errors(policy, lora, lora.beyond(slot, 16.0))
        far_margins.append(own - brought_near(far, own, 16.0))
    true = margins[1]

    def off(found):
        return (found - true).square().mean().sqrt()

    def wrong(found):
        return (found.sign() != true.sign()).double().mean()

    assert wrong(margins[0]) > 0.2  # rounding alone decides
    assert wrong(far_margins[0]) < wrong(margins[0]) / 2
    assert off(far_margins[0]) < off(margins[0]) / 4
    assert off(far_margins[1]) < 0.1 * true.abs().median()  # what the line itself costs


def test_errors_that_are_equal_stay_equal():
    own = torch.rand(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(brought_near(own, own, 16.0), own)
    assert torch.equal(brought_near(own + 1, own, 1.0), own + 1)
    torch.testing.assert_close(brought_near(own + 1, own, 4.0), own + 0.25)


def test_roughness_is_what_rounding_does_to_a_margin_whatever_the_slope(policy):
    """Errors of variance s^2 e: a margin's variance is 2 s^2 e. A slope along the weights must not count."""
    lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
    own = torch.Generator().manual_seed(0)
    exact = torch.rand(20_000, generator=own).double() + 0.5

    def made_up():
        moved = sum(float(up.sum()) for _, up in lora._active.values())
        return exact + 3 * moved + 1e-4 * exact.sqrt() * torch.randn(20_000, generator=own)

    draws = roughness(made_up, lora, lora.slot(lora.state()))
    assert draws.square().mean().sqrt().item() == pytest.approx(2**0.5 * 1e-4, rel=0.02)


def test_roughness_of_a_network_is_that_of_its_margins():
    rough, fine = Half(), TinyDenoiser()
    found = []
    for policy in (rough, fine):
        lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
        lora.load(apart(lora, 0.1))
        slot = lora.slot(apart(lora, 1e-3))
        own, other = errors(policy, lora, lora.policy, 512), errors(policy, lora, slot, 512)
        found.append((own - other) / other.sqrt())
    measured = (found[0] - found[1]).square().mean().sqrt().item()
    with rough.session(ComputeConfig()):
        lora = LoRA(rough.network, CONFIG.lora, 0, rough.device)
        slot = lora.slot(apart(lora, 0.1))
        draws = roughness(lambda: errors(rough, lora, lora._active, 512), lora, slot)
    assert measured / 1.5 < draws.square().mean().sqrt().item() < 1.5 * measured


def test_the_floor_is_two_deviations_of_the_mean():
    # Twice 1e-3 times the root of .25, over the root of 4.
    assert floor(1e-3, 0.25, 4) == pytest.approx(5e-4)


def run(policy, dataset, path, **changes):
    config = replace(CONFIG, run=replace(CONFIG.run, directory=str(path)), **changes)
    return list(train(policy, dataset, config))


def test_a_run_in_half_precision_reports_the_floor_beside_the_margin(dataset, tmp_path):
    reports = run(Half(), dataset, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    floors = [line["winner_margin_floor"] for line in lines]
    assert floors == [report.winner_margin_floor for report in reports]
    assert all(0 < each < 0.1 for each in floors)
    # Steps 1 to 3 are a step or none from their reference (snapshots after 2 and 4), so all reach sixteen times.
    shares = [line["winner_margin_floor"] / line["reference_error"] ** 0.5 for line in lines]
    assert shares[:3] == pytest.approx([shares[0]] * 3, rel=1e-5)
    names = list(lines[0])
    assert names[names.index("winner_margin") + 1] == "winner_margin_floor"


def test_optimizers_whose_snapshots_are_averages_are_measured_at_them(
    dataset, tmp_path, monkeypatch
):
    """Nobody knows how many steps lie between such a snapshot and the weights in training."""
    reached = []
    monkeypatch.setattr(LoRA, "beyond", lambda lora, slot, times: reached.append(times) or slot)
    run(Half(), dataset, tmp_path / "plain")
    assert reached == [16.0] * 4
    averaged = replace(CONFIG.optimizer, name="adamw_schedule_free")
    run(Half(), dataset, tmp_path / "averaged", optimizer=averaged)
    assert len(reached) == 4


def test_the_first_step_in_half_precision_is_a_tie_to_the_bit(dataset, tmp_path):
    first, second = run(Half(), dataset, tmp_path)[:2]
    assert (first.winner_margin, first.flip_rate, first.implicit_accuracy) == (0.0, 1.0, 0.5)
    assert first.loss == pytest.approx(math.log(2), abs=1e-7)
    assert {row.sample_margin for row in first.examples} == {0.0}
    assert second.winner_margin != 0


def test_a_continued_run_has_the_same_floors(dataset, tmp_path):
    whole = run(Half(), dataset, tmp_path / "whole")
    stopped = train(
        Half(), dataset, replace(CONFIG, run=replace(CONFIG.run, directory=str(tmp_path / "parts")))
    )
    next(stopped)
    stopped.close()
    run(Half(), dataset, tmp_path / "parts")
    parts = [line["winner_margin_floor"] for line in Run(tmp_path / "parts").metrics()]
    assert parts == [report.winner_margin_floor for report in whole]


@pytest.mark.parametrize(
    "make, loss",
    [(TinyDenoiser, CONFIG.loss), (Half, LossConfig(objective="winner_error"))],
)
def test_float32_and_runs_without_a_reference_have_no_floor(dataset, tmp_path, make, loss):
    assert {r.winner_margin_floor for r in run(make(), dataset, tmp_path, loss=loss)} == {None}


def test_cells_of_the_preview_below_the_floor_are_undecided(dataset, tmp_path):
    run(Half(), dataset, tmp_path)
    settings = PreviewSettings(winners=2, levels=3, draws=2, draw_samples=False)
    shown = preview(Half(), dataset, Run(tmp_path), settings)
    anchors = shown.anchors
    edge = 2 * anchors.roughness * (anchors.reference_errors.mean(-1) / 2).sqrt()
    assert torch.equal(anchors.undecided, anchors.means.abs() < edge)
    none = replace(anchors, roughness=1e-9)
    every = replace(anchors, roughness=10.0)
    assert not none.undecided.any() and every.undecided.all()
    assert "undecided" not in summary(replace(shown, anchors=none))
    said = summary(replace(shown, anchors=every)).splitlines()[-1]
    assert said == "6 of 6 cells are undecided: rounding alone could make such margins"


def test_the_preview_in_float32_decides_every_cell(policy, dataset, tmp_path):
    run(policy, dataset, tmp_path)
    settings = PreviewSettings(winners=2, levels=3, draws=2, draw_samples=False)
    shown = preview(TinyDenoiser(), dataset, Run(tmp_path), settings)
    assert shown.anchors.roughness is None and not shown.anchors.undecided.any()
