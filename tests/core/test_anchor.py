"""The grid behind the anchor preview: its numbers, its stability, and the verdict on samples."""

from dataclasses import replace

import pytest
import torch

from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.data import in_memory
from seppo_core.denoisers import ComputeConfig
from seppo_core.errors import CheckpointError, ConfigError, DatasetError
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal
from seppo_core.runs.run import Run
from seppo_core.training.config import RunConfig, SePPOConfig
from seppo_core.training.optim import OptimizerConfig
from seppo_core.training.trainer import train
from seppo_core.views.anchor import (
    AnchorMap,
    PolicyAndReference,
    PreviewSettings,
    Verdict,
    anchor_map,
    level_positions,
    preview,
    summary,
    verdicts,
)


@pytest.fixture
def compared(policy):
    """A policy with random paths against one with other random paths."""
    lora = LoRA(policy.network, LoRAConfig(rank=2), 0, policy.device)
    weights = {key: normal(tuple(v.shape), "p", key) * 0.3 for key, v in lora.state().items()}
    lora.load(weights)
    other = {key: normal(tuple(v.shape), "r", key) * 0.3 for key, v in weights.items()}
    with policy.session(ComputeConfig()), lora.attached():
        yield PolicyAndReference(lora, lora.policy, lora.slot(other))


def grid(policy, dataset, positions, compared, **settings) -> AnchorMap:
    settings = {"levels": 3, "draws": 2, "seed": 7, "batch_size": 4, **settings}
    return anchor_map(policy, dataset, positions, compared, **settings)


@torch.no_grad()
def test_margin_equals_errors_worked_out_one_by_one(policy, dataset, compared):
    anchors = grid(policy, dataset, [4, 1], compared)
    level, draw = 2, 1
    example = dataset[1]
    noise = normal((2, 4, 4), 7, "anchor", 1, level, draw)[None]
    u = torch.tensor([5 / 6])  # midpoint of the last third
    expected = []
    for slot in (compared.policy, compared.reference):
        with compared.lora.using(slot):
            x0 = example.latents[None] * 2  # TinyDenoiser's scale
            raw = policy.network((1 - u) * x0 + u * noise, u, example.cond[None])
            expected.append(((raw - (noise - x0)) ** 2).mean())
    torch.testing.assert_close(anchors.policy_errors[1, level, draw], expected[0])
    torch.testing.assert_close(anchors.values[1, level, draw], expected[0] - expected[1])
    assert anchors.captions == ("winner 4", "winner 1")
    assert torch.equal(anchors.levels, level_positions(3))


@torch.no_grad()
def test_a_policy_that_overshoots_is_drawn_back_before_it_is_compared(policy, dataset, compared):
    """Three times as far: what lies at a third of the way is compared with the reference."""
    anchors = grid(policy, dataset, [1], replace(compared, overshoot=3.0), levels=1, draws=1)
    example = dataset[1]
    noise, level = normal((2, 4, 4), 7, "anchor", 1, 0, 0)[None], torch.tensor([0.5])
    found = {}
    for name, slot in (("policy", compared.policy), ("reference", compared.reference)):
        with compared.lora.using(slot):
            found[name] = policy.residuals(
                example.latents[None] * 2, noise, level, example.cond[None]
            )
    between = found["reference"] + (found["policy"] - found["reference"]) / 3
    expected = between.square().mean() - found["reference"].square().mean()
    torch.testing.assert_close(anchors.values.squeeze(), expected)


def test_means_spread_and_flip_share_of_a_hand_made_grid():
    """Margins (-1, 3) and (-2, -4) with the sign criterion: roles (+1, -1) and (+1, +1)."""
    policy = torch.tensor([[[1.0, 5.0], [1.0, 0.0]]])
    reference = torch.tensor([[[2.0, 2.0], [3.0, 4.0]]])
    anchors = AnchorMap(
        positions=(0,),
        captions=("",),
        levels=level_positions(2),
        policy_errors=policy,
        reference_errors=reference,
        roles=torch.sign(reference - policy),
    )
    assert anchors.means.tolist() == [[1.0, -3.0]]
    # half the difference of two draws: std = |a - b| / sqrt 2, over sqrt 2 again
    torch.testing.assert_close(anchors.standard_error, torch.tensor([[2.0, 1.0]]))
    assert anchors.flip_share.tolist() == [[0.5, 0.0]]


