"""The alignment benchmark: its measures by hand, its search on made-up results, one job on the shipped model."""

import importlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def part(monkeypatch):
    """A module of the benchmark by its name; needs the packages of the extra `benchmark` that it imports."""
    for package in ("scipy", "diffusers"):
        pytest.importorskip(package, reason="the benchmark needs the extra `benchmark`")
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.alignment.{name}")


# Measures


def test_frechet_distance_of_shifted_and_of_stretched_points(part):
    distance = part("measure").frechet_distance
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert distance(points, points) == pytest.approx(0, abs=1e-6)
    shifted = points + torch.tensor([3.0, 0.0, 4.0])
    assert distance(points, shifted) == pytest.approx(25, rel=1e-5)  # 3^2 + 4^2
    centred = points - points.mean(0)
    # covariances C and 4 C: tr(C) + 4 tr(C) - 2 tr(2 C) = tr(C)
    trace = torch.cov(centred.T).trace().item()
    assert distance(centred, 2 * centred) == pytest.approx(trace, rel=1e-5)


def test_a_frame_of_all_directions_keeps_distances(part):
    draw = torch.Generator().manual_seed(1)
    seen = torch.randn(40, 5, generator=draw, dtype=torch.float64) * torch.arange(1, 6)
    frame = part("measure").Frame.of(seen, dimensions=5)
    before, after = torch.cdist(seen, seen), torch.cdist(frame(seen), frame(seen))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    short = part("measure").Frame.of(seen, dimensions=2)
    assert short(seen).shape == (40, 2)
    assert short(seen).var(0).sum() > 0.5 * seen.var(0).sum()


