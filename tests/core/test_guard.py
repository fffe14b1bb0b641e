"""What becomes of a run in which something goes wrong: NaN, drift, no memory; each with an injected fault."""

from __future__ import annotations

import logging
import math
import shutil
import weakref
from dataclasses import replace

import pytest
import torch

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.devices import is_out_of_memory
from seppo_core.errors import CheckpointError, ConfigError, NonFiniteLossError, ShortageError
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.runs.run import Run
from seppo_core.training.config import RunConfig
from seppo_core.training.guard import MOST_ROLLBACKS, Guard, GuardConfig
from seppo_core.training.memory import Shortage
from seppo_core.training.optim import OptimizerConfig

CONFIG = SePPOConfig(
    steps=8,
    batch_size=4,
    loss=LossConfig(beta=50.0, criterion="sign"),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=3),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0),
    run=RunConfig(checkpoint_every=3, preview_every=0),
)


def config_in(path="", guard: GuardConfig | None = None, **changes) -> SePPOConfig:
    run = replace(CONFIG.run, directory=str(path))
    return replace(CONFIG, run=run, guard=guard or GuardConfig(), **changes)


def line(step: int, loss=0.5, margin=None, held_out=None) -> dict:
    return {"step": step, "loss": loss, "winner_margin": margin, "held_out_margin": held_out}


def alarms(config: GuardConfig, lines: list[dict]) -> list[tuple[int, str]]:
    guard = Guard(config)
    found = [(one["step"], guard.judge(one)) for one in lines]
    return [(step, alarm.action) for step, alarm in found if alarm]


def spoil(policy, attempts: range | set, value: float = math.nan) -> None:
    """These attempts at an optimizer step, each one forward with gradient, give `value` instead of errors."""
    original, count = policy.residuals, 0

    def errors(*inputs):
        nonlocal count
        found = original(*inputs)
        if not torch.is_grad_enabled():
            return found
        count += 1
        return found * value if count in attempts else found

    policy.residuals = errors


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_patience_counts_steps_in_a_row():
    config = GuardConfig(patience=2, non_finite="stop")
    losses = [0.5, None, 0.5, None, None]
    assert alarms(config, [line(i + 1, loss) for i, loss in enumerate(losses)]) == [(5, "stop")]


def test_a_margin_above_zero_by_more_than_chance_is_drift_and_noise_around_zero_is_not():
    config = GuardConfig(drift_window=10)
    noise = [line(i, margin=0.1 * (-1) ** i) for i in range(1, 41)]
    assert alarms(config, noise) == []
    # mean 0.1, deviation 0.105: two standard errors are 2 * 0.105 / sqrt(10) = 0.067
    rising = [line(i, margin=0.1 + 0.1 * (-1) ** i) for i in range(1, 25)]
    assert alarms(config, rising) == [(10, "warn"), (20, "warn")]
    assert alarms(replace(config, drift="off"), rising) == []


def test_a_held_out_margin_that_rises_three_times_is_drift():
    config = GuardConfig(drift="stop")
    values = [-0.1, -0.3, -0.2, -0.1, None, -0.05]
    lines = [line(i + 1, held_out=value) for i, value in enumerate(values)]
    assert alarms(config, lines) == [(6, "stop")]
    assert alarms(config, lines[:5]) == []


