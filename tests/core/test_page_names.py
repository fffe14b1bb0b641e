"""All packs share one page: our names there are under `seppo`, and our styles and elements stay inside what is ours."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"
SCRIPTS = {path.relative_to(WEB).as_posix(): path.read_text("utf-8") for path in WEB.rglob("*.js")}
SHEETS = {
    path.relative_to(WEB).as_posix(): path.read_text("utf-8")
    for path in WEB.rglob("*.css")
    if path.parent.name != "vendor"
}
NAMES = {
    "extensions": r'registerExtension\(\{\s*name: "([^"]+)"',
    "commands": r'const COMMAND = "([^"]+)"',
    "settings": r'\bid: "([^"]+\.[^"]+)"',
    "sidebar tabs": r'registerSidebarTab\(\{\s*id: "([^"]+)"',
    "types of widgets": r"addDOMWidget\(\w+, [`\"]([^`\"$]+)",
    "messages": r'addEventListener\("(seppo[^"]*|[^"]*[._-](?:step|run))"',
    "routes": r"[`\"](?:\$\{\w+\})?(/[a-z]+/[^`\"]*)[`\"]",
    "classes": r'className: "([^"]+)"',
    "properties of nodes": r'const PROPERTY = "([^"]+)"',
}
"""What has a name on the shared page -> how our scripts give it one."""
OURS = re.compile(r"/?(seppo|SePPO)([-._ /]|$)")
SHARED = re.compile(
    r"document\.(?:head|body|documentElement)\.(?:append|prepend|insert|replace)|document\.addEventListener"
    r"|adoptedStyleSheets|(?:window|globalThis)\.\w+ = |\b(?:LiteGraph|LGraphNode|app|api)\.[\w.]+ = "
)
"""Ways to change what belongs to all packs."""


def selectors(sheet: str) -> list[str]:
    """Of all rules, those inside of @media, too."""
    plain = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)
    preludes = re.findall(r"([^{};]+)\{", plain)
    return [
        " ".join(one.split())
        for prelude in preludes
        if not prelude.strip().startswith("@")
        for one in prelude.split(",")
    ]


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_under_that_of_the_pack(kind):
    found = [name for text in SCRIPTS.values() for name in re.findall(NAMES[kind], text)]
    assert found and [name for name in found if not OURS.match(name)] == []


def test_extensions_have_the_prefix_of_the_registrys_display_name_and_a_name_each():
    found = [name for text in SCRIPTS.values() for name in re.findall(NAMES["extensions"], text)]
    assert len(set(found)) == len(found) >= 4
    assert all(name.startswith("seppo.") for name in found)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_changes_nothing_that_belongs_to_all_packs(name):
    assert SHARED.findall(SCRIPTS[name]) == []


@pytest.mark.parametrize("name", SHEETS)
def test_every_style_is_of_the_packs_own_elements(name):
    assert [one for one in selectors(SHEETS[name]) if not one.startswith(".seppo")] == []


def test_no_two_sheets_style_the_same_elements():
    """The gallery's sheet once took the panel of Compare for its own, as soon as the gallery was opened."""
    classes = [
        set(re.findall(r"\.(seppo-[\w-]+)", " ".join(selectors(text)))) for text in SHEETS.values()
    ]
    shared = Counter(name for found in classes for name in found)
    assert [name for name, times in shared.items() if times > 1] == []
