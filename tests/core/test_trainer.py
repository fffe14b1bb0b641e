"""The loop on a tiny denoiser: what a step does, what derives from the seed, what a stop leaves behind."""

import json
import math
from dataclasses import replace

import pytest
import torch

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.data import in_memory
from seppo_core.errors import CheckpointError, ConfigError, DatasetError
from seppo_core.method.objectives import DenoisingErrors, LossConfig, mean_square, seppo_loss
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import generator, normal
from seppo_core.runs.run import Run
from seppo_core.runs.state import TrainingState
from seppo_core.training.config import RunConfig
from seppo_core.training.optim import OptimizerConfig

CONFIG = SePPOConfig(
    steps=6,
    batch_size=2,
    loss=LossConfig(beta=50.0),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=3),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0),
    run=RunConfig(checkpoint_every=3, preview_every=2),
)


def run_in(path, **changes):
    return replace(CONFIG, run=replace(CONFIG.run, directory=str(path)), **changes)


def weights_after(policy, dataset, config):
    reports = list(train(policy, dataset, config))
    return policy.lora.state(), reports


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def logged(reports):
    return [{k: v for k, v in r.metrics().items() if k != "seconds"} for r in reports]


def test_the_policy_explains_the_winners_better_after_training(policy, make_policy, dataset):
    config = replace(CONFIG, steps=150, references=replace(CONFIG.references, snapshot_every=30))
    reports = list(train(policy, dataset, config))
    first = sum(r.policy_error for r in reports[:30]) / 30
    last = sum(r.policy_error for r in reports[-30:]) / 30
    assert last < 0.8 * first


def test_first_step_is_log_two_with_exact_ties(policy, dataset):
    first = next(train(policy, dataset, CONFIG))
    assert first.loss == pytest.approx(math.log(2), abs=1e-7)
    assert (first.winner_margin, first.flip_rate, first.implicit_accuracy) == (0.0, 1.0, 0.5)
    assert first.sample_margin_losing is None
    assert first.policy_error == first.reference_error


def test_first_gradient_matches_a_plain_computation(policy, make_policy, dataset):
    """The first step by hand: the batch, the bank, the noise and levels as derived, autograd's gradient."""
    config = replace(CONFIG, loss=LossConfig(beta=50.0, criterion="none"))
    report = next(train(policy, dataset, config))

    other = make_policy()
    from seppo_core.training.batch import BatchPlan

    lora = LoRA(other.network, config.lora, config.seed, other.device)
    positions = BatchPlan(dataset.shapes, 2, 0).batch(0)
    examples = [dataset[p] for p in positions]
    winners = torch.stack([e.latents * 2 for e in examples])
    conds = [e.cond for e in examples]
    start = torch.stack([normal((2, 4, 4), 0, 0, 0, "sample", i) for i in range(2)])
    drawn = other.sample(conds, start, config.references, 0).detach()
    noise = torch.stack([normal((2, 4, 4), 0, 1, 0, "noise", i) for i in range(2)])
    level = torch.cat([torch.rand(1, generator=generator(0, 1, 0, "level", i)) for i in range(2)])
    text = torch.stack(conds)

    def both(latents):
        return mean_square(other.residuals(latents, noise, level, text))

    with lora.attached():
        current = DenoisingErrors(both(winners), both(drawn))
        reference = DenoisingErrors(current.winner.detach(), current.sample.detach())
        loss = seppo_loss(current, reference, beta=50.0, criterion="none").loss.mean()
        loss.backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in lora.parameters())).item()
    assert report.grad_norm == pytest.approx(norm, rel=1e-5)


def test_same_seed_same_weights_to_the_bit_whatever_the_global_generator_did(make_policy, dataset):
    first, reports = weights_after(make_policy(), dataset, CONFIG)
    torch.manual_seed(1234)
    torch.rand(7)
    second, again = weights_after(make_policy(), dataset, CONFIG)
    assert_same(first, second)
    assert logged(reports) == logged(again)


def test_another_seed_gives_other_weights(make_policy, dataset):
    first, _ = weights_after(make_policy(), dataset, CONFIG)
    second, _ = weights_after(make_policy(), dataset, replace(CONFIG, seed=1))
    assert not torch.equal(first["conv.up"], second["conv.up"])