def test_a_continued_guard_goes_on_where_it_was():
    config = GuardConfig(drift_window=4)
    lines = [line(i, margin=1.0) for i in range(1, 12)]
    whole = alarms(config, lines)
    guard = Guard(config, lines[:6])
    rest = [one["step"] for one in lines[6:] if guard.judge(one)]
    assert rest == [step for step, _ in whole if step > 6] == [8]


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"patience": 0}, {"drift_window": 1}, {"drift": "x"}, {"non_finite": "warn"}):
        with pytest.raises(ConfigError, match=f"guard.{next(iter(wrong))}"):
            GuardConfig(**wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_not_applied_and_the_run_goes_on(
    make_policy, dataset, tmp_path, value
):
    policy = make_policy()
    spoil(policy, {2}, value)
    steps = train(policy, dataset, config_in(tmp_path))
    next(steps)
    before = policy.lora.state()
    report = next(steps)
    assert (report.loss, report.grad_norm, report.winner_margin) == (None, None, None)
    assert same(policy.lora.state(), before)
    assert [r.step for r in steps] == list(range(3, 9))
    losses = [one["loss"] for one in Run(tmp_path).metrics()]
    assert [loss is None for loss in losses] == [False, True] + [False] * 6


def test_stop_raises_after_patience_and_keeps_the_run(make_policy, dataset, tmp_path):
    policy = make_policy()
    spoil(policy, range(2, 100))
    steps = train(policy, dataset, config_in(tmp_path, GuardConfig(non_finite="stop", patience=2)))
    next(steps)
    before = policy.lora.state()
    next(steps)
    with pytest.raises(NonFiniteLossError, match="step 3: .* not finite in 2 steps in a row"):
        next(steps)
    assert same(policy.lora.state(), before)
    assert same(Run(tmp_path).weights(), before)


def test_roll_back_goes_on_from_the_checkpoint_with_half_the_rate(
    make_policy, dataset, tmp_path, caplog
):
    policy = make_policy()
    spoil(policy, {5, 6})
    config = config_in(tmp_path, GuardConfig(patience=2))
    with caplog.at_level(logging.WARNING):
        reports = list(train(policy, dataset, config))
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]
    assert reports[5].alarm.startswith("loss or gradient was not finite in 2 steps")
    assert [r.lr for r in reports] == [0.02] * 6 + [0.01] * 5
    assert "Back to step 3, with half the learning rate" in caplog.text
    lines = Run(tmp_path).metrics()
    assert [one["step"] for one in lines] == list(range(1, 9))
    assert [one["lr"] for one in lines] == [0.02] * 3 + [0.01] * 5
    # the same as a run of three steps that goes on with half the rate from there
    other = make_policy()
    list(train(other, dataset, config_in(tmp_path / "other", steps=3)))
    halved = replace(CONFIG.optimizer, learning_rate=0.01)
    run = config_in(tmp_path / "other", GuardConfig(), optimizer=halved)
    list(train(other, dataset, run))
    assert same(policy.lora.state(), other.lora.state())


@pytest.mark.parametrize(("killed", "steps_left"), [(False, [6, 7, 8]), (True, [4, 5, 6, 7, 8])])
def test_a_rolled_back_run_resumes_to_the_bit(make_policy, dataset, tmp_path, killed, steps_left):
    config = config_in(tmp_path / "whole", GuardConfig(patience=2))
    whole = make_policy()
    spoil(whole, {5, 6})
    list(train(whole, dataset, config))

    policy = make_policy()
    spoil(policy, {5, 6})
    config = config_in(tmp_path / "parts", GuardConfig(patience=2))
    stopped = train(policy, dataset, config)
    for _ in range(8):
        next(stopped)  # 1 to 6, then 4 and 5 again
    if killed:  # what lies on the disk then is what a killed process leaves: a checkpoint of before
        shutil.copytree(tmp_path / "parts", tmp_path / "left")
        config = config_in(tmp_path / "left", GuardConfig(patience=2))
    stopped.close()
    again = make_policy()
    reports = list(train(again, dataset, config))
    assert [(r.step, r.lr) for r in reports] == [(step, 0.01) for step in steps_left]
    assert Run(config.run.directory).about()["went_back"] == {"times": 1, "to": 3}
    assert same(again.lora.state(), whole.lora.state())


def test_a_fault_that_stays_ends_the_run_after_some_rollbacks(make_policy, dataset, tmp_path):
    policy = make_policy()
    spoil(policy, range(5, 1000))
    reports = []
    with pytest.raises(NonFiniteLossError, match="none of these steps was applied"):
        for report in train(policy, dataset, config_in(tmp_path, GuardConfig(patience=1))):
            reports.append(report)
    assert sum(bool(r.alarm) for r in reports) == MOST_ROLLBACKS
    assert Run(tmp_path).step() >= 3


def test_without_a_run_directory_a_roll_back_begins_anew(make_policy, dataset):
    policy = make_policy()
    spoil(policy, {2})
    reports = list(train(policy, dataset, config_in(guard=GuardConfig(patience=1))))
    assert [r.step for r in reports] == [1, 2, *range(1, 9)]
    clean = make_policy()
    halved = replace(CONFIG.optimizer, learning_rate=0.01)
    list(train(clean, dataset, replace(CONFIG, optimizer=halved)))
    assert same(policy.lora.state(), clean.lora.state())


