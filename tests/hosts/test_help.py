"""Help pages and translations follow the nodes: none is missing, none is left over, none says something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import graphs  # noqa: F401  (puts scripts on the path)
import pytest
from inprocess import PACK
from make_help import DOCS, LOCALES, as_json, chinese_names, english_names, ours, pages
from make_workflows import FOLDER
from PIL import Image

LARGEST_PICTURE = 40 * 1024
MESSAGE_SYNTAX = set("{}@|")
"""What the page's translation library would read as more than text."""


@pytest.fixture(scope="module")
def definitions(http_host) -> dict[str, Any]:
    return ours(http_host.get("/object_info"))


def texts(names: Any) -> Iterator[str]:
    if isinstance(names, dict):
        for value in names.values():
            yield from texts(value)
    else:
        yield names


def test_every_node_has_help_in_both_languages_and_no_page_is_left_over(host, definitions):
    nodes = {node.define_schema().node_id for node in host.module("nodes").NODES}
    assert set(definitions) == nodes
    assert {path.stem for path in DOCS.glob("*.md")} == nodes
    assert {path.parent.name for path in DOCS.glob("*/zh.md")} == nodes
    assert {path.parent.name for path in DOCS.glob("*/node.webp")} == nodes


def test_pages_say_what_the_nodes_say(definitions):
    behind = [
        path.relative_to(DOCS).as_posix()
        for path, text in pages(definitions, chinese_names())
        if not path.is_file() or path.read_text("utf-8") != text
    ]
    assert behind == [], "run scripts/make_help.py"


def test_english_names_are_those_of_the_nodes(definitions):
    committed = (LOCALES / "en" / "nodeDefs.json").read_text("utf-8")
    assert committed == as_json(english_names(definitions)), "run scripts/make_help.py"


def test_chinese_covers_exactly_the_inputs_and_outputs_of_all_nodes(definitions):
    def shape(names: Any) -> Any:
        return {key: shape(value) for key, value in names.items()} if type(names) is dict else str

    assert shape(chinese_names()) == shape(english_names(definitions))


def test_chinese_texts_are_written_in_chinese():
    borrowed = {"VAE", "CLIP", "LoRA", "Latent", "alpha", "beta"}
    foreign = [
        text
        for text in texts(chinese_names())
        if text not in borrowed and not any("\u4e00" <= sign <= "\u9fff" for sign in text)
    ]
    assert foreign == []


def test_every_input_and_output_is_explained(definitions):
    assert [text for text in texts(english_names(definitions)) if not text.strip()] == []


def test_translations_hold_nothing_that_the_page_reads_as_syntax():
    files = sorted(LOCALES.rglob("*.json"))
    assert {path.parent.name for path in files} == {"en", "zh"}
    found = {
        path.name: [
            text for text in texts(json.loads(path.read_text("utf-8"))) if MESSAGE_SYNTAX & {*text}
        ]
        for path in files
    }
    assert not any(found.values()), found


def test_every_template_has_a_picture():
    files = {path.stem for path in FOLDER.glob("*.json")}
    assert {path.stem for path in FOLDER.glob("*.jpg")} == files


def test_pictures_of_nodes_and_templates_are_small_and_readable():
    pictures = sorted([*DOCS.rglob("*.webp"), *FOLDER.glob("*.jpg")])
    assert [path for path in pictures if path.stat().st_size > LARGEST_PICTURE] == []
    for path in pictures:
        assert min(Image.open(path).size) > 60, path


def test_host_serves_the_translations(http_host):
    served = http_host.get("/i18n")
    assert served["zh"]["nodeDefs"]["SePPOTrain"] == chinese_names()["SePPOTrain"]
    assert PACK.joinpath("locales", "en", "nodeDefs.json").is_file()
    assert served["en"]["nodeDefs"]["SePPOTrain"]["display_name"] == "SePPO Train"