def test_training_leaves_the_global_generator_alone(policy, dataset):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(train(policy, dataset, CONFIG))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("criterion", ["sign", "none"])
def test_a_batch_of_four_equals_four_accumulated_batches_of_one(make_policy, dataset, criterion):
    loss = replace(CONFIG.loss, criterion=criterion)
    whole, _ = weights_after(
        make_policy(), dataset, replace(CONFIG, loss=loss, batch_size=4, accumulation=1)
    )
    parts, _ = weights_after(
        make_policy(), dataset, replace(CONFIG, loss=loss, batch_size=1, accumulation=4)
    )
    for key in whole:
        torch.testing.assert_close(whole[key], parts[key], rtol=1e-4, atol=1e-5)


def test_a_continued_run_equals_an_uninterrupted_one_to_the_bit(make_policy, dataset, tmp_path):
    whole, _ = weights_after(make_policy(), dataset, run_in(tmp_path / "whole"))

    stopped = train(make_policy(), dataset, run_in(tmp_path / "parts"))
    for _ in range(3):
        next(stopped)
    stopped.close()
    parts, reports = weights_after(make_policy(), dataset, run_in(tmp_path / "parts"))
    assert [r.step for r in reports] == [4, 5, 6]
    assert_same(whole, parts)

    def lines(name):
        metrics = Run(tmp_path / name).metrics()
        return [{k: v for k, v in line.items() if k != "seconds"} for line in metrics]

    assert lines("whole") == lines("parts")
    assert [line["step"] for line in lines("parts")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, 7])
def test_a_stop_inside_a_window_continues_with_the_same_samples(
    make_policy, dataset, tmp_path, stop
):
    references = replace(CONFIG.references, reuse=4, snapshot_every=3, capacity=2)
    changes = {"references": references, "steps": 9}
    whole, _ = weights_after(make_policy(), dataset, replace(CONFIG, **changes))
    stopped = train(make_policy(), dataset, run_in(tmp_path, **changes))
    for _ in range(stop):
        next(stopped)
    stopped.close()
    parts, _ = weights_after(make_policy(), dataset, run_in(tmp_path, **changes))
    assert_same(whole, parts)


