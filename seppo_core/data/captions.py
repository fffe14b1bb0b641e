"""Where a winner's caption is found: in a file beside it, in a table of its folder, in its name."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DatasetError
from .generation import Generation, NoPromptError
from .pictures import StoredPicture, reasons
from .prompts import graph_beside, is_graph, read_generation

SUFFIXES = (".txt", ".caption", ".json")
"""Files that caption what lies beside them under the same name, in the order they are asked."""

TABLES = ("metadata.jsonl", "metadata.csv")
"""Files that caption their folder's pictures: one row each, as Hugging Face's imagefolder has them."""

CAPTION_KEYS = ("caption", "text", "prompt", "description", "tags")
"""Names under which JSON and tables hold a caption, in the order they are asked."""

MAX_CAPTION_BYTES = 1_000_000
MAX_TABLE_BYTES = 500_000_000

SOURCES = ("files, then pictures", "files", "file names")
"""`files`: what was written beside the pictures; `pictures`: what they carry within."""

NO_CAPTION = "Put a .txt of the same name beside it, or give one caption for all"
GIVE_CAPTION = "Rename it, or give one caption for all"


@dataclass(frozen=True)
class Reading:
    """How a reader treats what it finds."""

    caption: str = ""
    """for what has none of its own"""
    captions: str = SOURCES[0]
    ties: str = "skip"
    """a row of `parquet.TIES`: what becomes of pairs that nobody won"""
    strict: bool = False
    """whatever cannot be used is an error"""
    on_item: Callable[[int], None] = lambda seen: None
    """called with the count of what was seen so far; may raise to stop"""

    def __post_init__(self) -> None:
        if self.captions not in SOURCES:
            raise ConfigError(f"unknown captions {self.captions!r}; choose from {list(SOURCES)}")


def caption_of(
    written: str, picture: StoredPicture, stem: str, reading: Reading, otherwise: str = ""
) -> tuple[str, Generation | None]:
    """The caption of a picture or clip, and how it was made if it had to be asked.

    `written` stood beside it, `otherwise` is what its folder says. What the file itself carries comes
    between the two. DatasetError gives the reason alone why there is no caption.
    """
    by_name = reading.captions == "file names"
    if text := encodable(words_of(stem) if by_name else written):
        return text, None
    silence = "its name has no words" if by_name else "no caption beside it"
    if reading.captions == SOURCES[0]:
        try:
            with reasons(), picture.open() as file:
                about = read_generation(file, picture.name)
            return about.prompt, about
        except NoPromptError as error:
            silence += f"; in the file: {error}"
    text = encodable(otherwise) or reading.caption.strip()
    if not text:
        raise DatasetError(f"{silence}. {GIVE_CAPTION if by_name else NO_CAPTION}")
    return text, None


def encodable(text: str) -> str:
    """Without halves of characters, which names and JSON can hold and no tokenizer takes."""
    return text.encode("utf-8", "ignore").decode("utf-8").strip()


def words_of(stem: str) -> str:
    """A caption from a file's name: `red_bird_00012_` -> "red bird", `blue-book` -> "blue book"."""
    words = re.sub(r"[_\s]+", " ", re.sub(r"_\d{5}_?$", "", stem)).strip()
    return words if " " in words else words.replace("-", " ").strip()


def decoded(data: bytes) -> str:
    """A caption file's text: UTF-8, or UTF-16 with its mark. DatasetError gives the reason alone."""
    if len(data) > MAX_CAPTION_BYTES:
        raise DatasetError(
            f"its caption file is over {MAX_CAPTION_BYTES // 1000} kB; is it the right file?"
        )
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding).strip()
    except UnicodeDecodeError:
        raise DatasetError("its caption file is not UTF-8 text; save it as UTF-8") from None


def written_caption(suffix: str, data: bytes) -> str:
    """The caption that a file of this suffix holds, or the prompt of a graph of ComfyUI in it.

    DatasetError gives the reason alone.
    """
    text = decoded(data)
    if suffix != ".json":
        return text
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"its .json is not valid JSON ({error})") from None
    return graph_beside(values) if is_graph(values) else caption_in(values)


def caption_in(values: Any) -> str:
    """The caption of a JSON value: a string, a list of tags, or an object with one of CAPTION_KEYS."""
    if isinstance(values, dict):
        found = (caption_in(values[key]) for key in CAPTION_KEYS if key in values)
        return next((text for text in found if text), "")
    if isinstance(values, list):
        return ", ".join(item.strip() for item in values if isinstance(item, str) and item.strip())
    return values.strip() if isinstance(values, str) else ""


def table_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, caption) of every row of a metadata table, each empty where the row has none.

    DatasetError says what is wrong with the table; what stands before the damage is given.
    """
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise DatasetError(f"is over {MAX_TABLE_BYTES // 10**6} MB; split it into folders")
    rows = _csv_rows if path.suffix == ".csv" else _json_rows
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in rows(file):
                name = row.get("file_name")
                yield name if isinstance(name, str) else "", caption_in(row)
    except UnicodeDecodeError:
        raise DatasetError("is not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise DatasetError(f"cannot be read ({error})") from None


def _csv_rows(file: io.TextIOBase) -> Iterator[dict[str, Any]]:
    return csv.DictReader(file)


def _json_rows(file: io.TextIOBase) -> Iterator[dict[str, Any]]:
    """A line that is no JSON object counts as an empty one."""
    for line in file:
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = {}
            yield row if isinstance(row, dict) else {}
