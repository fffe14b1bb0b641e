"""Draws the rooms of seppo_core and who imports whom into docs/architecture.md: `python scripts/make_house.py`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "seppo_core"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- Made by scripts/make_house.py. -->\n", "<!-- End of what is made. -->"


def floors() -> list[list[str]]:
    """The rooms of each floor, the highest first, as pyproject.toml orders them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["type"] == "layers"]
    return [[room.strip() for room in floor.split("|")] for floor in contract["layers"]]


def targets(file: Path) -> Iterator[Path]:
    """The files and folders of seppo_core that a file imports."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (folder / name.replace(".", "/") for name in names)


def room_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py") if path != CORE else ""


def imports() -> dict[str, set[str]]:
    """Room -> the rooms it imports, but the ground's, which everybody does."""
    rooms = {room for floor in floors() for room in floor}
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for file in sorted(CORE.rglob("*.py")):
        room = room_of(file)
        if room in rooms:
            found[room] |= {room_of(target) for target in targets(file)} & rooms - {room}
    return found


def picture() -> str:
    """A Mermaid flowchart, floor by floor."""
    every, known = floors(), imports()
    ground = {room for floor in every[-3:] for room in floor}
    lines = ["```mermaid", "flowchart TD"]
    for number, floor in enumerate(every[:-3]):
        lines.append(f"  subgraph floor{len(every) - number}[ ]")
        lines += [f"    {name(room)}[{room}]" for room in floor]
        lines.append("  end")
    lines.append(f"  ground[{', '.join(sorted(ground))}]")
    for floor in every[:-3]:
        for room in floor:
            lines += [f"  {name(room)} --> {name(other)}" for other in sorted(known[room] - ground)]
    lines += [f"  {name(room)} --> ground" for room in every[-4]]
    count = sum(map(len, known.values()))
    return "\n".join(
        [*lines, "```", "", f"{len(known)} rooms, {count} imports between them, none upward."]
    )


def name(room: str) -> str:
    return room.strip("_")


def page() -> str:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{picture()}\n{END}{after}"


def main() -> None:
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
