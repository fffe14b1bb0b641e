"""The command line: `seppo train --config run.json`, `seppo demo`."""

import argparse
import importlib.util
import sys
from pathlib import Path

from . import __version__
from .config import load_json, override
from .errors import ConfigError, SePPOError

USAGE_ERROR = 2


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def train_command(arguments: argparse.Namespace) -> None:
    """Train a diffusers model headless, as the job file says."""
    from .job import make_job, run_job

    values = load_json(Path(arguments.config))
    for assignment in arguments.set:
        override(values, assignment)
    job = make_job(values)
    for report in run_job(job, say):
        loss = "not finite" if report.loss is None else f"{report.loss:.4f}"
        line = f"step {report.step}/{report.steps}  loss {loss}"
        if report.winner_margin is not None:
            line += f"  winner margin {report.winner_margin:+.2e}  flips {report.flip_rate:.0%}"
        say(f"{line}  {report.seconds:.2f} s")
    say(f"the run is in {job.training.run.directory}")


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
