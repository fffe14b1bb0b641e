"""The alignment benchmark. Short: four modes, two seeds, no claims. `--long`: every mode, five seeds; goes on where it was.

`make benchmark-alignment`, or `python -m benchmarks.alignment --long`. The long form's results are appended to
benchmarks/results/alignment/<world>.jsonl, from all of which `--page` writes docs/benchmarks.md. The short form takes the
settings that were searched for there, and keeps its results in the folder of work.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

from . import records, work
from .front import least_content
from .modes import BOTH_WAYS, EVERY, MODES, SHORT
from .records import Job, Record
from .search import is_tuned, next_jobs
from .world import NAMES, SHIPPED, Description, World

BOTH = records.RESULTS.parent / "both_ways"
WORK = records.ROOT / ".benchmark"
LONG_SEEDS, SHORT_SEEDS = 5, 2


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def options_of(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignment", description=__doc__)
    parser.add_argument("--long", action="store_true", help="every mode and five seeds")
    parser.add_argument(
        "--seeds", type=int, help="instead of two, or of five with --long; 0 searches only"
    )
    parser.add_argument("--modes", nargs="+", metavar="MODE", choices=list(EVERY))
    parser.add_argument(
        "--styles", nargs=2, default=SHIPPED, metavar=("BASE", "WINNERS"), help=f"{SHIPPED}"
    )
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="STYLE=PACKAGE@VERSION",
        help="another style, an npm package of the iconify form whose names are those of the emoji",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="a base that never saw the test names in the winners' style",
    )
    parser.add_argument("--base", type=Path, help="folder of a diffusers UNet like demo/model")
    parser.add_argument(
        "--winners",
        type=Path,
        help="folder of pictures named like the emoji, in the style WINNERS, which its judge knows",
    )
    parser.add_argument(
        "--names",
        type=Path,
        default=NAMES,
        help="JSON with the lists winners and test, of names that the demo knows",
    )
    parser.add_argument(
        "--settings-of",
        default="",
        metavar="WORLD",
        help="search for nothing, take what was found in that world, whose results must be there",
    )
    parser.add_argument("--work", type=Path, default=WORK, help="for packages, features and bases")
    parser.add_argument(
        "--results", type=Path, help=f"{records.RESULTS}; of the short form short/ in --work"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no job after so long"
    )
    parser.add_argument(
        "--both-ways",
        action="store_true",
        help=f"draw with the base as the negative, too; of {', '.join(BOTH_WAYS)}, the results in {BOTH}",
    )
    parser.add_argument(
        "--page", action="store_true", help="write the page and its pictures, run nothing"
    )
    return parser.parse_args(argv)


def run_all(
    description: Description,
    path: Path,
    modes: list[str],
    seeds: list[int],
    workers: int,
    seconds: float,
    settings_of: str = "",
    searched: Sequence[Record] = (),
    both_ways: bool = False,
) -> list[Record]:
    """Run what is missing in `path`, several at a time; every record that is there in the end.

    `searched`: what the search ran in the world `settings_of`, which counts as this one's. `both_ways`: each is drawn
    with the base as the negative, too.
    """
    if settings_of:
        modes = [mode for mode in modes if is_tuned(mode, searched)]
    until, commit = time.monotonic() + seconds, records.commit()
    run = partial(work.run, both_ways=both_ways)
    running: dict[Future, Job] = {}
    trouble: BaseException | None = None
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while True:
            done = records.read(path)
            known = [*searched, *done]
            waiting = [j for j in next_jobs(known, modes, seeds) if j not in running.values()]
            if trouble is None and time.monotonic() < until:
                for job in waiting[: workers - len(running)]:
                    least = least_content(known, job.split)
                    running[pool.submit(run, description, job, least)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                if error := future.exception():
                    trouble = trouble or error
                    continue
                record = replace(future.result(), commit=commit, settings_of=settings_of)
                records.append(path, record)
                say(line_of(record))
    if trouble is not None:
        raise trouble
    return done


def require_same_base(path: Path, world: World) -> None:
    """SystemExit where the results that are there were made with another base: they could not be compared."""
    if others := {record.base for record in records.read(path)} - {"", world.base_digest}:
        raise SystemExit(
            f"{path}: its runs are of another base, whose weights have sha256 {min(others)}..., while those in {world.base} "
            f"have {world.base_digest}...; put that base back, or move these results away"
        )


def line_of(record: Record) -> str:
    job, scores = record.job, record.scores
    return (
        f"{job.split:<7}{job.mode:<32} seed {job.seed:<5}lr {job.settings.learning_rate:<8.3g}"
        f"beta {job.settings.beta:<6g}style {scores['style']:.3f}  content {scores['content']:.3f}  "
        f"frechet {scores['frechet']:.1f}  {record.evaluations} evaluations  {record.seconds:.0f} s"
    )


def main(argv: list[str] | None = None) -> None:
    options = options_of(argv)
    from . import page, ways

    kept = options.results or (BOTH if options.both_ways else records.RESULTS)
    if options.page:
        page.write(kept)
        return
    for package in options.package:
        if "=" not in package:
            raise SystemExit(f"--package {package}: expected STYLE=PACKAGE@VERSION")
    description = Description(
        *options.styles,
        work=options.work,
        strict=options.strict,
        base=options.base,
        winners=options.winners,
        names=options.names,
        more_styles=tuple(tuple(package.split("=", 1)) for package in options.package),
    )
    description.require()
    if options.settings_of and not (kept / f"{options.settings_of}.jsonl").is_file():
        known = sorted(path.stem for path in kept.glob("*.jsonl"))
        raise SystemExit(f"--settings-of {options.settings_of}: no such results, only {known}")
    settings_of = options.settings_of or ("" if options.long else description.name)
    searched = records.search_in(kept / f"{settings_of}.jsonl") if settings_of else []
    if options.both_ways:
        settings_of, searched = "", records.search_in(records.RESULTS / f"{description.name}.jsonl")
    os.environ["OMP_NUM_THREADS"] = "1"
    world = World(description)
    world.prepare()
    is_long = options.long or options.both_ways
    usual_modes = BOTH_WAYS if options.both_ways else MODES if is_long else SHORT
    modes = options.modes or list(usual_modes)
    usual = LONG_SEEDS if is_long else SHORT_SEEDS
    count = usual if options.seeds is None else options.seeds
    folder = kept if is_long else options.results or options.work / "short"
    path = folder / f"{description.name}.jsonl"
    require_same_base(path, world)
    done = run_all(
        description,
        path,
        modes,
        list(range(count)),
        options.workers,
        60 * options.minutes,
        settings_of if searched else "",
        searched,
        options.both_ways,
    )
    shown = ways.table(done, modes) if options.both_ways else page.table(done, modes)
    say("\n" + (shown or "nothing was measured yet"))


if __name__ == "__main__":
    main()