def test_an_identical_run_again_does_nothing_and_has_its_weights(make_policy, dataset, tmp_path):
    first, _ = weights_after(make_policy(), dataset, run_in(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    policy = make_policy()
    again, reports = weights_after(policy, dataset, run_in(tmp_path))
    assert reports == []
    assert policy.calls == 0
    assert_same(first, again)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_more_steps_continue_a_finished_run(make_policy, dataset, tmp_path):
    whole, _ = weights_after(make_policy(), dataset, replace(CONFIG, steps=8))
    weights_after(make_policy(), dataset, run_in(tmp_path))
    parts, reports = weights_after(make_policy(), dataset, run_in(tmp_path, steps=8))
    assert [r.step for r in reports] == [7, 8]
    assert_same(whole, parts)


def warming_up(share, **changes):
    return {"optimizer": replace(CONFIG.optimizer, warmup=share), **changes}


def test_more_steps_do_not_warm_up_again(make_policy, dataset, tmp_path):
    """6 steps with 2 of warm-up; of 60 there would be 20. A third time, and where it stopped in the warm-up."""
    for name, stop in (("finished", 6), ("stopped", 1)):
        steps = train(make_policy(), dataset, run_in(tmp_path / name, **warming_up(1 / 3)))
        rates = [next(steps).lr for _ in range(stop)]
        steps.close()
        for more in (8, 60):
            steps = train(
                make_policy(), dataset, run_in(tmp_path / name, **warming_up(1 / 3, steps=more))
            )
            rates += [next(steps).lr for _ in range(2)]
            steps.close()
        assert rates == [0.01] + [0.02] * (len(rates) - 1)


def test_a_run_kept_before_states_told_their_warm_up_does_not_warm_up_again(
    make_policy, dataset, tmp_path, monkeypatch
):
    def without(**given):
        del given["scalars"]["warmup_steps"], given["scalars"]["judged_from"]
        return TrainingState(**given)

    with monkeypatch.context() as older:
        older.setattr("seppo_core.training.session.TrainingState", without)
        list(train(make_policy(), dataset, run_in(tmp_path, **warming_up(1 / 3))))
    steps = train(make_policy(), dataset, run_in(tmp_path, **warming_up(1 / 3, steps=60)))
    assert next(steps).lr == 0.02
    steps.close()


def test_three_steps_and_three_more_equal_six_to_the_bit(make_policy, dataset, tmp_path):
    """With the usual warm-up, a tenth of the steps: one step of three, as of six."""
    whole, _ = weights_after(make_policy(), dataset, run_in(tmp_path / "whole", **warming_up(0.1)))
    path = tmp_path / "parts"
    weights_after(make_policy(), dataset, run_in(path, **warming_up(0.1, steps=3)))
    parts, reports = weights_after(make_policy(), dataset, run_in(path, **warming_up(0.1)))
    assert [r.lr for r in reports] == [0.02] * 3
    assert_same(whole, parts)


def test_a_fault_in_mid_step_keeps_everything_up_to_the_last_step(make_policy, dataset, tmp_path):
    whole, _ = weights_after(make_policy(), dataset, CONFIG)
    broken = make_policy()
    broken.fail_at_call = 9  # two calls a step: the reference's forward of step 5
    with pytest.raises(RuntimeError, match="injected"):
        list(train(broken, dataset, run_in(tmp_path)))
    assert not broken.in_session
    assert Run(tmp_path).step() == 4
    rest, reports = weights_after(make_policy(), dataset, run_in(tmp_path))
    assert [r.step for r in reports] == [5, 6]
    assert_same(whole, rest)


def test_closing_the_iterator_restores_the_network(policy, dataset):
    steps = train(policy, dataset, CONFIG)
    next(steps)
    assert any(module._forward_hooks for module in policy.network.modules())
    steps.close()
    assert not any(module._forward_hooks for module in policy.network.modules())
    assert not policy.in_session


def test_a_changed_setting_in_the_same_directory_is_refused_by_name(
    make_policy, dataset, make_examples, tmp_path
):
    list(train(make_policy(), dataset, run_in(tmp_path)))
    changed = run_in(tmp_path, loss=replace(CONFIG.loss, beta=60.0))
    with pytest.raises(CheckpointError, match="loss.beta differ"):
        train(make_policy(), dataset, changed)
    with pytest.raises(CheckpointError, match="base differ"):
        train(make_policy(1), dataset, run_in(tmp_path))
    with pytest.raises(CheckpointError, match="dataset differ"):
        train(make_policy(), in_memory(make_examples(5)), run_in(tmp_path))


def test_the_run_directory_holds_what_the_contract_names(make_policy, dataset, tmp_path):
    _, reports = weights_after(make_policy(), dataset, run_in(tmp_path))
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["config"]["loss"]["beta"] == 50.0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {
        "step", "loss", "winner_margin", "sample_margin_losing", "sample_margin_winning",
        "flip_rate", "implicit_accuracy", "policy_error", "reference_error", "grad_norm", "lr",
        "reference_step", "seconds", "held_out_margin", "winner_margin_floor",
    }  # fmt: skip
    assert list(lines[0])[-2:] == ["seconds", "held_out_margin"]
    assert lines[0]["sample_margin_losing"] is None
    assert lines == [r.metrics() for r in reports]
    run = Run(tmp_path)
    assert run.snapshot_steps() == [0, 2, 4, 6]
    assert run.step() == 6
    kept = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert kept == ["step_00000003.safetensors", "step_00000006.safetensors"]


def test_the_initial_snapshot_is_the_base_and_later_ones_are_the_policy(policy, dataset, tmp_path):
    state, _ = weights_after(policy, dataset, run_in(tmp_path))
    run = Run(tmp_path)
    assert run.snapshot(0).weights["conv.up"].abs().max() == 0
    assert_same(run.snapshot(6).weights, state)
    assert_same(run.weights(), state)


def test_a_run_may_start_from_the_weights_of_another(make_policy, dataset, tmp_path):
    state, _ = weights_after(make_policy(), dataset, run_in(tmp_path / "first"))
    start = Run(tmp_path / "first").weights_path()
    run = RunConfig(directory=str(tmp_path / "second"), initial_weights=str(start))
    list(train(make_policy(), dataset, replace(CONFIG, run=run, seed=5)))
    assert_same(Run(tmp_path / "second").snapshot(0).weights, state)


def test_reuse_draws_one_bank_per_window(policy, dataset):
    drawn = []
    original = policy.sample
    policy.sample = lambda conds, *args: drawn.append(len(conds)) or original(conds, *args)
    references = replace(CONFIG.references, reuse=3)
    reports = list(train(policy, dataset, replace(CONFIG, references=references)))
    assert drawn == [2, 2]
    assert [r.reference_step for r in reports] == [r.reference_step for r in reports[:1]] * 3 + [
        reports[3].reference_step
    ] * 3


@pytest.mark.parametrize(("selection", "expected"), [("initial", [0]), ("latest", [0, 2, 4])])
def test_a_reference_that_stays_is_made_ready_once(
    policy, dataset, monkeypatch, selection, expected
):
    made, slot = [], LoRA.slot
    monkeypatch.setattr(LoRA, "slot", lambda *given: made.append(slot(*given)) or made[-1])
    references = replace(CONFIG.references, selection=selection)
    reports = list(train(policy, dataset, replace(CONFIG, references=references)))
    assert len(made) == len(expected)
    assert sorted({r.reference_step for r in reports}) == expected


def test_the_criterion_reads_the_winners_margin(policy, dataset):
    config = replace(CONFIG, loss=LossConfig(beta=50.0, criterion="sign"))
    rows = [example for report in train(policy, dataset, config) for example in report.examples]
    assert [row.role for row in rows] == [
        math.copysign(row.winner_margin != 0, -row.winner_margin) for row in rows
    ]
    told_apart = [row for row in rows if (row.winner_margin < 0) != (row.sample_margin > 0)]
    assert told_apart, "the two margins must disagree somewhere"


def test_sft_is_the_winners_error_alone(policy, dataset):
    config = replace(CONFIG, loss=LossConfig(objective="winner_error"))
    reports = list(train(policy, dataset, config))
    assert policy.calls == 6  # one forward a step, no reference
    for report in reports:
        assert report.loss == report.policy_error
        assert (report.winner_margin, report.flip_rate, report.reference_step) == (None,) * 3


def test_dpo_pairs_stand_where_the_samples_stand(policy, make_examples):
    config = replace(
        CONFIG,
        loss=LossConfig(beta=50.0, criterion="none", paired=True),
        references=replace(CONFIG.references, selection="initial"),
        run=RunConfig(preview_every=0),
    )

    def no_drawing(*args):
        raise AssertionError("pairs need no drawn samples")

    policy.sample = no_drawing
    reports = list(train(policy, in_memory(make_examples(4, paired=True)), config))
    assert {r.reference_step for r in reports} == {0}
    assert all(r.flip_rate == 0 for r in reports)


def test_dpo_without_losing_images_is_refused_before_anything_moves(policy, dataset, tmp_path):
    config = run_in(tmp_path / "run", loss=LossConfig(criterion="none", paired=True))
    with pytest.raises(DatasetError, match="losing image for every winner"):
        train(policy, dataset, config)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_run_directory_is_refused_before_anything_moves(policy, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(policy, dataset, run_in(tmp_path / "file" / "run"))


def test_previews_come_every_n_steps_with_a_caption(policy, dataset):
    for objective in ("preference", "winner_error"):
        config = replace(CONFIG, loss=replace(CONFIG.loss, objective=objective))
        reports = list(train(policy, dataset, config))
        assert [r.preview is not None for r in reports] == [False, True] * 3
        assert reports[1].preview.shape == (1, 2, 4, 4)
        assert reports[1].caption.startswith("winner ")


def test_a_pool_of_one_and_unknown_settings_are_configuration_errors():
    with pytest.raises(ConfigError, match="references.capacity"):
        ReferenceConfig(capacity=0)


@pytest.mark.parametrize("name", ["adafactor", "lion", "adamw_schedule_free"])
def test_other_optimizers_resume_to_the_bit(make_policy, dataset, tmp_path, name):
    pytest.importorskip("pytorch_optimizer")
    changes = {"optimizer": OptimizerConfig(name=name, learning_rate=0.01)}
    whole, _ = weights_after(make_policy(), dataset, replace(CONFIG, **changes))
    stopped = train(make_policy(), dataset, run_in(tmp_path, **changes))
    for _ in range(4):
        next(stopped)
    stopped.close()
    parts, _ = weights_after(make_policy(), dataset, run_in(tmp_path, **changes))
    assert_same(whole, parts)


def test_pictures_on_the_way_are_drawn_with_the_weights_to_be_saved(make_policy, dataset):
    """A schedule-free method trains on others: `lora.evaluation` shows those to use, and gives back the trained ones."""
    pytest.importorskip("pytorch_optimizer")
    changes = {"optimizer": OptimizerConfig(name="adamw_schedule_free", learning_rate=0.01)}
    config = replace(CONFIG, loss=LossConfig(objective="winner_error"), **changes)
    policy, seen, to_use = make_policy(), [], []
    draw = policy.sample
    policy.sample = lambda *given: (seen.append(policy.lora.state()), draw(*given))[1]
    steps = train(policy, dataset, config)  # a preview every second step, before its update
    for report in steps:
        if report.step % 2 == 1:
            trained = policy.lora.state()
            with policy.lora.evaluation():
                to_use.append(policy.lora.state())
            assert_same(trained, policy.lora.state())
            if report.step > 1:  # the average of one step is that step
                assert any(not torch.equal(trained[name], to_use[-1][name]) for name in trained)
    assert len(seen) == len(to_use) == 3
    for drawn_with, wanted in zip(seen, to_use, strict=True):
        assert_same(drawn_with, wanted)
    with policy.lora.evaluation():  # what is there now is to be used
        assert_same(policy.lora.state(), weights_after(make_policy(), dataset, config)[0])


class TooLarge(torch.autograd.Function):
    """The identity on residuals, whose gradient is infinite where that of an error comes in above `limit`."""

    @staticmethod
    def forward(ctx, x, limit):
        ctx.limit = limit
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        of_errors = (gradient * x).flatten(1).sum(1) / (2 * mean_square(x))
        overflows = of_errors.abs().max() > ctx.limit
        return gradient * (math.inf if overflows else 1.0), None


def half_precision(policy, limit=math.inf, loss=1.0):
    """`policy` in float16: gradients above `limit` overflow; its errors times `loss`. Returns its attempts."""
    policy.compute_dtype = torch.float16
    original, attempts = policy.residuals, []

    def errors(*args):
        found = original(*args)
        if not torch.is_grad_enabled():
            return found
        attempts.append(found)
        return TooLarge.apply(found * loss, limit)

    policy.residuals = errors
    return attempts


def test_half_precision_scales_the_loss_and_backs_off_when_the_gradient_overflows(
    make_policy, dataset
):
    config = replace(CONFIG, loss=LossConfig(objective="winner_error"))
    plain, _ = weights_after(make_policy(), dataset, config)
    policy = make_policy()
    # two winners: the gradient of each error is half the scale, 4096 at first and 512 at last
    attempts = half_precision(policy, limit=256.0)
    found, reports = weights_after(policy, dataset, config)
    assert len(attempts) == 6 + 3
    assert all(report.loss is not None for report in reports)
    for key, value in found.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_half_precision_tries_a_loss_that_is_not_finite_once(make_policy, dataset, tmp_path, loss):
    policy = make_policy()
    attempts = half_precision(policy, loss=loss)
    steps = train(policy, dataset, run_in(tmp_path))
    assert next(steps).loss is None
    assert len(attempts) == 1
    steps.close()
    assert Run(tmp_path).state().scalars["loss_scale"] == 4096


def test_half_precision_keeps_its_scale_where_no_scale_helps(make_policy, dataset, tmp_path):
    policy = make_policy()
    attempts = half_precision(policy, limit=0.0)
    config = replace(run_in(tmp_path), loss=LossConfig(objective="winner_error"))
    steps = train(policy, dataset, config)
    assert next(steps).loss is None
    assert len(attempts) == 13  # 4096, 2048 ... 1
    steps.close()
    assert Run(tmp_path).state().scalars["loss_scale"] == 4096


def test_cancel_while_a_preview_is_drawn_leaves_no_hole_in_the_metrics(
    make_policy, dataset, tmp_path
):
    loss = replace(
        CONFIG.loss, objective="winner_error"
    )  # previews are drawn, not taken from a bank
    whole, _ = weights_after(make_policy(), dataset, replace(CONFIG, loss=loss))
    cancelled = make_policy()

    def cancel(*args):
        raise RuntimeError("cancelled")

    cancelled.sample = cancel
    with pytest.raises(RuntimeError, match="cancelled"):
        list(train(cancelled, dataset, run_in(tmp_path, loss=loss)))
    assert Run(tmp_path).step() == 1
    rest, _ = weights_after(make_policy(), dataset, run_in(tmp_path, loss=loss))
    assert [line["step"] for line in Run(tmp_path).metrics()] == [1, 2, 3, 4, 5, 6]
    assert_same(whole, rest)


def test_a_torn_last_line_of_the_metrics_is_left_out_and_written_again(
    make_policy, dataset, tmp_path
):
    list(train(make_policy(), dataset, run_in(tmp_path, steps=3)))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    list(train(make_policy(), dataset, run_in(tmp_path)))
    assert [line["step"] for line in Run(tmp_path).metrics()] == [1, 2, 3, 4, 5, 6]


def test_a_failing_save_does_not_hide_what_stopped_the_run(
    make_policy, dataset, tmp_path, monkeypatch, caplog
):
    policy = make_policy()
    policy.fail_at_call = 5

    def disk_full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(Run, "save", disk_full)
    with pytest.raises(RuntimeError, match="injected fault"):
        list(train(policy, dataset, run_in(tmp_path)))
    assert "could not be saved at step 2: disk full" in caplog.text
    assert not policy.in_session


def test_fewer_steps_than_a_run_has_are_refused(make_policy, dataset, tmp_path):
    list(train(make_policy(), dataset, run_in(tmp_path)))
    with pytest.raises(CheckpointError, match="already has 6 steps, more than the 5"):
        train(make_policy(), dataset, run_in(tmp_path, steps=5))


def test_a_schedule_over_all_steps_is_not_stretched_afterwards(make_policy, dataset, tmp_path):
    cosine = replace(CONFIG.optimizer, schedule="cosine")
    list(train(make_policy(), dataset, run_in(tmp_path, optimizer=cosine)))
    with pytest.raises(CheckpointError, match="steps differ"):
        train(make_policy(), dataset, run_in(tmp_path, optimizer=cosine, steps=9))


def test_other_conditions_of_the_model_are_another_run(make_policy, dataset, tmp_path):
    list(train(make_policy(), dataset, run_in(tmp_path)))
    shifted = make_policy()
    shifted.context_fingerprint = lambda guided: "another noise schedule"
    with pytest.raises(CheckpointError, match="conditions differ"):
        train(shifted, dataset, run_in(tmp_path))


def test_files_have_the_users_permissions_and_no_paths_of_the_machine(
    make_policy, dataset, tmp_path
):
    list(train(make_policy(), dataset, run_in(tmp_path)))
    plain = tmp_path / "plain"
    plain.touch()
    weights = Run(tmp_path).weights_path()
    assert weights.stat().st_mode == plain.stat().st_mode
    assert str(tmp_path).encode() not in weights.read_bytes()


def test_initial_weights_of_another_rank_are_refused_before_anything_moves(
    make_policy, dataset, tmp_path
):
    list(train(make_policy(), dataset, run_in(tmp_path / "first")))
    start = str(Run(tmp_path / "first").weights_path())
    run = RunConfig(directory=str(tmp_path / "second"), initial_weights=start)
    with pytest.raises(CheckpointError, match="LoRA weights do not fit"):
        train(make_policy(), dataset, replace(CONFIG, run=run, lora=LoRAConfig(rank=3)))
    assert not (tmp_path / "second").exists()


def test_a_report_says_of_each_winner_what_its_means_are_made_of(make_policy, dataset):
    config = replace(CONFIG, steps=6, batch_size=3)
    for report in train(make_policy(), dataset, config):
        rows = report.examples
        assert len(rows) == 3
        assert all(0 <= row.winner < len(dataset) and 0 <= row.level < 1 for row in rows)
        mean = sum(row.winner_margin for row in rows) / 3
        assert mean == pytest.approx(report.winner_margin, rel=1e-5, abs=1e-9)
        assert sum(row.role <= 0 for row in rows) / 3 == pytest.approx(report.flip_rate)
    assert len({row.level for row in rows}) == 3
