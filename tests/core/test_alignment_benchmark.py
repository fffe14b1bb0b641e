"""The alignment benchmark: its measures by hand, its search on made-up results, one job on the shipped model."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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
    front = [{"strength": s, **end, "style": style * s} for s in (1.0, 0.6, 1.4)]
    metrics = {name: [flips] * 12 for name in part("work").METRICS}
    return part("records").Record(job, end, front, [], metrics, 10, 1.0, "abc", "a machine")


def search_to_its_end(part, modes, seeds, score):
    """Every record, as if each job that is asked for ended with `score(job)`."""
    found, rounds = [], 0
    while jobs := part("search").next_jobs(found, modes, seeds):
        found += [made_up(part, job, *score(job)) for job in jobs]
        rounds += 1
        assert rounds < 20
    return found


def test_every_mode_has_the_same_number_of_trials_and_then_every_seed(part):
    modes = list(part("modes").MODES)
    found = search_to_its_end(part, modes, [0, 1, 2], lambda job: (job.settings.learning_rate, 0.5))
    for name in modes:
        jobs = [r.job for r in found if r.job.mode == name]
        tuning = [j for j in jobs if j.split == "tuning"]
        assert len(set(tuning)) == len(tuning) == 5
        finals = [j for j in jobs if j.split == "final"]
        assert [j.seed for j in finals] == [0, 1, 2]
        assert not {j.seed for j in tuning} & {j.seed for j in finals}
        best = 3e-3 if part("modes").MODES[name].reads_beta else 3e-3 * 1.8
        assert [j.settings.learning_rate for j in finals] == pytest.approx([best] * 3)


def test_the_search_takes_most_style_among_trials_that_keep_content(part):
    def score(job):
        if job.mode == "base":
            return 0.1, 0.5
        beta_bonus = 0.1 if job.settings.beta == 50 else 0
        return {3e-4: 0.2, 1e-3: 0.4, 3e-3: 0.9}[job.settings.learning_rate] + beta_bonus, (
            0.44 if job.settings.learning_rate == 3e-3 else 0.5
        )

    found = search_to_its_end(part, ["random + sign"], [0], score)
    best = part("search").chosen("random + sign", found)
    assert (best.learning_rate, best.beta) == (1e-3, 50)  # 0.44 is under 90 % of 0.5


def test_the_search_takes_most_content_where_no_trial_keeps_enough(part):
    def score(job):
        kept = {0: 0.5, 3e-4: 0.3, 1e-3: 0.2, 3e-3: 0.1}
        return 0.9, kept.get(job.settings.learning_rate, 0.25)

    found = search_to_its_end(part, ["random + sign"], [0], score)
    assert part("search").chosen("random + sign", found).learning_rate == 3e-4


def test_the_coin_falls_as_often_as_the_indicator_pushed_away(part):
    found = search_to_its_end(
        part, ["random + coin", "random + indicator"], [0, 1], lambda job: (0.5, 0.5)
    )
    coins = [r.job for r in found if r.job.mode == "random + coin" and r.job.split == "final"]
    assert [job.settings.loser_weight for job in coins] == [0.6, 0.6]  # flips 0.4
    alone = search_to_its_end(part, ["random + coin"], [0], lambda job: (0.5, 0.5))
    assert {r.job.mode for r in alone} == {"base"}


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
    page, base_job = part("page"), part("search").base_job("final")
    base = made_up(part, base_job, 0.2, 0.5)
    run = replace(
        base,
        front=[
            {"strength": 1.0, "style": 0.6, "content": 0.45},
            {"strength": 1.4, "style": 0.8, "content": 0.35},
            {"strength": 0.6, "style": 0.4, "content": 0.5},
        ],
    )
    # 80 % of 0.5 is 0.4, halfway between 0.45 and 0.35: style halfway between 0.6 and 0.8
    assert page.style_at_content(run, base) == pytest.approx(0.7)
    mild = replace(base, front=[{"strength": 1.4, "style": 0.7, "content": 0.48}])
    assert page.style_at_content(mild, base) == 0.7
    harsh = replace(base, front=[{"strength": 0.6, "style": 0.4, "content": 0.3}])
    # from (0.2, 0.5) to (0.4, 0.3): 0.4 is reached halfway
    assert page.style_at_content(harsh, base) == pytest.approx(0.3)


def test_the_page_ranks_no_mode_that_gave_content_away(part, tmp_path, monkeypatch):
    page = part("page")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    modes = ["sft", "dpo on pairs", "random + sign", "sft, equal evaluations"]

    def score(job):
        if job.mode == "base":
            return 0.2, 0.5
        return (0.9, 0.2) if "dpo" in job.mode else (0.5 + 0.01 * job.seed, 0.48)

    for record in search_to_its_end(part, modes, [0, 1], score):
        part("records").append(tmp_path / "results" / "a-b.jsonl", record)
    page.write(tmp_path / "results", tmp_path / "benchmarks.md")
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| dpo on pairs |")]
    assert "40% (too little: not ranked)" in rows[0]
    assert text.index("| random + sign |") < text.index("| dpo on pairs |")
    assert "Not run yet: initial + none" in text
    assert len(list((tmp_path / "images").glob("alignment_a-b_*.png"))) == 3


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
    world = SimpleNamespace(base=studio.MODEL, texts=studio.Texts(), dataset=lambda split: paired)
    monkeypatch.setattr(work, "world_of", lambda description: world)
    monkeypatch.setattr(work, "panel_of", lambda description, split: panel)
    threads = torch.get_num_threads()
    job = part("records").Job("final", mode, 0, 2, modes.Settings(1e-3))
    try:
        record = work.run(None, job)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert record.evaluations == evaluations
    assert [point["strength"] for point in record.front] == [1.0, 0.6, 1.4]
    assert len({point["style"] for point in record.front}) == 3
    assert [point["step"] for point in record.curve] == [1]
    assert len(record.metrics["loss"]) == 2
    assert record.scores["content"] == 1.0
    assert part("records").read(Path("nowhere")) == []
