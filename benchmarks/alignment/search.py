"""Which run comes next: the same search for every mode on the tuning split, then every seed on the final one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .front import BASE, best_style, find_base, style_as_trained
from .modes import (
    EVERY,
    FINER,
    FURTHER,
    GUIDANCE,
    LEARNING_RATES,
    MOST_FURTHER,
    OTHER_BETAS,
    OTHER_GUIDANCES,
    Mode,
    Settings,
)
from .records import Job, Record, final_runs

TUNING_SEED = 1000
NO_SETTINGS = Settings(0.0)


def base_job(split: str) -> Job:
    return Job(split, BASE, 0, 0, NO_SETTINGS)


def next_jobs(records: Sequence[Record], modes: Iterable[str], seeds: Sequence[int]) -> list[Job]:
    """All jobs that can run now and have not. Empty when everything is done."""
    done = {record.job for record in records}
    bases = [base_job(split) for split in ("tuning", "final")]
    wanted = [job for job in bases if job not in done]
    if not wanted:
        for name in modes:
            wanted += [job for job in _jobs_of(name, records, seeds) if job not in done]
    return wanted


def _jobs_of(name: str, records: Sequence[Record], seeds: Sequence[int]) -> list[Job]:
    mode = EVERY[name]
    if not is_tuned(name, records):
        trials = [] if mode.settings_of else next_trials(name, records)
        return [Job("tuning", name, TUNING_SEED, mode.steps, settings) for settings in trials]
    settings = chosen(name, records)
    final = []
    for seed in seeds:
        rate = _rate(mode.rate_of, records, "final", seed) if mode.rate_of else 0.5
        if rate is not None:
            final.append(Job("final", name, seed, mode.steps, replace(settings, loser_weight=rate)))
    return final


def next_trials(name: str, records: Sequence[Record]) -> list[Settings]:
    """What the search of a mode has to try next: three learning rates, then around the best, then beyond an edge."""
    tried = {run.job.settings: run for run in tuning_runs(name, records)}
    mode = EVERY[name]
    weight = _weight(mode, list(tried), records)
    if weight is None:
        return []
    guidance = GUIDANCE if mode.reads_guidance else 0.0
    first = [Settings(lr, loser_weight=weight, guidance=guidance) for lr in LEARNING_RATES]
    if missing := [settings for settings in first if settings not in tried]:
        return missing
    best = _best([tried[settings] for settings in first], records).job.settings
    second = [replace(best, learning_rate=best.learning_rate * factor) for factor in FINER]
    if mode.reads_beta:
        second = [replace(best, beta=beta) for beta in OTHER_BETAS]
    if mode.reads_guidance:
        second = [replace(best, guidance=guidance) for guidance in OTHER_GUIDANCES]
    if missing := [settings for settings in second if settings not in tried]:
        return missing
    best = _best([*tried.values()], records).job.settings
    rates = [settings.learning_rate for settings in tried]
    beyond = {min(rates): FURTHER, max(rates): 1 / FURTHER}.get(best.learning_rate)
    if beyond is None or len(tried) >= len(first) + len(second) + MOST_FURTHER:
        return []
    return [replace(best, learning_rate=float(f"{best.learning_rate * beyond:.2g}"))]


def _weight(mode: Mode, tried: Sequence[Settings], records: Sequence[Record]) -> float | None:
    """`loser_weight` of a search: the share measured when it began, where a mode takes another's."""
    if not mode.rate_of:
        return 0.5
    if tried:
        return tried[0].loser_weight
    return _rate(mode.rate_of, records, "tuning", TUNING_SEED)


def tuning_runs(name: str, records: Sequence[Record]) -> list[Record]:
    """Of a mode, or of the one whose settings it takes."""
    searched = searched_mode(name)
    return [r for r in records if r.job.split == "tuning" and r.job.mode == searched]


def searched_mode(name: str) -> str:
    """The mode whose search found the settings of mode `name`."""
    while EVERY[name].settings_of:
        name = EVERY[name].settings_of
    return name


def is_tuned(name: str, records: Sequence[Record]) -> bool:
    """Whether the search of a mode, or of the one whose settings it takes, is at its end."""
    return bool(tuning_runs(name, records)) and not next_trials(searched_mode(name), records)


def chosen(name: str, records: Sequence[Record]) -> Settings:
    """The settings with which a mode goes to the final split."""
    return _best(tuning_runs(name, records), records).job.settings


def _best(trials: Sequence[Record], records: Sequence[Record]) -> Record:
    """By what modes are ranked by."""
    base = find_base(records, "tuning")
    as_trained = EVERY[trials[0].job.mode].as_trained
    value = style_as_trained if as_trained else best_style
    return max(trials, key=lambda trial: value(trial, base))


def _rate(name: str, records: Sequence[Record], split: str, seed: int) -> float | None:
    """Share of losing samples that mode `name` had in its own chosen run, over the steps without ties.

    Policy and reference are one in the first step and after a snapshot: no criterion decides anything there.
    """
    if split == "tuning":
        tuned = is_tuned(name, records)
        run = _best(tuning_runs(name, records), records) if tuned else None
    else:
        run = final_runs(records, name).get(seed)
    if run is None:
        return None
    steps = zip(run.metrics["flip_rate"], run.metrics["winner_margin"], strict=True)
    flips = [flip for flip, margin in steps if flip is not None and margin != 0.0]
    return round(1 - sum(flips) / len(flips), 3) if flips else 0.0
