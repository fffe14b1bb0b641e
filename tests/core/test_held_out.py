"""Winners that are not trained on: which they are, and what is measured on them."""

import json
import math
from dataclasses import replace

import pytest
import torch

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.data import EncodedDataset, in_memory
from seppo_core.data.encode import encode
from seppo_core.data.pictures import picture_from_tensor
from seppo_core.data.prepare import Preparation
from seppo_core.data.winners import Winner, Winners
from seppo_core.data.wording import Wording, reworded
from seppo_core.errors import ConfigError, DatasetError
from seppo_core.method.objectives import LossConfig, mean_square
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal
from seppo_core.runs.run import Run
from seppo_core.training.config import RunConfig
from seppo_core.training.held_out import HeldOut
from seppo_core.training.optim import OptimizerConfig

CONFIG = SePPOConfig(
    steps=6,
    batch_size=3,
    loss=LossConfig(beta=50.0),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=2),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0),
    run=RunConfig(checkpoint_every=3, preview_every=0, held_out_every=2),
)


def picture(number: int):
    return picture_from_tensor(torch.full((8, 8, 3), number / 255), f"picture {number}")


def encoded(winners, held_out: float, side: int = 8, **settings) -> EncodedDataset:
    rows = [w if isinstance(w, Winner) else Winner(picture(w), f"caption {w}") for w in winners]
    return encode(
        Winners(rows, "here"),
        lambda pixels: pixels.movedim(-1, 0),
        lambda caption: {"letters": torch.tensor([float(ord(letter)) for letter in caption])},
        Preparation(resolution=side, multiple=8, mode="square"),
        image_identity="vae",
        text_identity="clip",
        held_out=held_out,
        **settings,
    )


def numbers(dataset: EncodedDataset | None) -> set[int]:
    """Which pictures these are, by their grey."""
    if dataset is None:
        return set()
    return {round(255 * float(dataset[i].latents.mean())) for i in range(len(dataset))}


def test_every_winner_is_on_one_side():
    dataset = encoded(range(40), 0.3)
    held, trained = numbers(dataset.held_out), numbers(dataset)
    assert held | trained == set(range(40))
    assert not held & trained
    assert 4 <= len(held) <= 20  # 12 expected, one deviation is 2.9
    assert encoded(range(40), 0.0).held_out is None


def test_added_images_move_none_from_one_side_to_the_other():
    few, many = encoded(range(10, 40), 0.3), encoded([*range(60, 50, -1), *range(40)], 0.3)
    ours = set(range(10, 40))
    assert numbers(many.held_out) & ours == numbers(few.held_out)
    assert numbers(many) & ours == numbers(few)


def test_a_larger_share_keeps_those_of_the_smaller():
    small, large = (numbers(encoded(range(40), share).held_out) for share in (0.2, 0.5))
    assert small < large


def test_the_picture_alone_decides_not_its_name_caption_size_or_repeats():
    held = numbers(encoded(range(40), 0.3).held_out)

    def renamed(number: int) -> Winner:
        pixels = picture(number).pixels
        return Winner(replace(picture(number), pixels=pixels, name=f"x{number}"), "one for all", 3)

    other = encoded([renamed(number) for number in range(40)], 0.3, side=16)
    assert numbers(other.held_out) == held
    assert len(other.held_out) == len(held)  # repeats do not count there
    assert len(other) == 3 * (40 - len(held))


def test_copies_of_a_picture_are_on_its_side():
    copies = [Winner(picture(number), f"again {number}") for number in range(40)]
    dataset = encoded([*range(40), *copies], 0.3)
    assert not numbers(dataset.held_out) & numbers(dataset)


def test_held_out_winners_are_read_with_their_caption_as_given():
    winners = Winners([Winner(picture(i), f"a, {i}") for i in range(40)], "here")
    worded = reworded(winners, Wording(trigger="sks", shuffle=1, dropout=0.9))
    dataset = encoded(list(worded), 0.3)
    captions = [dataset.held_out[i].caption for i in range(len(dataset.held_out))]
    assert all(caption.startswith("sks, a, ") for caption in captions)


def test_another_share_is_another_dataset():
    assert len({encoded(range(20), share).identity for share in (0.0, 0.2, 0.4)}) == 3
    assert encoded(range(20), 0.2).identity == encoded(range(20), 0.2).identity


@pytest.mark.parametrize("share", [-0.1, 0.6, math.nan])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ConfigError, match=r"held_out must lie in \[0, 0.5\], got"):
        encoded([1], share)


def test_a_share_that_leaves_nothing_to_train_on_is_refused():
    taken = min(numbers(encoded(range(40), 0.5).held_out))
    with pytest.raises(DatasetError, match="here: held_out=0.5 takes all 2 winners"):
        encoded([taken, taken], 0.5)