def drifting(policy) -> None:
    """The policy's errors on the winners come out one higher than the reference's."""
    original = policy.residuals

    def errors(*inputs):
        found = original(*inputs)
        return found + 1 if torch.is_grad_enabled() else found

    policy.residuals = errors


@pytest.mark.parametrize("action", ["warn", "stop", "roll back", "off"])
def test_drift_does_what_is_set(make_policy, dataset, tmp_path, caplog, action):
    policy = make_policy()
    drifting(policy)
    guard = GuardConfig(drift=action, drift_window=4)
    with caplog.at_level(logging.WARNING):
        reports = list(train(policy, dataset, config_in(tmp_path, guard)))
    steps = [r.step for r in reports]
    if action == "warn":
        assert steps == list(range(1, 9))
        assert [r.step for r in reports if r.alarm] == [4, 8]
    elif action == "stop":
        assert steps == [1, 2, 3, 4]
        assert Run(tmp_path).step() == 4
        assert "ends here, with what it has learned" in caplog.text
    elif action == "roll back":
        # back to step 3, then to step 6; each time four more steps are looked at before the next verdict
        assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 7, 8]
        assert [r.step for r in reports if r.undone] == [4, 7]
        assert [r.lr for r in reports] == [0.02] * 4 + [0.01] * 4 + [0.005] * 2
        assert Run(tmp_path).step() == 8
    else:
        assert steps == list(range(1, 9))
        assert not any(r.alarm for r in reports)


def test_a_run_that_drift_ended_is_judged_anew_when_it_is_asked_to_go_on(
    make_policy, dataset, tmp_path
):
    policy = make_policy()
    drifting(policy)
    config = config_in(tmp_path, GuardConfig(drift="stop", drift_window=3))
    for seen in ([1, 2, 3], [4, 5, 6], [7, 8]):
        assert [report.step for report in train(policy, dataset, config)] == seen


def test_a_drifting_run_is_saved_with_the_settings_that_everybody_has(
    make_policy, dataset, tmp_path
):
    """Checkpoints and alarms fall on the same steps there."""
    policy = make_policy()
    drifting(policy)
    config = SePPOConfig(
        steps=230,
        references=ReferenceConfig(sampling_steps=1),
        lora=LoRAConfig(rank=2),
        run=RunConfig(directory=str(tmp_path)),
    )
    steps, alarmed, saved = train(policy, dataset, config), [], {}
    for report in steps:
        alarmed += [report.step] if report.alarm else []
        saved.setdefault(Run(tmp_path).step(), report.step)
    assert alarmed == [50, 100, 150, 200]
    assert saved == {0: 1, 50: 50, 100: 100, 150: 150, 200: 200}
    assert Run(tmp_path).step() == 230


