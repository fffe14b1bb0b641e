"""How many prompts of popular packs' graphs other programs' readers tell: the reason that we have our own.

`python scripts/compare_readers.py` makes an environment for each reader, asks it for the prompt of every
graph of tests/core/pack_passes.py as a PNG, and prints a table. Pure Python from PyPI; no network after that.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests" / "core")]

MARKS = re.compile(r"\s*<(?:lora|lyco|hypernet):[^<>]*>\s*")
"""Taken out of every reader's answer: whether it leaves them is another question."""

Reader = Callable[[Path], "str | None"]


def sd_parsers(path: Path) -> str | None:
    from sd_parsers import ParserManager

    found = ParserManager().parse(path)
    samplers = found.samplers if found else ()
    return next((", ".join(p.value for p in s.prompts) for s in samplers if s.prompts), None)


def sd_prompt_reader(path: Path) -> str | None:
    from sd_prompt_reader.image_data_reader import ImageDataReader

    return ImageDataReader(str(path)).positive or None


def unstable_reader(path: Path) -> str | None:
    from unstable_reader.image_data_reader import ImageDataReader

    return ImageDataReader(str(path)).positive or None


def seppo(path: Path) -> str | None:
    from seppo_core.data.generation import NoPromptError
    from seppo_core.data.prompts import read_generation

    try:
        with path.open("rb") as file:
            return read_generation(file, path.name).prompt
    except NoPromptError:
        return None


READERS: dict[str, tuple[Reader, list[str]]] = {
    "seppo": (seppo, []),
    "sd-parsers==0.6": (sd_parsers, ["pillow"]),
    "sd-prompt-reader==1.3.5": (sd_prompt_reader, ["pillow", "piexif", "defusedxml"]),
    "unstable-reader==0.1.0": (unstable_reader, ["pillow", "piexif", "defusedxml"]),
}
"""Requirement -> how it is asked, and what it needs for that."""


def measure(read: Reader) -> Counter[str]:
    """Graphs by what a reader makes of them: right, none where there is one, wrong, rightly none."""
    from pack_passes import CASES
    from PIL import Image, PngImagePlugin

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            path = Path(folder) / f"ComfyUI_{number:05d}_.png"
            info = PngImagePlugin.PngInfo()
            graph = numbered(case.graph)
            info.add_text("prompt", json.dumps(graph))
            info.add_text("workflow", json.dumps({"nodes": [], "links": links_of(graph)}))
            Image.new("RGB", (8, 8)).save(path, pnginfo=info)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    told = read(path)
            except Exception:  # whatever a graph makes a foreign reader raise
                told = None
            told = MARKS.sub("", told).strip() if told else None
            outcome = "right" if told == case.prompt else "wrong" if told else "none"
            counts["rightly none" if told is None and case.prompt is None else outcome] += 1
    return counts


def numbered(graph: dict[str, dict]) -> dict[str, dict]:
    """The same graph with numbers for ids, as the editor gives them and some readers ask for."""
    ids = {key: str(number) for number, key in enumerate(graph, 1)}

    def renamed(value: object) -> object:
        link = isinstance(value, list) and len(value) == 2 and value[0] in ids
        return [ids[value[0]], value[1]] if link else value

    return {
        ids[key]: node | {"inputs": {name: renamed(at) for name, at in node["inputs"].items()}}
        for key, node in graph.items()
    }


TYPES = {"positive": "CONDITIONING", "negative": "CONDITIONING", "cond": "CONDITIONING"}
TYPES |= {"text": "STRING", "prompt": "STRING", "string": "STRING", "latent": "LATENT"}
TYPES |= {"samples": "LATENT", "image": "IMAGE", "model": "MODEL", "clip": "CLIP", "vae": "VAE"}


def links_of(graph: dict[str, dict]) -> list[list]:
    """The links as the editor keeps them beside, with types that their inputs' names suggest."""
    links = []
    for key, node in graph.items():
        for slot, (name, value) in enumerate(node["inputs"].items()):
            if isinstance(value, list) and len(value) == 2:
                kind = next((kind for part, kind in TYPES.items() if part in name), "*")
                links.append([len(links) + 1, int(value[0]), value[1], int(key), slot, kind])
    return links


def in_own_environment(requirement: str, needs: list[str], folder: Path) -> dict[str, int]:
    python = folder / "bin" / "python" if sys.platform != "win32" else folder / "Scripts" / "python"
    for command in (
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "-q", "--no-deps", requirement, *needs],
    ):
        subprocess.run(command, check=True, capture_output=True)
    command = [python, __file__, requirement]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    if sys.argv[1:]:
        print(json.dumps(measure(READERS[sys.argv[1]][0])))
        return 0
    columns = ("right", "none", "wrong", "rightly none")
    print(f"| reader | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for requirement, (read, needs) in READERS.items():
        with tempfile.TemporaryDirectory() as folder:
            here = requirement == "seppo"
            counts = measure(read) if here else in_own_environment(requirement, needs, Path(folder))
        print(f"| {requirement} | {' | '.join(str(counts.get(name, 0)) for name in columns)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