def test_a_share_that_takes_none_says_so_and_goes_on():
    free = min(numbers(encoded(range(40), 0.5)))
    dataset = encoded([free], 0.1)
    assert dataset.held_out is None
    assert "held_out=0.1 takes none of them; raise it, or add winners" in dataset.report()
    assert "held" not in encoded([free], 0.0).report()


def with_held_out(make_examples, count: int = 5, shapes=(), paired: bool = False) -> EncodedDataset:
    """Six winners to train on, and `count` others; `shapes` replaces the latents of the first of them."""
    every = make_examples(6 + count, paired)
    for place, shape in enumerate(shapes, 6):
        every[place] = replace(every[place], latents=normal(shape, "other shape", place))
    plain, held = in_memory(every[:6]), in_memory(every[6:])
    items = (plain.examples, plain.item_shapes, plain.identity)
    return EncodedDataset(*items, paired=paired, held_out=held)


def trained(policy, dataset, config):
    reports = list(train(policy, dataset, config))
    return policy.lora.state(), reports


def run_in(path, **changes):
    return replace(CONFIG, run=replace(CONFIG.run, directory=str(path)), **changes)


def by_hand(policy, lora: LoRA, dataset: EncodedDataset, places) -> torch.Tensor:
    """One winner, one level at a time: noise by place and level, levels in the middle of four parts."""
    errors = []
    for place in places:
        example = dataset[place]
        latents = example.latents[None] * 2
        for number, level in enumerate((0.125, 0.375, 0.625, 0.875)):
            noise = normal(tuple(example.latents.shape), "held out", place, number)[None]
            with torch.no_grad():
                text = example.cond[None]
                errors.append(
                    mean_square(policy.residuals(latents, noise, torch.tensor([level]), text))
                )
    return torch.cat(errors).double()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_margin_is_the_mean_of_the_differences_worked_out_one_by_one(
    make_policy, make_examples, batch_size
):
    shapes = [(2, 8, 4), (2, 4, 4), (2, 8, 4)]
    policy, dataset = make_policy(), with_held_out(make_examples, shapes=shapes).held_out
    lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
    initial = {name: normal(tuple(w.shape), "a", name) for name, w in lora.state().items()}
    lora.load({name: normal(tuple(w.shape), "b", name) for name, w in lora.state().items()})
    with lora.attached():
        margin = HeldOut(policy, lora, dataset, initial, batch_size).margin()
        now = by_hand(policy, lora, dataset, range(5))
        with lora.using(lora.slot(initial)):
            then = by_hand(policy, lora, dataset, range(5))
    assert abs(margin) > 1e-3
    assert margin == pytest.approx((now - then).mean().item(), rel=1e-5)


def test_of_many_winners_sixteen_are_taken_evenly(policy, make_examples):
    """Of 40: places 0, 2, 5, 7, ... 37, the whole part of 2.5 times the number."""
    dataset = with_held_out(make_examples, 40).held_out
    lora = LoRA(policy.network, CONFIG.lora, 0, policy.device)
    initial = lora.state()
    lora.load({name: normal(tuple(w.shape), "b", name) for name, w in lora.state().items()})
    with lora.attached():
        held_out = HeldOut(policy, lora, dataset, initial, 16)
        margin, again = held_out.margin(), held_out.margin()
        assert policy.calls == 3 * 4  # the initial errors once
        places = [5 * number // 2 for number in range(16)]
        now = by_hand(policy, lora, dataset, places)
        with lora.using(lora.slot(initial)):
            then = by_hand(policy, lora, dataset, places)
    assert margin == again == pytest.approx((now - then).mean().item(), rel=1e-5)


def test_unchanged_weights_have_a_margin_of_exactly_zero(policy, make_examples):
    still = replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=0.0))
    _, reports = trained(policy, with_held_out(make_examples), still)
    assert [r.held_out_margin for r in reports] == [None, 0.0] * 3


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(beta=50.0),
        LossConfig(objective="winner_error"),
        LossConfig(beta=50.0, criterion="none", paired=True),
    ],
)
def test_training_falls_below_zero_on_winners_of_the_same_taste(policy, make_examples, loss):
    config = replace(CONFIG, steps=40, loss=loss, run=replace(CONFIG.run, held_out_every=20))
    _, reports = trained(policy, with_held_out(make_examples, paired=loss.paired), config)
    margins = {r.step: r.held_out_margin for r in reports if r.held_out_margin is not None}
    assert set(margins) == {20, 40}
    assert margins[40] < margins[20] < 0


def test_measured_every_so_many_steps_and_at_the_last(make_policy, make_examples):
    dataset = with_held_out(make_examples)
    for every, expected in ((4, [4, 6]), (1, [1, 2, 3, 4, 5, 6]), (100, [6]), (0, [])):
        config = replace(CONFIG, run=replace(CONFIG.run, held_out_every=every))
        _, reports = trained(make_policy(), dataset, config)
        assert [r.step for r in reports if r.held_out_margin is not None] == expected


