"""Strings that try to lead elsewhere, bait that they may not reach, and a watch over what is touched."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folders import draw

MARKER = "BAIT-d41c7e"
"""Stands in every file of the bait and must turn up nowhere else."""

OUTSIDE = "outside"
LINK, LOOP = "link_out", "link_loop"


@dataclass(frozen=True)
class Bait:
    """Files beside the host's folders, and links to them inside."""

    base: Path
    """the host's base directory"""
    root: Path
    """`outside`, in the base directory beside input and output"""
    in_output: frozenset[str]
    """names that may stand in the output"""

    def state(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of everything in and beside the base directory that no node may touch."""
        free = {self.base / name for name in ("output", "temp", "user", "server.log")}
        return dict(_entries(self.base, free))


def _entries(folder: Path, free: set[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.path) in free:
                continue
            status = entry.stat(follow_symlinks=False)
            is_folder = entry.is_dir(follow_symlinks=False)
            yield entry.path, (0 if is_folder else status.st_size, status.st_mtime_ns)
            if is_folder:
                yield from _entries(Path(entry.path), free)


def lay_bait(base: Path, run: Path, sealed: Callable[[dict], dict]) -> Bait:
    """`outside/winners` with captioned pictures, `outside/run` copied from a run; links in each folder.

    `sealed`: seppo_core.files.sealed of the loaded pack, so that the copy counts as a whole run.
    """
    root = base / OUTSIDE
    draw(root / "winners" / "a.png", MARKER)
    draw(root / "winners" / "b.png", None)
    (root / "winners" / "b.json").write_text(f'{{"caption": "{MARKER}"}}', "utf-8")
    (root / "winners" / "metadata.jsonl").write_text(
        f'{{"file_name": "c.png", "text": "{MARKER}"}}\n', "utf-8"
    )
    for path in run.rglob("*"):
        if path.is_file():
            copy = root / "run" / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    about = root / "run" / "run.json"
    values = json.loads(about.read_text("utf-8"))
    about.write_text(json.dumps(sealed(values | {"base_name": MARKER})), "utf-8")
    (root / "home").mkdir()
    output = base / "output"
    for place in (base / "input", output, *(output / name for name in KEPT_IN)):
        place.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # Windows lets few users make links
            (place / LINK).symlink_to(root, target_is_directory=True)
            (place / LOOP).symlink_to(place / LOOP)
    return Bait(base, root, frozenset(path.name for path in output.iterdir()))


KEPT_IN = ("seppo", "loras", "checkpoints", "diffusion_models")
"""Folders of the output that the pack writes to."""


@contextmanager
def tidied(base: Path) -> Iterator[None]:
    """What the block leaves in the input, the output and their folders is removed, the bait too."""

    def there() -> set[Path]:
        roots = (base / "input", base / "output")
        return {path for root in roots for path in (*root.glob("*"), *root.glob("*/*"))}

    before = there()
    yield
    for path in (*(there() - before), base / OUTSIDE):
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def leading_up(bait: Bait) -> Iterator[str]:
    """`..` in many spellings, from one to four folders up, to folders that are there and to none."""
    for levels in range(1, 5):
        for target in ("winners", "run", "new"):
            yield f"{'../' * levels}{OUTSIDE}/{target}"
    way = f"../{OUTSIDE}/winners"
    yield from (
        f"./{way}",
        f"winners/../{way}",
        f"winners/./..//{way}",
        f"../../{bait.base.name}/{way[3:]}",
    )
    yield from (way.replace("/", "\\"), f"..\\{way}", f"winners\\..\\{way}", f"{way}/", f"{way}/.")
    yield from (f"no_such/../{way}", f"my_run/../../../{OUTSIDE}/run", f"%width%/../{way}")
    yield from ("..", "../", ".", "...", "....//", "..;/", ". .", "winners/..", "winners/../..")


def absolute(bait: Bait) -> Iterator[str]:
    for target in ("winners", "run", "new"):
        path = str(bait.root / target)
        yield from (path, f"/{path}", f"//{path}", f"file://{path}", path.replace("/", "\\"))
    yield from ("/", "//", "\\", "/dev/zero", "/etc", "/proc/self/environ")
    yield from (
        "C:\\Windows",
        "C:/Windows",
        "C:",
        "C:winners",
        "c:..\\outside",
        "\\\\?\\C:\\Windows",
    )
    yield from (
        "\\\\server\\share",
        "//server/share/a",
        "\\\\.\\PhysicalDrive0",
        "\\\\?\\UNC\\server\\a",
    )


def linked(bait: Bait) -> Iterator[str]:
    yield from (LINK, LOOP, f"{LINK}/winners", f"{LINK}/run", f"{LINK}/new", f"{LINK}/../{OUTSIDE}")
    yield from (f"{LOOP}/winners", f"./{LINK}", f"winners/../{LINK}/winners", f"seppo/{LINK}/run")


def disguised(bait: Bait) -> Iterator[str]:
    """Characters that look like dots and slashes, or that some programs turn into them."""
    tail = f"{OUTSIDE}/winners"
    for dot in (".", "\u2024", "\uff0e", "\ufe52", "\u3002", ".\u0338", ".\u200b"):
        for slash in ("\u2215", "\uff0f", "\u2044", "\u29f8", "\uff3c", "\u2216", "/\u0338"):
            yield f"{dot}{dot}{slash}{tail.replace('/', slash)}"
    yield from (f"\uff0e\uff0e/{tail}", f"\u2025/{tail}", f"\u202e/{tail}", f"..\u200b/{tail}")
    yield from (f"%2e%2e%2f{tail}", f"..%2f{tail}", f"..%5c{tail}", f"%252e%252e%252f{tail}")
    yield from (f"..%c0%af{tail}", f"&#46;&#46;/{tail}", f"\\u002e\\u002e/{tail}")


def unusable(bait: Bait) -> Iterator[str]:
    """What no file can be called here or there."""
    way = f"../{OUTSIDE}/winners"
    yield from (
        "\0",
        f"winners\0{way}",
        "winners\0.png",
        f"{way}\0",
        "winners\n",
        f"winners\n{way}",
    )
    yield from (
        "",
        " ",
        "\t",
        "winners.",
        "winners ",
        "winners. .",
        " winners",
        "\x7f",
        "a\x1b[31m",
    )
    yield from ("\ud800", "\udcff", f"\udc2e\udc2e/{OUTSIDE}", "e\u0301" * 100, "\U0010ffff")
    yield from ("a" * 255, "a" * 256, "a" * 5000, "\u00e4" * 200, "a/" * 3000, "../" * 2000 + "etc")
    yield from (
        "CON",
        "nul",
        "AUX.txt",
        "com1",
        "LPT9.safetensors",
        "CONIN$",
        "COM\u00b9",
        "PRN ",
    )


def expanded(bait: Bait) -> Iterator[str]:
    """What a shell or a template would replace."""
    yield from ("~", f"~/{OUTSIDE}", "~root", "$HOME", f"$HOME/../{OUTSIDE}", "${HOME}/winners")
    yield from (
        "%USERPROFILE%",
        "%HOME%\\..",
        "{0}",
        "{self.__class__}",
        "%s%s%n",
        "{{7*7}}",
        "*",
        "w?nners",
    )
    new = bait.root / "new"
    yield from (
        f"; touch {new}",
        f"$(touch {new})",
        f"`touch {new}`",
        f"| touch {new}",
        f"& touch {new} &",
    )
    yield from (
        "-rf",
        "--help",
        "__import__('os').getcwd()",
        "!!python/object:os.system",
        "\\N{BULLET}",
    )


ATTACKS = (leading_up, absolute, linked, disguised, unusable, expanded)


def attacks(bait: Bait) -> list[str]:
    return list(dict.fromkeys(text for family in ATTACKS for text in family(bait)))


# What is touched

PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.startfile",
    "pty.spawn",
)
PATHS = {
    "open": 1,
    **dict.fromkeys(
        ("os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.chdir"), 1
    ),
    **dict.fromkeys(("os.truncate", "os.chmod", "os.utime", "os.setxattr", "shutil.rmtree"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink", "shutil.copyfile", "shutil.move"), 2),
}
"""Event of Python -> how many of its first arguments are paths."""

_watched: list[tuple[Path, list[str]]] = []
_installed: list[bool] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for root, touched in _watched:
        if event in PROCESSES:
            touched.append(f"{event} {arguments[0]!r}")
        for value in arguments[: PATHS.get(event, 0)]:
            if isinstance(value, str | bytes | os.PathLike) and _forbidden(value, root):
                touched.append(f"{event} {os.fspath(value)!r}")


def _forbidden(value: Any, root: Path) -> bool:
    path = os.fsdecode(value)
    if not path or "\0" in path:
        return False
    real = os.path.realpath(path)
    return real.startswith((str(root), "/dev/zero", "/etc/passwd"))


@contextmanager
def watch(root: Path) -> Iterator[list[str]]:
    """Everything that Python opens, lists, makes, moves or removes in `root`, and every process it starts."""
    if not _installed:
        sys.addaudithook(_hear)
        _installed.append(True)
    entry = (root, [])
    _watched.append(entry)
    try:
        yield entry[1]
    finally:
        _watched.remove(entry)
