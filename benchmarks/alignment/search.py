"""Which run comes next: the same search for every mode on the tuning split, then every seed on the final one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .front import BASE, find_base, style_at_content
from .modes import FINER, LEARNING_RATES, MODES, OTHER_BETAS, Settings
from .records import Job, Record

TUNING_SEED = 1000
NO_SETTINGS = Settings(0.0)


def base_job(split: str) -> Job:
    return Job(split, BASE, 0, 0, NO_SETTINGS)


def next_jobs(
    records: Sequence[Record], modes: Iterable[str], seeds: Sequence[int], pairs: bool = True
) -> list[Job]:
    """All jobs that can run now and have not. Empty when everything is done."""
    done = {record.job for record in records}
    bases = [base_job(split) for split in ("tuning", "final")]
    wanted = [job for job in bases if job not in done]
    if not wanted:
        for name in modes:
            if pairs or not MODES[name].needs_pairs:
                wanted += [job for job in _jobs_of(name, records, seeds) if job not in done]
    return wanted


def _jobs_of(name: str, records: Sequence[Record], seeds: Sequence[int]) -> list[Job]:
    mode = MODES[name]
    weight = _rate(mode.rate_of, records, "tuning", TUNING_SEED) if mode.rate_of else 0.5
    if weight is None:
        return []
    first = [Settings(lr, loser_weight=weight) for lr in LEARNING_RATES]
    if mode.settings_of:
        if not is_tuned(name, records):
            return []
    else:
        for trials in (first, _second_trials(name, records, first)):
            jobs = [Job("tuning", name, TUNING_SEED, mode.steps, settings) for settings in trials]
            missing = [job for job in jobs if _find(records, job) is None]
            if missing:
                return missing
    settings = chosen(name, records)
    final = []
    for seed in seeds:
        rate = _rate(mode.rate_of, records, "final", seed) if mode.rate_of else 0.5
        if rate is not None:
            final.append(Job("final", name, seed, mode.steps, replace(settings, loser_weight=rate)))
    return final


def _second_trials(
    name: str, records: Sequence[Record], first: Sequence[Settings]
) -> list[Settings]:
    """Around the best of the first: other betas, or finer learning rates where a mode reads no beta."""
    tried = [r for r in tuning_runs(name, records) if r.job.settings in first]
    if len(tried) < len(first):
        return []
    best = _best(tried, records).job.settings
    if MODES[name].reads_beta:
        return [replace(best, beta=beta) for beta in OTHER_BETAS]
    return [replace(best, learning_rate=best.learning_rate * factor) for factor in FINER]


def tuning_runs(name: str, records: Sequence[Record]) -> list[Record]:
    """Of a mode, or of the one whose settings it takes."""
    searched = MODES[name].settings_of or name
    return [r for r in records if r.job.split == "tuning" and r.job.mode == searched]


def is_tuned(name: str, records: Sequence[Record]) -> bool:
    """Whether the search of a mode is at its end."""
    return len(tuning_runs(name, records)) >= len(LEARNING_RATES) + len(OTHER_BETAS)


def chosen(name: str, records: Sequence[Record]) -> Settings:
    """The settings with which a mode goes to the final split."""
    return _best(tuning_runs(name, records), records).job.settings


def _best(trials: Sequence[Record], records: Sequence[Record]) -> Record:
    """By what modes are ranked by."""
    base = find_base(records, "tuning")
    return max(trials, key=lambda trial: style_at_content(trial, base).style)


def _rate(name: str, records: Sequence[Record], split: str, seed: int) -> float | None:
    """Share of losing samples that mode `name` had in its own chosen run, over the steps without ties.

    Policy and reference are one in the first step and after a snapshot: no criterion decides anything there.
    """
    if split == "tuning":
        tuned = is_tuned(name, records)
        run = _best(tuning_runs(name, records), records) if tuned else None
    else:
        finals = (r for r in records if r.job.split == "final" and r.job.mode == name)
        run = next((r for r in finals if r.job.seed == seed), None)
    if run is None:
        return None
    steps = zip(run.metrics["flip_rate"], run.metrics["winner_margin"], strict=True)
    flips = [flip for flip, margin in steps if flip is not None and margin != 0.0]
    return round(1 - sum(flips) / len(flips), 3) if flips else 0.0


def _find(records: Sequence[Record], job: Job) -> Record | None:
    return next((r for r in records if r.job == job), None)