def test_measuring_changes_no_weight_to_the_bit_and_no_random_state(make_policy, make_examples):
    dataset = with_held_out(make_examples)
    items = (dataset.examples, dataset.item_shapes, dataset.identity)
    policy, every_step = make_policy(), replace(CONFIG.run, held_out_every=1)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    measured, reports = trained(policy, dataset, replace(CONFIG, run=every_step))
    assert torch.equal(torch.rand(3), expected)
    without, plain = trained(make_policy(), EncodedDataset(*items), CONFIG)
    assert all(torch.equal(measured[name], without[name]) for name in without)
    assert all(r.held_out_margin is None for r in plain)

    def rest(report):
        line = report.metrics()
        return {key: line[key] for key in line if key not in ("seconds", "held_out_margin")}

    assert [rest(r) for r in reports] == [rest(r) for r in plain]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_continued_run_has_the_same_margins(make_policy, make_examples, tmp_path, stop):
    dataset = with_held_out(make_examples)
    trained(make_policy(), dataset, run_in(tmp_path / "whole"))
    stopped = train(make_policy(), dataset, run_in(tmp_path / "parts"))
    for _ in range(stop):
        next(stopped)
    stopped.close()
    trained(make_policy(), dataset, run_in(tmp_path / "parts"))
    whole, parts = (
        [line["held_out_margin"] for line in Run(tmp_path / name).metrics()]
        for name in ("whole", "parts")
    )
    assert whole == parts
    assert [margin is None for margin in whole] == [True, False] * 3


def test_the_first_weights_are_the_measure_also_where_a_run_starts_from_others(
    make_policy, make_examples, tmp_path
):
    dataset = with_held_out(make_examples)
    trained(make_policy(), dataset, run_in(tmp_path / "first"))
    start = Run(tmp_path / "first").weights_path()
    run = RunConfig(initial_weights=str(start), held_out_every=1)
    still = replace(CONFIG.optimizer, learning_rate=0.0)
    _, reports = trained(make_policy(), dataset, replace(CONFIG, run=run, optimizer=still))
    assert {r.held_out_margin for r in reports} == {0.0}


def test_how_often_it_is_measured_may_change_in_a_continued_run(
    make_policy, make_examples, tmp_path
):
    dataset = with_held_out(make_examples)
    trained(make_policy(), dataset, run_in(tmp_path, steps=3))
    more = run_in(tmp_path)
    more = replace(more, run=replace(more.run, held_out_every=1))
    _, reports = trained(make_policy(), dataset, more)
    assert [r.held_out_margin is None for r in reports] == [False] * 3


def test_a_stop_while_measuring_keeps_the_step_and_its_line(make_policy, make_examples, tmp_path):
    dataset = with_held_out(make_examples)
    whole, _ = trained(make_policy(), dataset, run_in(tmp_path / "whole"))
    broken = make_policy()
    broken.fail_at_call = 2 * 2 + 1  # two calls a step, then the first of the measuring
    with pytest.raises(RuntimeError, match="injected"):
        trained(broken, dataset, run_in(tmp_path / "parts"))
    run = Run(tmp_path / "parts")
    assert run.step() == 2
    assert [(line["step"], line["held_out_margin"]) for line in run.metrics()] == [
        (1, None),
        (2, None),
    ]
    rest, _ = trained(make_policy(), dataset, run_in(tmp_path / "parts"))
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_errors_that_are_not_finite_are_not_measured(policy, make_examples, tmp_path):
    steps = train(policy, with_held_out(make_examples), run_in(tmp_path))
    next(steps)
    original = policy.residuals

    def measured_badly(latents, noise, levels, prepared):
        errors = original(latents, noise, levels, prepared)
        return errors * (math.inf if latents.shape[0] == 3 else 1.0)

    policy.residuals = (
        measured_badly  # winner and sample make 6 in training, 3 are measured at once
    )
    assert next(steps).held_out_margin is None
    steps.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])["step"] == 2


def test_held_out_winners_that_the_network_cannot_take_are_refused_first(
    policy, make_examples, tmp_path
):
    seen = []
    policy.check = lambda dataset, *_: seen.append(len(dataset))
    train(policy, with_held_out(make_examples, 4), run_in(tmp_path / "run"))
    assert seen == [6, 4]


def test_the_margin_is_of_the_weights_that_are_saved(make_policy, make_examples, tmp_path):
    """A schedule-free method trains on others."""
    pytest.importorskip("pytorch_optimizer")
    dataset, policy = with_held_out(make_examples), make_policy()
    optimizer = OptimizerConfig(name="adamw_schedule_free", learning_rate=0.05, warmup=0.0)
    _, reports = trained(policy, dataset, run_in(tmp_path, optimizer=optimizer))
    other, run = make_policy(), Run(tmp_path)
    lora = LoRA(other.network, CONFIG.lora, 0, other.device)
    lora.load(run.weights())
    with lora.attached():
        saved = HeldOut(other, lora, dataset.held_out, run.snapshot(0).weights, 3).margin()
    assert reports[-1].held_out_margin == saved