def folder_of(path) -> dict:
    """What a run leaves behind, but for how long its steps took and which settings it had."""
    run = Run(path)
    pool = {step: run.snapshot(step).weights for step in run.snapshot_steps()}
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]
    return {"lines": lines, "pool": pool, "weights": run.weights(), "state": run.state()}


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_warning_changes_nothing_but_the_log(make_policy, dataset, tmp_path, every):
    """Whatever falls on its step: checkpoints, snapshots, pictures, windows."""
    found, reports = {}, {}
    for action in ("warn", "off"):
        policy = make_policy()
        drifting(policy)
        run = RunConfig(directory=str(tmp_path / action), checkpoint_every=every, preview_every=3)
        config = config_in(guard=GuardConfig(drift=action, drift_window=3), steps=13)
        config = replace(config, run=run, references=replace(CONFIG.references, reuse=2))
        reports[action], saved = [], []
        for report in train(policy, dataset, config):
            reports[action].append(report)
            saved.append(Run(tmp_path / action).step())
        found[action] = folder_of(tmp_path / action) | {"saved": saved}
    warned, quiet = found["warn"], found["off"]
    assert [r.step for r in reports["warn"] if r.alarm][:3] == [3, 6, 9]
    assert warned["saved"] == quiet["saved"] == [step // every * every for step in range(1, 14)]
    assert warned["lines"] == quiet["lines"]
    assert same(warned["weights"], quiet["weights"])
    assert warned["pool"].keys() == quiet["pool"].keys()
    assert same(warned["state"].optimizer_tensors, quiet["state"].optimizer_tensors)
    for one, other in zip(reports["warn"], reports["off"], strict=True):
        assert (one.preview is None) == (other.preview is None)
        assert not one.undone


def test_what_is_rolled_back_is_not_saved(make_policy, dataset, tmp_path):
    policy = make_policy()
    drifting(policy)
    guard = GuardConfig(drift="roll back", drift_window=3)
    saved = {}
    for report in train(policy, dataset, config_in(tmp_path, guard)):
        saved.setdefault((report.step, report.undone), []).append(Run(tmp_path).step())
    assert saved[3, True] == [0, 0, 0]  # alarm and checkpoint fall on step 3, time after time
    assert saved[3, False] == [3]  # after the third time the run ends with what it has


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_run_that_went_back_is_judged_alike_when_it_is_continued(
    make_policy, dataset, tmp_path, stop
):
    guard = GuardConfig(drift="roll back", drift_window=4)
    found = []
    for name, stops in (("whole", 0), ("parts", stop)):
        policy = make_policy()
        drifting(policy)
        steps = train(policy, dataset, config_in(tmp_path / name, guard))
        for _ in range(stops):
            next(steps)
        if stops:
            steps.close()
            policy = make_policy()
            drifting(policy)
            steps = train(policy, dataset, config_in(tmp_path / name, guard))
        assert len(list(steps)) > 0
        found.append(folder_of(tmp_path / name))
    whole, parts = found
    assert parts["lines"] == whole["lines"]
    assert same(parts["weights"], whole["weights"])


def size_of(policy) -> float:
    return sum(float(p.detach().square().sum()) for p in policy.lora.parameters())


def test_a_run_goes_back_past_weights_that_give_nan(make_policy, dataset, tmp_path):
    """The checkpoint of step 6 holds them; half the learning rate from there would change nothing."""
    clean, sizes = make_policy(), [0.0]
    for _ in train(clean, dataset, config_in(tmp_path / "clean")):
        sizes.append(size_of(clean))
    limit = (max(sizes[:6]) + sizes[6]) / 2
    assert limit < sizes[6]
    policy = make_policy()
    original = policy.residuals
    policy.residuals = lambda *inputs: (
        original(*inputs) * (math.nan if size_of(policy) > limit else 1)
    )
    reports = train(policy, dataset, config_in(tmp_path / "run", GuardConfig(patience=2)))
    steps = [(r.step, r.loss is not None, r.undone) for r in (next(reports) for _ in range(10))]
    assert steps[6:8] == [(7, False, False), (8, False, True)]
    assert steps[8:] == [(4, True, False), (5, True, False)]


def test_nothing_is_saved_while_steps_are_not_finite(make_policy, dataset, tmp_path):
    policy = make_policy()
    spoil(policy, {3, 4})
    saved = []
    for _ in train(policy, dataset, config_in(tmp_path, GuardConfig(patience=3))):
        saved.append(Run(tmp_path).step())
    assert saved == [0, 0, 0, 0, 5, 6, 6, 6]


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0")


def short_of_memory(policy, most: int) -> None:
    """Forwards with gradient of more than `most` latents, and drawing of more, do not fit."""
    errors, sample = policy.residuals, policy.sample

    def limited_errors(latents, *rest):
        if torch.is_grad_enabled() and len(latents) > most:
            raise OUT_OF_MEMORY
        return errors(latents, *rest)

    def limited_sample(conds, *rest):
        if len(conds) > most:
            raise OUT_OF_MEMORY
        return sample(conds, *rest)

    policy.residuals, policy.sample = limited_errors, limited_sample


def test_out_of_memory_says_what_was_needed_and_what_to_change(make_policy, dataset, tmp_path):
    policy = make_policy()
    steps = train(policy, dataset, config_in(tmp_path))
    next(steps)
    before = policy.lora.state()
    short_of_memory(policy, 2)
    expected = r"step 2: out of memory on cpu \(the last 2.50 GiB .* batch_size \(now 4\)"
    with pytest.raises(ShortageError, match=expected):
        next(steps)
    assert not policy.in_session
    assert same(Run(tmp_path).weights(), before)
    assert Run(tmp_path).step() == 1


def test_split_gives_what_the_whole_batch_gives(make_policy, dataset):
    whole, split = make_policy(), make_policy()
    list(train(whole, dataset, config_in()))
    short_of_memory(split, 2)
    list(train(split, dataset, config_in(guard=GuardConfig(out_of_memory="split"))))
    for key, weight in whole.lora.state().items():
        torch.testing.assert_close(split.lora.state()[key], weight, rtol=1e-4, atol=1e-5)


class Activations:
    """Something that a weak reference can watch."""


class Layer(torch.autograd.Function):
    """The identity; keeps its activations for a backward pass that may not fit."""

    @staticmethod
    def forward(ctx, x, activations, fits):
        ctx.activations, ctx.fits = activations, fits
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if not ctx.fits:
            raise torch.cuda.OutOfMemoryError(str(OUT_OF_MEMORY))
        return gradient, None, None


def test_split_lets_go_of_the_failed_backward_before_it_tries_again(make_policy, dataset):
    """Torch queues both branches of the sum; the second, made last, fails first and leaves the other there."""
    policy = make_policy()
    errors, kept, alive = policy.residuals, [], []

    def branched_errors(latents, *rest):
        found = errors(latents, *rest)
        if not torch.is_grad_enabled():
            return found
        alive.append(sum(reference() is not None for reference in kept))
        activations = Activations()
        kept.append(weakref.ref(activations))
        return Layer.apply(found / 2, activations, True) + Layer.apply(
            found / 2, None, len(kept) > 1
        )

    policy.residuals = branched_errors
    list(train(policy, dataset, config_in(guard=GuardConfig(out_of_memory="split"))))
    assert alive[:2] == [0, 0]


def test_split_ends_where_not_even_one_winner_fits(make_policy, dataset):
    policy = make_policy()
    short_of_memory(policy, 0)
    with pytest.raises(ShortageError, match="step 1: out of memory"):
        list(train(policy, dataset, config_in(guard=GuardConfig(out_of_memory="split"))))


def test_a_split_run_resumes_to_the_bit(make_policy, dataset, tmp_path):
    guard = GuardConfig(out_of_memory="split")
    whole, parts = make_policy(), make_policy()
    short_of_memory(whole, 2)
    list(train(whole, dataset, config_in(tmp_path / "whole", guard)))
    short_of_memory(parts, 2)
    stopped = train(parts, dataset, config_in(tmp_path / "parts", guard))
    for _ in range(4):
        next(stopped)
    stopped.close()
    again = make_policy()
    short_of_memory(again, 2)
    list(train(again, dataset, config_in(tmp_path / "parts", guard)))
    assert same(again.lora.state(), whole.lora.state())


def test_errors_of_other_kinds_are_no_shortage():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublas")
    )
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    accelerator = getattr(torch, "AcceleratorError", RuntimeError)
    assert is_out_of_memory(accelerator("CUDA error: out of memory"))
    numbered = accelerator("CUDA error: something new")
    assert not is_out_of_memory(numbered)
    numbered.error_code = 2
    assert is_out_of_memory(numbered)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert Shortage.of(OUT_OF_MEMORY, torch.device("cpu")).needed == 2.5 * 2**30


def test_a_file_named_stop_ends_the_run_after_the_step_and_it_goes_on_later(
    make_policy, dataset, tmp_path
):
    steps = train(make_policy(), dataset, config_in(tmp_path))
    next(steps)
    Run(tmp_path).request_stop()
    assert [r.step for r in steps] == []
    assert Run(tmp_path).step() == 1
    whole, rest = make_policy(), make_policy()
    assert [r.step for r in train(rest, dataset, config_in(tmp_path))] == list(range(2, 9))
    list(train(whole, dataset, config_in()))
    assert same(rest.lora.state(), whole.lora.state())


def test_another_learning_rate_continues_an_unfinished_run_and_not_a_finished_one(
    make_policy, dataset, tmp_path
):
    stopped = train(make_policy(), dataset, config_in(tmp_path))
    for _ in range(4):
        next(stopped)
    stopped.close()
    slower = replace(CONFIG.optimizer, learning_rate=0.005)
    config = config_in(tmp_path, optimizer=slower)
    assert [r.lr for r in train(make_policy(), dataset, config)] == [0.005] * 4
    with pytest.raises(CheckpointError, match="optimizer.learning_rate differ"):
        train(make_policy(), dataset, config_in(tmp_path))
