"""The command line: `seppo train --config run.json`, `seppo evaluate pictures`, `seppo demo`."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .errors import ConfigError, SePPOError
from .settings import load_json, override

USAGE_ERROR = 2


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def train_command(arguments: argparse.Namespace) -> None:
    """Train a diffusers model headless, as the job file says; a run that was stopped is asked to go on by that."""
    from .job import make_job, run_job
    from .runs.run import Run
    from .runs.status import STOPPED

    values = load_json(Path(arguments.config))
    for assignment in arguments.set:
        override(values, assignment)
    job = make_job(values)
    for report in run_job(job, say):
        loss = "not finite" if report.loss is None else f"{report.loss:.4f}"
        line = f"step {report.step}/{report.steps}  loss {loss}"
        if report.winner_margin is not None:
            line += f"  winner margin {report.winner_margin:+.2e}"
        if report.flip_rate is not None:
            line += f"  flips {report.flip_rate:.0%}"
        say(f"{line}  {report.seconds:.2f} s")
    run = Run(job.training.run.directory)
    status = run.status()
    say(f"the run is in {run.directory}: {status.brief}")
    if status.state == STOPPED:
        say("the same command goes on from there")


def evaluate_command(arguments: argparse.Namespace) -> None:
    """Score the pictures of a folder, alone or against another folder's."""
    from .evaluation.folders import Evaluation, evaluate, save
    from .job import best_device

    settings = Evaluation(
        pictures=Path(arguments.pictures),
        against=Path(arguments.against) if arguments.against else None,
        scorers=arguments.scorer,
        caption=arguments.caption,
        words=Path(arguments.tokenizer) if arguments.tokenizer else None,
        cache=Path(arguments.cache),
        device=best_device() if arguments.device == "auto" else arguments.device,
        batch_size=max(1, arguments.batch_size),
    )
    results = evaluate(settings, say)
    if arguments.save:
        save(Path(arguments.save), results)


def load_demo() -> None:
    """Make the demo of the repository importable as `seppo_demo`; ConfigError without a checkout."""
    folder = Path(__file__).resolve().parent.parent / "demo"
    start = folder / "__init__.py"
    if not start.is_file():
        raise ConfigError(
            f"the demo lies in the repository and is not installed with the package (looked in {folder}); "
            "clone the repository and run `make demo` there"
        )
    spec = importlib.util.spec_from_file_location(
        "seppo_demo", start, submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["seppo_demo"] = package
    spec.loader.exec_module(package)


def demo_command(arguments: argparse.Namespace) -> None:
    """Align the small model that the repository ships; needs a checkout of the repository."""
    load_demo()
    importlib.import_module("seppo_demo.run").main(arguments.rest)


def add_evaluation(commands: Any) -> None:
    """The arguments of `seppo evaluate`."""
    parser = commands.add_parser(
        "evaluate", help="score pictures, alone or against those of the same names elsewhere"
    )
    parser.add_argument("pictures", help="a folder of pictures with their captions")
    parser.add_argument(
        "--scorer",
        action="append",
        required=True,
        metavar="name=weights",
        help="pickscore, hpsv2.1, aesthetic or clip, and the folder or file of its weights, or "
        "hub:owner/name to fetch them; may be given several times",
    )
    parser.add_argument("--against", default="", metavar="folder", help="compare with these")
    parser.add_argument("--caption", default="", help="for pictures that have none of their own")
    parser.add_argument(
        "--tokenizer", default="", metavar="folder", help="CLIP's, for weights that bring none"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="pictures scored at once")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument(
        "--cache",
        default=str(Path.home() / ".cache" / "seppo" / "scores"),
        metavar="folder",
        help="where scores are kept, so that none is computed twice",
    )
    parser.add_argument("--save", default="", metavar="file.json", help="write every score there")
    parser.set_defaults(command=evaluate_command)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="seppo", description="Align a diffusion model from winning images alone."
    )
    parser.add_argument("--version", action="version", version=f"seppo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    training = commands.add_parser("train", help="train a diffusers model from a job file")
    training.add_argument(
        "--config", required=True, metavar="run.json", help="the job, one JSON file"
    )
    training.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.name=value",
        help="change one setting of the file; may be given several times",
    )
    training.set_defaults(command=train_command)
    add_evaluation(commands)
    demo = commands.add_parser(
        "demo", help="align the small model of the repository, with a report", add_help=False
    )
    demo.set_defaults(command=demo_command)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command is not demo_command:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest  # the demo reads its own
    try:
        arguments.command(arguments)
    except SePPOError as error:
        sys.stderr.write(f"seppo: {error}\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("seppo: stopped; the same command goes on from where the run stands\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