def test_policy_against_itself_ties_exactly_everywhere(policy, dataset, compared):
    itself = PolicyAndReference(
        compared.lora, compared.policy, compared.lora.slot(compared.lora.state())
    )
    anchors = grid(policy, dataset, [0, 3], itself)
    assert torch.equal(anchors.means, torch.zeros(2, 3))
    assert torch.equal(anchors.flip_share, torch.ones(2, 3))  # sign(0) = 0: nothing is pushed away
    found = verdicts(policy, dataset, anchors, itself, ReferenceConfig(sampling_steps=2), 0)
    assert [v.word for v in found] == ["left out", "left out"]
    assert [v.left_out for v in found] == [1.0, 1.0]


def test_base_as_reference_is_the_bare_network(policy, dataset, compared):
    bare = grid(policy, dataset, [2], None)
    with compared.lora.using(None):
        expected = grid(policy, dataset, [2], None)
    against_base = grid(
        policy, dataset, [2], PolicyAndReference(compared.lora, compared.policy, None)
    )
    assert torch.equal(against_base.reference_errors, expected.policy_errors)
    # with paths attached and the policy active, `None` as compared shows the active weights
    assert torch.equal(against_base.policy_errors, bare.policy_errors)
    assert bare.flip_share is None and torch.equal(bare.values, bare.policy_errors)


def test_numbers_do_not_depend_on_batch_size_or_on_the_other_winners(policy, dataset, compared):
    together = grid(policy, dataset, [0, 5], compared, batch_size=6)
    alone = grid(policy, dataset, [5], compared, batch_size=1)
    for errors in (
        "policy_errors",
        "reference_errors",
    ):  # their difference keeps the rounding of both
        one, other = getattr(alone, errors)[0], getattr(together, errors)[1]
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_seed_changes_the_noise_and_global_random_state_does_not(policy, dataset, compared):
    first = grid(policy, dataset, [0], compared)
    torch.manual_seed(99)
    assert torch.equal(grid(policy, dataset, [0], compared).values, first.values)
    assert not torch.equal(grid(policy, dataset, [0], compared, seed=8).values, first.values)


