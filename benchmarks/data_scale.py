"""How many winners the data side carries, and how fast: `python benchmarks/data_scale.py [--count 100000]`.

Makes captioned pictures of 64x64 in a temporary folder. Listing and encoding run in processes of their own,
so that their peak memory is theirs alone. The encoders average: what is measured is all that is around one.
Decoding and preparing 1024x768 JPEG is timed against plain Pillow that makes the same pixels, in turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (1_000, 10_000)
"""winners encoded, to see whether memory grows with them; multiples of PART"""
SIDE, LARGE, LARGE_COUNT, ROUNDS = 64, (1024, 768), 40, 5
BATCH = 4
PART = 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print(json.dumps(list_winners(arguments.list)))
    elif arguments.encode:
        print(json.dumps(encode_winners(arguments.encode, arguments.count)))
    else:
        compare(arguments.count)


def compare(count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "winners")
        seconds = make_pictures(folder, count)
        print(f"made {count} captioned pictures of {SIDE}x{SIDE} in {seconds:.0f} s")
        listed = in_own_process("--list", folder, count)
        print(
            f"listing {listed['count']}: {listed['seconds']:.1f} s, peak {listed['peak']:.0f} MB, "
            f"{listed['peak'] - listed['before']:.0f} MB of it above the imports"
        )
        for some in (number for number in COUNTS if number <= count):
            made = in_own_process("--encode", folder, some)
            print(
                f"encoding {some:6}: {some / made['seconds']:.0f} images/s, peak {made['peak']:.0f} MB, "
                f"{made['peak'] - made['before']:.0f} MB of it above the imports and the list; "
                f"again from the cache {some / made['again']:.0f} images/s"
            )
    print(shuffling(count))
    print(decoding())


def in_own_process(task: str, folder: Path, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, task, str(folder), "--count", str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_megabytes() -> float:
    """Of the whole process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def make_pictures(folder: Path, count: int) -> float:
    """JPEG and PNG in turns, PART to a folder, each with a caption of its own."""
    import numpy as np
    from PIL import Image

    started = time.perf_counter()
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // PART:03}"
        place.mkdir(parents=True, exist_ok=True)
        cells = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(cells).resize((SIDE, SIDE))
        image.save(place / f"{number:06}{'.jpg' if number % 2 else '.png'}")
        caption = f"picture number {number} of many colours, drawn at random for a benchmark"
        (place / f"{number:06}.txt").write_text(caption)
    return time.perf_counter() - started


def list_winners(folder: Path) -> dict[str, float]:
    from seppo_core.data import read_winners

    before = peak_megabytes()
    started = time.perf_counter()
    winners = read_winners(folder)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "count": len(winners),
        "before": before,
        "peak": peak_megabytes(),
    }


def encode_winners(folder: Path, count: int) -> dict[str, float]:
    """Seconds and peak memory of encoding the first `count`, and seconds of finding all in the cache."""
    import torch
    from einops import rearrange

    from seppo_core.data import read_winners
    from seppo_core.data.encode import encode
    from seppo_core.data.prepare import Preparation
    from seppo_core.data.winners import Winners

    def encode_image(picture):
        colours = rearrange(picture, "height width colour -> colour height width")
        return torch.nn.functional.avg_pool2d(colours, 8).repeat(2, 1, 1)[:4]

    def encode_text(caption):
        return torch.full((77, 32), float(len(caption)))

    torch.set_num_threads(1)
    parts = sorted(folder.iterdir())[: count // PART]
    winners = Winners([winner for part in parts for winner in read_winners(part)], "some")
    before = peak_megabytes()
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            started = time.perf_counter()
            encode(
                winners,
                encode_image,
                encode_text,
                Preparation(SIDE, 8),
                image_identity="vae",
                text_identity="clip",
                cache=Path(cache),
            )
            seconds.append(time.perf_counter() - started)
            peak = peak_megabytes()
    return {"seconds": seconds[0], "again": seconds[1], "before": before, "peak": peak}


def shuffling(count: int) -> str:
    """One epoch drawn whole, counted, and drawn again from its middle by another plan."""
    from seppo_core.training.batch import BatchPlan

    shapes = [(4, 64, 64 if number % 3 else 48) for number in range(count)]
    started = time.process_time()
    plan = BatchPlan(shapes, BATCH, seed=0)
    batches = [plan.batch(index) for index in range(plan.per_epoch)]
    seconds = time.process_time() - started
    seen = [position for batch in batches for position in batch]
    exact = sorted(seen) == list(range(count))
    resumed = BatchPlan(shapes, BATCH, seed=0)
    middle = plan.per_epoch // 2
    same = all(resumed.batch(i) == batches[i] for i in range(middle, plan.per_epoch))
    return (
        f"shuffling {count} of 2 shapes in batches of {BATCH}: {seconds:.2f} s of the processor an epoch, "
        f"every position once: {exact}, resumed at the middle alike: {same}"
    )


def decoding() -> str:
    """Images a second of ours and of plain Pillow, in turns on the same files; the best round of each."""
    import numpy as np
    import torch
    from PIL import Image

    from seppo_core.data.pictures import PictureFile
    from seppo_core.data.prepare import Preparation, prepare

    torch.set_num_threads(1)
    preparation = Preparation(512, 64)
    width, height = preparation.size(LARGE)
    scale = min(LARGE[0] / width, LARGE[1] / height)
    left, top = (LARGE[0] - width * scale) / 2, (LARGE[1] - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)

    def plain(path):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, box)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)

    def ours(path):
        return prepare(PictureFile(str(path), path.name), preparation)

    with tempfile.TemporaryDirectory() as directory:
        paths = large_pictures(Path(directory))
        assert all(torch.equal(plain(path), ours(path)) for path in paths)
        rounds = [[timed(function, paths) for function in (plain, ours)] for _ in range(ROUNDS)]
    rates = [len(paths) / min(times) for times in zip(*rounds, strict=True)]
    return (
        f"decoding and preparing {LARGE[0]}x{LARGE[1]} JPEG to {width}x{height}: ours {rates[1]:.1f} "
        f"images/s, plain Pillow {rates[0]:.1f} images/s, lost to us {1 - rates[1] / rates[0]:.1%}"
    )


def large_pictures(directory: Path) -> list[Path]:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    paths = [directory / f"{number}.jpg" for number in range(LARGE_COUNT)]
    for path in paths:
        cells = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(cells).resize(LARGE, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def timed(function, paths: list[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        function(path)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
