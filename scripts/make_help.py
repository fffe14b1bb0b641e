"""Writes the nodes' help pages and English names: `python scripts/make_help.py [http://127.0.0.1:8188]`.

The address is a running ComfyUI with this pack in it, whose nodes say what their inputs and outputs are. In
locales/zh/nodeDefs.json the same is written by hand in Chinese. A page has words of its own between the two marks, which
stay as they are; all else is made. The pictures come from scripts/make_page_pictures.py.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow_format import Input, inputs_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "web" / "docs"
LOCALES = ROOT / "locales"
SERVER = "http://127.0.0.1:8188"
OURS = "SePPO"
BEGIN = "<!-- Words of this page. All outside of them is made by scripts/make_help.py. -->"
END = "<!-- End of the words. -->"

Definitions = dict[str, Any]
"""A host's /object_info, of this pack's nodes alone"""
Names = dict[str, Any]
"""nodeDefs.json: what nodes, inputs and outputs are called in one language, as the page reads it"""


@dataclass(frozen=True)
class Language:
    """What a page says around the nodes' own words."""

    inputs: str
    input_row: str
    outputs: str
    output_row: str
    optional: str
    default: str
    empty: str
    on: str
    off: str


ENGLISH = Language(
    inputs="## Inputs",
    input_row="| input | what it does |",
    outputs="## Outputs",
    output_row="| output | what it is |",
    optional="optional",
    default="default `{}`",
    empty="default: empty",
    on="on",
    off="off",
)
CHINESE = Language(
    inputs="## 输入",
    input_row="| 输入 | 作用 |",
    outputs="## 输出",
    output_row="| 输出 | 内容 |",
    optional="可选",
    default="默认 `{}`",
    empty="默认为空",
    on="开",
    off="关",
)


def ours(definitions: Definitions) -> Definitions:
    return {name: info for name, info in definitions.items() if name.startswith(OURS)}


def english_names(definitions: Definitions) -> Names:
    """What the nodes say about themselves, in the form of nodeDefs.json."""
    names: Names = {}
    for node, info in sorted(definitions.items()):
        outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
        names[node] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {
                one.name: {"name": one.name, "tooltip": one.settings.get("tooltip", "")}
                for one in inputs_of(info)
            },
            "outputs": {
                str(place): {"name": name, "tooltip": tooltip or ""}
                for place, (name, tooltip) in enumerate(outputs)
            },
        }
    return names


def page(node: str, info: dict[str, Any], names: Names, language: Language, words: str) -> str:
    """One help page as Markdown; image paths count from web/docs, as the host takes them.

    Tables have two columns, for the host shows them in a narrow panel.
    """
    about = names[node]
    taken = [language.input_row, "|---|---|"]
    for one in inputs_of(info):
        said = about["inputs"][one.name]
        label = f"`{one.name}`" if said["name"] == one.name else f"{said['name']} `{one.name}`"
        taken.append(f"| {label} | {said['tooltip']} *({takes(one, language)})* |")
    given = [language.output_row, "|---|---|"]
    for place, kind in enumerate(info["output"]):
        said = about["outputs"][str(place)]
        given.append(f"| {said['name']} | {said['tooltip']} *(`{kind}`)* |")
    lines = [
        f"![{about['display_name']}]({node}/node.webp)",
        about["description"],
        "\n".join([BEGIN, words, END]),
        language.inputs,
        "\n".join(taken),
        language.outputs,
        "\n".join(given),
    ]
    return "\n\n".join(lines) + "\n"


def takes(one: Input, language: Language) -> str:
    """What may go into an input: a socket's type, or what its widget begins with."""
    if not one.is_widget:
        return f"`{one.type}`" + (f", {language.optional}" if one.optional else "")
    if one.default == "":
        return language.empty
    if isinstance(one.default, bool):
        return language.default.format(language.on if one.default else language.off)
    if isinstance(one.default, str):  # each line apart, for a table's row is one line
        return language.default.format("`, `".join(one.default.splitlines()))
    return language.default.format(
        f"{one.default:g}" if isinstance(one.default, float) else one.default
    )


def words_of(path: Path) -> str:
    """What was written by hand into a page; nothing where there is none yet."""
    if not path.is_file():
        return ""
    _, _, after = path.read_text("utf-8").partition(f"{BEGIN}\n")
    return after.partition(f"\n{END}")[0]


def pages(definitions: Definitions, chinese: Names) -> Iterator[tuple[Path, str]]:
    """Every page and its text. The host shows the first to all languages that have none of their own."""
    if missing := sorted(set(definitions) - set(chinese)):
        raise KeyError(f"locales/zh/nodeDefs.json says nothing about {', '.join(missing)}")
    english = english_names(definitions)
    for node, info in definitions.items():
        for path, names, language in (
            (DOCS / f"{node}.md", english, ENGLISH),
            (DOCS / node / "zh.md", chinese, CHINESE),
        ):
            yield path, page(node, info, names, language, words_of(path))


def chinese_names() -> Names:
    return json.loads((LOCALES / "zh" / "nodeDefs.json").read_text("utf-8"))


def as_json(names: Names) -> str:
    return json.dumps(names, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    server = sys.argv[1] if len(sys.argv) > 1 else SERVER
    with urllib.request.urlopen(f"{server.rstrip('/')}/object_info", timeout=60) as answer:
        definitions = ours(json.load(answer))
    english = LOCALES / "en" / "nodeDefs.json"
    made = [(english, as_json(english_names(definitions))), *pages(definitions, chinese_names())]
    for path, text in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    print(f"{len(made)} files")


if __name__ == "__main__":
    main()