def test_mean_interval_and_paired_test_by_hand(part):
    statistics = part("statistics")
    found = statistics.mean([1.0, 2.0, 3.0])  # s = 1, t(0.975, 2) = 4.30265
    assert (found.value, found.half_width) == (2.0, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    # t = 2 / (1 / sqrt(3)) with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2)
    t = 2 * 3**0.5
    difference = statistics.paired({0: 2.0, 1: 4.0, 2: 6.0, 9: 0.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert difference.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    assert (difference.seeds, difference.mean.value) == (3, 2.0)
    assert statistics.paired({0: 1.0}, {1: 1.0}) is None
    assert statistics.paired({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}).p == 1.0


def test_correction_for_many_comparisons_by_hand(part):
    # ascending .01 * 3, .03 * 2, .04 * 1, each at least the one before
    assert part("statistics").holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert part("statistics").holm([0.9, 0.8]) == [1.0, 1.0]


# The search


def made_up(part, job, style, content, flips=0.4):
    """A record as a job might end."""
    end = {"style": style, "content": content, "frechet": 9.0, "diversity": 1.0, "damage": 1.0}
    front = [{"strength": s, **end, "style": style * s} for s in (1.0, 1.4)]
    front += [{"strength": 2.0, **end, "style": 2 * style, "content": 0.0}]
    metrics = {name: [flips] * 12 for name in part("work").METRICS}
    metrics["flip_rate"] += [1.0] * 3  # ties, as in the first step
    metrics["winner_margin"] += [0.0] * 3
    cost = 90 if "plainly drawn" in job.mode else 10
    return part("records").Record(
        job, end, front, [], metrics, job.steps, cost, 1.0, "abc", "a machine"
    )


def search_to_its_end(part, modes, seeds, score):
    """Every record, as if each job that is asked for ended with `score(job)`."""
    found, rounds = [], 0
    while jobs := part("search").next_jobs(found, modes, seeds):
        found += [made_up(part, job, *score(job)) for job in jobs]
        rounds += 1
        assert rounds < 20
    return found


def test_every_mode_is_searched_for_by_the_same_rule_and_then_run_with_every_seed(part):
    """Best at the highest learning rate: two more beyond it."""
    modes = [name for name, mode in part("modes").MODES.items() if not mode.settings_of]
    found = search_to_its_end(part, modes, [0, 1, 2], lambda job: (job.settings.learning_rate, 0.5))
    for name in modes:
        jobs = [r.job for r in found if r.job.mode == name]
        tuning = [j for j in jobs if j.split == "tuning"]
        assert len(set(tuning)) == len(tuning) == 7
        finals = [j for j in jobs if j.split == "final"]
        assert [j.seed for j in finals] == [0, 1, 2]
        assert not {j.seed for j in tuning} & {j.seed for j in finals}
        best = 0.033 if part("modes").MODES[name].reads_beta else 0.06
        assert [j.settings.learning_rate for j in finals] == pytest.approx([best] * 3)


@pytest.mark.parametrize(
    ("best", "rates"),
    [
        (1e-3, {3e-4, 1e-3, 3e-3}),
        (3e-4, {3e-4, 1e-3, 3e-3, 9e-5}),
        (9e-5, {3e-4, 1e-3, 3e-3, 9e-5, 2.7e-5}),
        (1e-9, {3e-4, 1e-3, 3e-3, 9e-5, 2.7e-5}),
    ],
)
def test_the_search_goes_on_where_the_best_rate_is_at_an_edge(part, best, rates):
    def score(job):
        if job.mode == "base":
            return 0.01, 0.5
        return 1 / (1 + abs(math.log(job.settings.learning_rate / best))), 0.5

    found = search_to_its_end(part, ["random + sign"], [], score)
    tried = {r.job.settings.learning_rate for r in found if r.job.mode == "random + sign"}
    assert tried == rates
    assert part("search").is_tuned("random + sign", found)
    assert not part("search").is_tuned("random + sign", found[:-1])


def test_runs_of_settings_found_earlier_are_not_mixed_in(part):
    modes, records = part("modes"), part("records")
    runs = [
        made_up(
            part, records.Job("final", "sft", seed, 60, modes.Settings(rate, 200, weight)), 0.5, 0.5
        )
        for seed, rate, weight in [
            (0, 1e-3, 0.5),
            (1, 1e-3, 0.5),
            (2, 1e-3, 0.5),
            (0, 1e-4, 0.4),
            (1, 1e-4, 0.6),
        ]
    ]
    found = part("records").final_runs(runs, "sft")
    assert {seed: run.job.settings.learning_rate for seed, run in found.items()} == {
        0: 1e-4,
        1: 1e-4,
    }


def test_an_idea_on_an_idea_takes_the_settings_that_were_searched_for(part):
    searched = part("search").searched_mode
    assert searched("random + constant, a fifth, reuse 8") == "random + constant"
    assert searched("random + sign") == "random + sign"


def test_the_search_takes_most_style_at_equal_content(part):
    """At 0.4, which is 80 % of the base's: a trial that gave content away counts by what it has when weaker."""

    def score(job):
        if job.mode == "base":
            return 0.1, 0.5
        beta_bonus = 0.1 if job.settings.beta == 50 else 0
        rate = job.settings.learning_rate
        # Between the base (0.1, 0.5) and (0.9, 0.1): 0.3. From 1.4 * 0.4 to 2 * 0.4 by a fifth: 0.608.
        return {3e-4: 0.2, 1e-3: 0.4, 3e-3: 0.9}[rate] + beta_bonus, (0.1 if rate >= 3e-3 else 0.5)

    found = search_to_its_end(part, ["random + sign"], [0], score)
    best = part("search").chosen("random + sign", found)
    assert (best.learning_rate, best.beta) == (1e-3, 50)


def test_the_coin_falls_as_often_as_the_indicator_pushed_away(part):
    found = search_to_its_end(
        part, ["random + coin", "random + indicator"], [0, 1], lambda job: (0.5, 0.5)
    )
    coins = [r.job for r in found if r.job.mode == "random + coin" and r.job.split == "final"]
    assert [job.settings.loser_weight for job in coins] == [0.6, 0.6]  # flips 0.4, ties left out
    alone = search_to_its_end(part, ["random + coin"], [0], lambda job: (0.5, 0.5))
    assert {r.job.mode for r in alone} == {"base"}


def test_a_mode_that_takes_anothers_settings_waits_for_its_search(part):
    modes = part("modes")
    name = next(iter(modes.IDEAS))
    searched = modes.MODES[name].settings_of
    found = search_to_its_end(part, [name, searched], [0, 1], lambda job: (job.settings.beta, 0.5))
    jobs = [r.job for r in found if r.job.mode == name]
    assert [(job.split, job.seed) for job in jobs] == [("final", 0), ("final", 1)]
    assert {job.settings for job in jobs} == {part("search").chosen(searched, found)}
    alone = search_to_its_end(part, [name], [0], lambda job: (0.5, 0.5))
    assert {r.job.mode for r in alone} == {"base"}


def test_another_worlds_search_is_taken_as_it_is(part, monkeypatch, tmp_path):
    """Only what was searched for there is run, on the final split."""
    main, records = importlib.import_module("benchmarks.alignment.__main__"), part("records")
    there, here = tmp_path / "a-b.jsonl", tmp_path / "c-d.jsonl"
    for record in search_to_its_end(
        part, ["random + sign"], [0], lambda job: (job.settings.beta, 0.5)
    ):
        records.append(there, record)

    class Here(ThreadPoolExecutor):
        """Stands for the pool of processes."""

        def submit(self, work, description, job, least):
            assert least == pytest.approx(0.0 if job.mode == "base" else 0.4)
            return super().submit(made_up, part, job, 0.3, 0.5)

    monkeypatch.setattr(main, "ProcessPoolExecutor", lambda workers, context: Here(workers))
    searched = records.search_in(there)
    modes = ["sft", "random + sign"]
    done = main.run_all(None, here, modes, [0, 1], 2, 1e9, "a-b", searched)
    jobs = [r.job for r in done if r.job.mode != "base"]
    assert sorted((j.mode, j.split, j.seed, j.settings.beta) for j in jobs) == [
        ("random + sign", "final", seed, 1000.0) for seed in (0, 1)
    ]


def test_results_of_another_base_are_not_gone_on_with(part, tmp_path):
    main, records = importlib.import_module("benchmarks.alignment.__main__"), part("records")
    path, world = tmp_path / "a-b.jsonl", SimpleNamespace(base=Path("here"), base_digest="abc")
    record = made_up(part, part("search").base_job("final"), 0.2, 0.5)
    records.append(path, record)  # of before bases were written down
    records.append(path, replace(record, base="abc"))
    main.require_same_base(path, world)
    records.append(path, replace(record, base="def"))
    with pytest.raises(
        SystemExit,
        match=r"sha256 def\.\.\., while those in here have abc\.\.\.; put that base back",
    ):
        main.require_same_base(path, world)


def test_records_survive_a_torn_last_line(part, tmp_path):
    records, search = part("records"), part("search")
    path = tmp_path / "deep" / "world.jsonl"
    first = made_up(part, search.base_job("tuning"), 0.1, 0.5)
    second = made_up(part, search.base_job("final"), 0.2, 0.6)
    records.append(path, first)
    path.write_bytes(path.read_bytes() + second.line().encode()[:40])
    assert records.read(path) == [first]
    records.append(path, second)
    assert records.read(path) == [first, second]
    assert records.read(tmp_path / "nothing.jsonl") == []


# The page


def test_style_at_equal_content_by_hand(part):
    front_of, base_job = part("front"), part("search").base_job("final")
    base = made_up(part, base_job, 0.2, 0.5)

    def found(*points):
        front = [dict(zip(("strength", "style", "content"), p, strict=True)) for p in points]
        at = front_of.style_at_content(replace(base, front=front), base)
        return at.style, at.is_most

    def strength(*points):
        front = [dict(zip(("strength", "style", "content"), p, strict=True)) for p in points]
        return front_of.style_at_content(replace(base, front=front), base).strength

    # 80 % of 0.5 is 0.4, halfway between 0.45 and 0.35: style halfway between 0.6 and 0.8
    assert found((1.0, 0.6, 0.45), (1.4, 0.8, 0.35)) == (pytest.approx(0.7), True)
    assert found((1.0, 0.6, 0.49), (2.8, 0.7, 0.48)) == (0.7, False)
    # style that falls before content does
    assert found((1.0, 0.6, 0.49), (2.0, 0.7, 0.45), (4.0, 0.3, 0.1)) == (0.7, True)
    assert found((1.0, 0.6, 0.49), (2.0, 0.7, 0.45), (4.0, 0.3, 0.42)) == (0.7, True)
    # from (0.2, 0.5) without LoRA to (0.4, 0.3): 0.4 is reached halfway
    assert found((1.0, 0.9, 0.1), (0.35, 0.4, 0.3)) == (pytest.approx(0.3), True)
    assert strength((1.0, 0.6, 0.45), (1.4, 0.8, 0.35)) == pytest.approx(1.2)
    assert strength((1.0, 0.6, 0.49), (2.0, 0.7, 0.45), (4.0, 0.3, 0.1)) == 2.0


def test_content_at_equal_style_by_hand(part):
    front_of, base_job = part("front"), part("search").base_job("final")
    base = made_up(part, base_job, 0.2, 0.5)

    def found(*points, wanted=0.5):
        front = [dict(zip(("strength", "style", "content"), p, strict=True)) for p in points]
        return front_of.content_at_style(replace(base, front=front), base, wanted)

    # from (0.4, 0.46) to (0.6, 0.4): style 0.5 is halfway
    assert found((1.0, 0.4, 0.46), (2.0, 0.6, 0.40)) == pytest.approx(0.43)
    # from the base's (0.2, 0.5) to (0.8, 0.44): half of the way
    assert found((1.0, 0.8, 0.44)) == pytest.approx(0.47)
    # more content with still more style
    assert found((1.0, 0.6, 0.40), (2.0, 0.7, 0.49)) == 0.49
    # style made and lost again, with more content on the way down: from (0.8, 0.3) to (0.2, 0.48)
    assert found((1.0, 0.8, 0.3), (2.0, 0.2, 0.48)) == pytest.approx(0.4)
    assert found((1.0, 0.4, 0.46), (2.0, 0.45, 0.40)) is None
    assert found((1.0, 0.4, 0.46), wanted=0.2) == 0.5


def made_up_world(part, gains, spread=0.0):
    """Records over five seeds of modes that make that much more style than .5."""

    def score(job):
        if job.mode == "base":
            return 0.2, 0.5
        gain = gains[job.mode]
        return 0.5 + gain + 0.001 * (job.seed * 7 % 5) * (1 + spread * gain), 0.48

    return search_to_its_end(part, list(gains), range(5), score)


def cells(row):
    return [cell.strip() for cell in row.strip("| ").split(" | ")]


def rows_with(text, name):
    return [cells(line) for line in text.splitlines() if line.startswith(f"| {name} |")]


def test_the_committed_page_is_what_the_committed_results_make(part, tmp_path, monkeypatch):
    page = part("page")
    monkeypatch.setattr(page, "IMAGES", tmp_path)
    page.write(part("records").RESULTS, tmp_path / "page.md")
    made, kept = (path.read_text("utf-8") for path in (tmp_path / "page.md", page.PAGE))
    assert made == kept, "run python -m benchmarks.alignment --page"


def test_modes_are_compared_over_five_seeds(part):
    tables = part("tables")
    gains = {"sft": 0, "random + sign": 0.1, "random + none": 0, "sft, equal evaluations": 0}
    found = made_up_world(part, gains, spread=1.0)
    for against, modes in (
        ("sft", tables.SAME_STEPS),
        ("sft, equal evaluations", tables.SAME_COST),
    ):
        told = tables.comparisons(found, against, modes)
        (better,), (same,) = (rows_with(told, f"random + {name}") for name in ("sign", "none"))
        assert better[1].endswith(" *") and better[2:4] == ["<0.001", "<0.001"]
        assert same[2:4] == ["1.000", "1.000"]
    assert tables.comparisons(found[:-1], "sft", tables.SAME_COST) == ""


def test_cheap_samples_are_compared_with_the_dear_ones(part):
    """At 1.5 times the strength."""
    gains = {
        "random + indicator": 0.1,
        "random + indicator, plainly drawn": 0.0,
        "initial + none": -0.1,
        "initial + none, plainly drawn": 0.2,
        "initial + indicator": -0.1,
    }
    found = made_up_world(part, gains)
    minus = {
        "random + indicator": ["+0.150", "-0.150"],
        "initial + none": ["-0.450"],
        "initial + indicator": ["-0.150", "-0.450"],
    }
    told = part("tables").savings(found)
    for mode, differences in minus.items():
        expected = [[mode, "10", "9.0", f"{gain} ±0.000", "<0.001"] for gain in differences]
        assert rows_with(told, mode) == expected
    dearer = [mode for mode in gains if "plainly drawn" in mode]
    assert part("modes").DEARER == tuple(dearer)
    ranked = part("tables").table(found, part("tables").SAME_COST)
    assert not any(mode in ranked for mode in dearer)


def test_what_is_better_in_every_world_where_it_was_run(part):
    """latest + none ran in one world alone, random + sign is the paper's own."""
    fine_tuning = "sft, equal evaluations"
    gains = {fine_tuning: 0.0, "random + sign": 0.1, "random + none": 0.1, "latest + none": 0.1}
    worlds = {
        "a-b": made_up_world(part, gains, spread=1.0),
        "c-d": made_up_world(part, {**dict(list(gains.items())[:2]), "random + none": -0.1}, 1.0),
    }
    verdict = part("page").verdict
    (row,) = [row for row in rows_with(verdict(worlds), "random + none") if row[1][:4] == "+0.1"]
    # style and content, where less is needed of a stronger mode
    assert [cell.endswith("*") for cell in row[1:]] == [True] * 4 and "-0.1" in row[3]
    assert rows_with(verdict(worlds), f"{fine_tuning}, in style")[0][1] == "random + sign"
    assert verdict({"a-b": worlds["a-b"]}) == ""


def test_ideas_that_were_taken_out_stand_beside_what_they_changed(part):
    found = made_up_world(part, {"random + none": 0.0})
    gone = []
    for run in found:
        if run.job.split == "final" and run.job.mode == "random + none" and run.job.seed < 2:
            job = replace(run.job, mode="random + none, winner safe")
            style = run.scores["style"] + 0.1
            gone.append(made_up(part, job, style, 0.48))
    (row,) = rows_with(part("tables").taken_out(found, gone), "random + none, winner safe")
    # at 1.5 times the strength; with fine-tuning and the paper's nothing is compared, they did not run
    told = [cell.split(" ")[0] for cell in row]
    assert told[2] == "2" and told[4:-1] == ["+0.150", "", ""]


# One job


class Eyes:
    """Judges that see the mean colour."""

    def features(self, pixels):
        return pixels.mean((2, 3))

    def style(self, seen, blank):
        return seen[:, 0].masked_fill(blank, 0.0)

    def found(self, seen, names, among):
        return torch.ones(len(seen), dtype=torch.bool)


@pytest.mark.parametrize(
    ("mode", "evaluations"),
    # 12 winners a step. sft: 3 each. Pairs: winner and loser, 1 by the reference and 3 by the policy. Drawn:
    # the same, and 8 steps of the sampler once for the two steps of the window.
    [
        ("sft", 2 * 12 * 3),
        ("dpo on pairs", 2 * 24 * 4),
        ("random + indicator", 2 * 24 * 4 + 12 * 8),
    ],
)
def test_a_job_trains_counts_and_judges(part, monkeypatch, mode, evaluations):
    work, measure, modes = part("work"), part("measure"), part("modes")
    studio = importlib.import_module("demo.studio")
    names = studio.read_names().winners[:3]
    real = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    panel = measure.Panel(Eyes(), measure.Frame.of(real, 3), names, names, real[:5], real)
    whole = studio.read_dataset(studio.Texts())
    paired = importlib.import_module("seppo_core.data").in_memory(
        [replace(example, losing=example.latents.flip(1)) for example in whole.examples]
    )
    world = SimpleNamespace(
        base=studio.MODEL, base_digest="abc", texts=studio.Texts(), dataset=lambda split: paired
    )
    monkeypatch.setattr(work, "world_of", lambda description: world)
    monkeypatch.setattr(work, "panel_of", lambda description, split: panel)
    threads = torch.get_num_threads()
    job = part("records").Job("final", mode, 0, 2, modes.Settings(1e-3))
    try:
        record = work.run(None, job, least_content=0.8)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert record.evaluations == evaluations
    assert [point["strength"] for point in record.front] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert len({point["style"] for point in record.front}) == 6
    assert record.steps_done == 2
    assert [point["step"] for point in record.curve] == [1]
    assert len(record.metrics["loss"]) == 2
    assert record.scores["content"] == 1.0
    assert record.base == "abc"


class Weights:
    """Stands for a LoRA; counts what was loaded."""

    def __init__(self):
        self.now = {"a.up": torch.ones(1), "a.down": torch.ones(1)}

    def state(self):
        return dict(self.now)

    def load(self, weights):
        self.now = weights


@pytest.mark.parametrize(
    ("content", "looked_at"),
    [
        (0.5, [2.0, 1.414]),
        (0.7, [2.0, 4.0, 2.828]),
        (0.9, [2.0, 4.0, 8.0, 5.657]),
        (1.4, [2.0, 4.0, 8.0, 16.0, 11.314]),
        (2.0, [2.0, 4.0, 8.0, 16.0, 32.0, 22.627]),
        (2.4, [2.0, 4.0, 8.0, 16.0, 32.0]),
        (0.3, [0.5, 0.707]),
        (0.2, [0.5, 0.25, 0.354]),
        (0.15, [0.5, 0.25, 0.125, 0.177]),
        (0.05, [0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_strengths_are_tried_until_content_crosses_what_must_be_kept(part, content, looked_at):
    lora = Weights()
    before = lora.state()
    seen = part("work").crossing(
        lora, lambda: {"content": content / lora.now["a.up"].item() ** 0.5}, content, 0.4
    )
    # content / strength^.5 against .4: .5 / 2^.5 = .354; .7 / 2^.5 = .495, / 4^.5 = .35; .3 / .5^.5 = .424
    assert [point["strength"] for point in seen] == looked_at
    assert lora.now == before


def test_a_world_of_other_pictures_has_results_of_its_own(part, tmp_path):
    world, paths = part("world"), [tmp_path / "a", tmp_path / "b"]
    for number, path in enumerate(paths):
        path.mkdir()
        (path / "config.json").write_text(str(number))
    names = {
        world.Description("twemoji", "openmoji", tmp_path).name,
        world.Description("twemoji", "openmoji", tmp_path, strict=True).name,
        *(world.Description("twemoji", "openmoji", tmp_path, base=p).name for p in paths),
        world.Description("twemoji", "openmoji", tmp_path, winners=paths[0]).name,
    }
    assert len(names) == 5
    assert "twemoji-openmoji" in names
    own = world.Description("twemoji", "openmoji", tmp_path, winners=paths[0])
    assert own.base_name == "twemoji-openmoji"  # one base for whatever winners


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"winner_style": "crayon"}, "unknown style 'crayon'"),
        ({"winner_style": "twemoji"}, "must not be the base's own"),
        ({"base": Path("nowhere")}, "no config.json"),
        ({"base": Path("nowhere"), "strict": True}, "leave --base out"),
        ({"winners": Path("nowhere")}, "120 pictures are missing, first 3rd-place-medal.png"),
        ({"names": Path("nowhere.json")}, "there is no such file"),
    ],
)
def test_a_world_that_cannot_be_is_refused_before_any_work(part, tmp_path, changes, message):
    described = {"base_style": "twemoji", "winner_style": "openmoji", "work": tmp_path} | changes
    with pytest.raises(SystemExit, match=message):
        part("world").Description(**described).require()


def test_worlds_on_a_base_trained_anew_are_of_another_base(part):
    page, records = part("page"), part("records")
    assert page.AGAIN
    for world, first in page.AGAIN.items():
        bases = [
            {record.base for record in records.read(records.RESULTS / f"{name}.jsonl")}
            for name in (world, first)
        ]
        assert all(len(found) == 1 for found in bases) and bases[0] != bases[1]


# Two ways of drawing


def drawn_both_ways(part, job, style, kept):
    """A record whose pictures drawn away from the base have `style`, and `kept` of the base's content of .5."""
    found = made_up(part, job, style / 2, 0.5)
    points = [{"strength": s, "style": style * s, "content": 0.5 * kept / s} for s in (0.5, 1.0)]
    return replace(found, away_from_base=points)


def test_guided_is_searched_for_by_what_it_draws_as_trained_with_enough_content(part):
    """Higher rates and guidance make more style; beyond a rate of .001 and a guidance of 2 too little content is left."""
    asked = []

    def run(job):
        asked.append(job)
        if job.mode == "base":
            return made_up(part, job, 0.1, 0.5)
        rate, guidance = job.settings.learning_rate, job.settings.guidance
        fits = rate <= 1e-3 and guidance <= 2
        return drawn_both_ways(part, job, 100 * rate * guidance, 0.85 if fits else 0.7)

    found = []
    while jobs := part("search").next_jobs(found, ["guided"], [0, 1]):
        found += [run(job) for job in jobs]
    final = [job for job in asked if job.split == "final" and job.mode == "guided"]
    assert [job.seed for job in final] == [0, 1]
    settings = {(job.settings.learning_rate, job.settings.guidance) for job in final}
    assert settings == {(1e-3, 2.0)}
    tried = {job.settings.guidance for job in asked if job.split == "tuning" and job.mode != "base"}
    assert tried == {1.5, 2.0, 3.0}


def test_the_better_way_of_each_mode_is_compared_with_that_of_fine_tuning(part):
    records, ways, Settings = part("records"), part("ways"), part("modes").Settings
    base = made_up(part, part("search").base_job("final"), 0.1, 0.5)
    runs = [base]
    for seed in range(3):
        for mode, style in (("guided", 0.8 + 0.01 * seed), ("sft, equal evaluations", 0.6)):
            job = records.Job("final", mode, seed, 9, Settings(1e-3))
            runs.append(drawn_both_ways(part, job, style, 0.9))
    table = ways.table(runs, ["guided", "sft, equal evaluations"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert ["guided", "base as negative", "3"] == rows[3][:3]
    assert rows[3][-1].startswith("90 ")
    (compared,) = [row for row in rows if row[:1] == ["guided"] and len(row) == 5]
    assert compared[1].startswith("+0.2") and float(compared[3]) < 0.01
