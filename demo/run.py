"""`seppo demo`: align the shipped model to the shipped winners and show what that did on other captions."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from seppo_core import SePPOConfig, SePPOError, train
from seppo_core.adapters.files import save_run_weights
from seppo_core.data import EncodedDataset
from seppo_core.denoisers.diffusers import DiffusersDenoiser
from seppo_core.training.metadata import describe
from seppo_core.training.trainer import run_description

from . import studio
from .judges import Score

STEPS = 120
EXTRA = (
    "the demo's judges need the packages of the extra `demo`: pip install -e '.[demo]' "
    "(or `make demo`, which sets up an environment of its own)"
)


class MissingPackageError(SePPOError):
    """A package of the extra `demo` is not installed."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def call_judges():
    """The judges, or an error that says what to install."""
    from . import judges

    try:
        return judges.load()
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"no module {error.name!r}: {EXTRA}") from None


def align(policy: DiffusersDenoiser, dataset: EncodedDataset, config: SePPOConfig) -> list[dict]:
    """Train; the metrics of every step."""
    metrics = []
    for report in train(policy, dataset, config):
        metrics.append(report.metrics())
        if report.step % max(1, report.steps // 8) == 0:
            say(
                f"  step {report.step:>3}/{report.steps}  loss {report.loss:.4f}"
                f"  winner margin {report.winner_margin:+.1e}  flips {report.flip_rate:.0%}"
            )
    return metrics


def table(before: Score, after: Score) -> str:
    kept = f"{after.content / before.content:.0%} kept" if before.content else "none before"
    rows = (
        ("", "before", "after", ""),
        (
            "style",
            f"{before.style:.3f}",
            f"{after.style:.3f}",
            f"{after.style - before.style:+.3f}",
        ),
        ("content", f"{before.content:.3f}", f"{after.content:.3f}", kept),
    )
    return "\n".join(f"  {a:<9}{b:>8}{c:>8}  {d}" for a, b, c, d in rows)


def save_lora(
    path: Path, policy: DiffusersDenoiser, dataset: EncodedDataset, config: SePPOConfig
) -> None:
    about = run_description(policy, dataset, config)
    metadata = describe(about, "emoji demo", config.steps)
    save_run_weights(path, policy.lora.state(), config.lora, metadata)


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="seppo demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument(
        "--captions", type=int, default=None, help="judge only this many test captions"
    )
    parser.add_argument(
        "--out", type=Path, default=studio.HERE, help="where the results go (default: demo/)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    names, texts = studio.read_names(), studio.Texts()
    test = names.test[: options.captions]
    judges = call_judges()
    policy, dataset = studio.load_policy(), studio.read_dataset(texts)
    config = studio.settings(options.steps, options.seed)
    asked = test * studio.DRAWS

    say(f"judges on real pictures of {len(test)} captions they never saw:")
    worth = studio.judge_real(judges, test, names.test)
    say(
        f"  style right on {worth['style_accuracy']:.0%}; content finds "
        f"{worth['openmoji_content']:.0%} (openmoji) and {worth['twemoji_content']:.0%} (twemoji), "
        f"chance {judges_chance(names.test):.0%}"
    )
    say(f"drawing {len(asked)} pictures of captions that are not among the winners, before")
    before, pixels_before = studio.measure(policy, texts, judges, asked, names.test)
    say(
        f"aligning to {len(dataset)} winners: {config.steps} steps, criterion "
        f"{config.loss.criterion}, reference {config.references.selection}"
    )
    metrics = align(policy, dataset, config)
    say("drawing the same captions from the same noise, after")
    after, pixels_after = studio.measure(policy, texts, judges, asked, names.test)

    save_lora(options.out / "aligned_lora.safetensors", policy, dataset, config)
    seconds = time.perf_counter() - began
    result = {"before": asdict(before), "after": asdict(after), "seconds": round(seconds, 1)}
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    from . import report

    report.write(
        options.out / "report.html",
        report.Findings(
            before, after, seconds, worth, test, pixels_before, pixels_after, metrics, config
        ),
    )
    say(f"\n{table(before, after)}\n")
    say(f"{seconds:.0f} seconds. Pictures, curves and settings: {options.out / 'report.html'}")


def judges_chance(among: Sequence[str]) -> float:
    """R@10 of a guess."""
    from .judges import TOP

    return min(1.0, TOP / len(among))


if __name__ == "__main__":
    main()