def test_indicator_and_sign_agree_on_what_flips(policy, dataset, compared):
    sign = grid(policy, dataset, [0, 1], compared, draws=4)
    indicator = grid(policy, dataset, [0, 1], compared, draws=4, criterion="indicator")
    assert torch.equal(sign.flip_share, indicator.flip_share)
    assert set(indicator.roles.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(sign.roles, torch.sign(-sign.values))


def test_verdict_counts_roles_and_the_sample_is_the_references(policy, dataset, compared):
    anchors = grid(policy, dataset, [3, 1], compared)
    sampling = ReferenceConfig(sampling_steps=3)
    found = verdicts(policy, dataset, anchors, compared, sampling, seed=5)
    for row, verdict in enumerate(found):
        assert verdict.losing == pytest.approx((anchors.values[row] < 0).float().mean().item())
        assert verdict.losing + verdict.learned + verdict.left_out == pytest.approx(1)
    noise = normal((1, 2, 4, 4), 5, "anchor", 1, "sample")
    with compared.lora.using(compared.reference), torch.no_grad():
        expected = policy.sample([dataset[1].cond], noise, sampling, 0)
    assert torch.equal(found[1].sample, expected[0])


def test_verdict_in_words_follows_the_largest_share():
    sample = torch.zeros(1)
    assert Verdict(sample, losing=0.6, learned=0.4, left_out=0.0).word == "loses"
    assert Verdict(sample, losing=0.3, learned=0.7, left_out=0.0).word == "is learned from"
    assert Verdict(sample, losing=0.5, learned=0.5, left_out=0.0).word == "is learned from"
    assert Verdict(sample, losing=0.2, learned=0.0, left_out=0.8).word == "left out"


def test_every_network_call_is_announced_and_can_be_stopped(policy, dataset, compared):
    seen = []
    grid(policy, dataset, [0, 1], compared, on_call=lambda done, total: seen.append((done, total)))
    # 2 winners x 2 compared x ceil(6 / 4) batches
    assert seen == [(i, 8) for i in range(8)]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    before = policy.calls
    with pytest.raises(KeyboardInterrupt):
        grid(policy, dataset, [0, 1], compared, on_call=stop)
    assert policy.calls - before == 3
    assert compared.lora._active is compared.lora.policy


def test_winner_that_is_not_there_is_named_with_the_count(policy, dataset, compared):
    with pytest.raises(DatasetError, match="no winner 6: the dataset counts 6"):
        grid(policy, dataset, [0, 6], compared)


def test_unknown_criterion_lists_the_choices(policy, dataset, compared):
    with pytest.raises(ConfigError, match="indicator"):
        grid(policy, dataset, [0], compared, criterion="vote")


def trained(policy, dataset, directory, **loss):
    """A run of four steps on the tiny denoiser with snapshots after steps 2 and 4."""
    config = SePPOConfig(
        steps=4,
        loss=LossConfig(**loss),
        references=ReferenceConfig(snapshot_every=2, sampling_steps=2),
        lora=LoRAConfig(rank=2, alpha=1),
        optimizer=OptimizerConfig(learning_rate=0.05, warmup=0),
        run=RunConfig(directory=str(directory)),
    )
    for _ in train(policy, dataset, config):
        pass
    return Run(directory)


SMALL = {"winners": 2, "levels": 3, "draws": 2, "seed": 7}


def test_preview_of_a_run_equals_the_map_of_its_weights(tmp_path, policy, dataset):
    run = trained(policy, dataset, tmp_path / "my run")
    shown = preview(policy, dataset, run, PreviewSettings(first=1, **SMALL))
    lora = LoRA(policy.network, LoRAConfig(rank=2, alpha=1), 0, policy.device)
    lora.load(run.weights())
    with policy.session(ComputeConfig()), lora.attached():
        against = PolicyAndReference(lora, lora.policy, lora.slot(run.snapshot(0).weights))
        expected = grid(policy, dataset, [1, 2], against)
    assert torch.equal(shown.anchors.values, expected.values)
    assert shown.anchors.values.abs().max() > 1e-3
    assert len(shown.verdicts) == 2
    assert shown.title == "my run: what the anchor sees"
    assert "step 4 against the initial weights, criterion indicator" in shown.subtitle
    assert torch.equal(shown.latents[0], dataset[1].latents[None] * 2)
    words = summary(shown).splitlines()
    assert len(words) == 4
    assert words[2].startswith(
        f"winner 1 (winner 1): winner margin {expected.values[0].mean():+.3g}"
    )


def test_latest_entry_of_a_run_that_ended_with_a_snapshot_is_the_policy(tmp_path, policy, dataset):
    run = trained(policy, dataset, tmp_path / "run")
    settings = PreviewSettings(reference="latest", draw_samples=False, **SMALL)
    shown = preview(policy, dataset, run, settings)
    assert torch.equal(shown.anchors.means, torch.zeros(2, 3))
    assert torch.equal(shown.anchors.flip_share, torch.ones(2, 3))
    assert shown.verdicts == []


def test_preview_takes_the_runs_criterion_unless_told_another(tmp_path, policy, dataset):
    run = trained(policy, dataset, tmp_path / "run", criterion="constant", loser_weight=0.25)
    own = preview(policy, dataset, run, PreviewSettings(draw_samples=False, **SMALL))
    assert set(own.anchors.roles.unique().tolist()) == {0.25}
    settings = PreviewSettings(criterion="indicator", draw_samples=False, **SMALL)
    assert set(preview(policy, dataset, run, settings).anchors.roles.unique().tolist()) <= {0, 1}


def test_preview_without_a_run_shows_the_base(policy, dataset):
    shown = preview(policy, dataset, None, PreviewSettings(**SMALL))
    with policy.session(ComputeConfig()):
        assert torch.equal(shown.anchors.values, grid(policy, dataset, [0, 1], None).values)
    assert shown.verdicts == [] and shown.title == "How well tiny explains the winners"
    assert "flips" not in summary(shown)


def test_preview_on_another_model_is_refused_before_its_session(
    tmp_path, policy, dataset, make_policy
):
    run = trained(policy, dataset, tmp_path / "run")
    other = make_policy(seed=1)
    with pytest.raises(CheckpointError, match="'run' was trained on another model .tiny."):
        preview(other, dataset, run, PreviewSettings(**SMALL))
    assert other.calls == 0


def test_entry_that_was_not_kept_is_named_with_those_that_were(tmp_path, policy, dataset):
    run = trained(policy, dataset, tmp_path / "run")
    settings = PreviewSettings(reference="step", reference_step=3, **SMALL)
    with pytest.raises(ConfigError, match=r"no snapshot of step 3; it keeps \[0, 2, 4\]"):
        preview(policy, dataset, run, settings)


def test_summary_keeps_a_long_caption_on_one_line(policy, make_examples):
    example = make_examples(1)[0]
    long = in_memory([replace(example, caption="a fox\n" * 100)])
    shown = preview(policy, long, None, PreviewSettings(winners=1, levels=2, draws=1))
    (_, line) = summary(shown).splitlines()
    assert line.startswith("winner 0 (a fox a fox") and " ...): denoising error" in line
    assert len(line) < 130
