"""Where a winner's caption is found: in a file beside it, in a table of its folder, in its name."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DatasetError
from .generation import Generation, NoPromptError
from .lines import are_tags, as_tags, run_on, texts_of
from .pictures import StoredPicture, reasons
from .prompts import graph_beside, is_graph, read_generation, without_graphs

SUFFIXES = (".txt", ".caption", ".json")
"""Files that caption what lies beside them under the same name, in the order they are asked."""

TABLES = ("metadata.jsonl", "metadata.csv")
"""Files that caption their folder's pictures: one row each, as Hugging Face's imagefolder has them."""

CAPTION_KEYS = ("caption", "text", "prompt", "description", "tags")
"""Names under which JSON and tables hold a caption, in the order they are asked."""

EMPTY_KEYS = ("caption", "text")
"""of these, whose empty text is an empty caption; the others are empty where nobody wrote anything"""

DEEPEST = 5
"""Objects within each other in which a caption is looked for."""

MAX_CAPTION_BYTES = 1_000_000
MAX_TABLE_BYTES = 500_000_000
HEAD_BYTES = 4096
"""of a table, which tell how its text is encoded"""

SOURCES = ("files, then pictures", "files", "file names")
"""`files`: what was written beside the pictures; `pictures`: what they carry within."""

NO_CAPTION = "Put a .txt of the same name beside it, or give one caption for all"
GIVE_CAPTION = "Rename it, or give one caption for all"
EMPTY_CAPTION = (
    "Write into it what is to be seen, or give one caption for all; to train without captions, give "
    "any and set dropout to 1 where captions are edited"
)

NOT_TEXT = "its caption file is not UTF-8 text; save it as UTF-8"

LINES = ("auto", "one is drawn", "joined", "first")
"""What becomes of a caption file's lines. `auto` joins those of one text and tags, and draws one of any others."""

MOST_CAPTIONS = 20
"""of a caption file's lines that count as captions of one picture; each is encoded"""


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
    caption_lines: str = LINES[0]
    """a row of LINES"""
    line_notes: Counter[str] = field(default_factory=Counter)
    """how many caption files of several lines were read, and as what"""
    on_item: Callable[[int], None] = lambda seen: None
    """called with the count of what was seen so far; may raise to stop"""

    def __post_init__(self) -> None:
        if self.captions not in SOURCES:
            raise ConfigError(f"unknown captions {self.captions!r}; choose from {list(SOURCES)}")
        if self.caption_lines not in LINES:
            raise ConfigError(
                f"unknown caption_lines {self.caption_lines!r}; choose from {list(LINES)}"
            )

    def notes(self) -> list[str]:
        """What was read of caption files with several lines."""
        return [
            f"{count} caption {'file holds' if count == 1 else 'files hold'} several lines: "
            f"{note} (see caption_lines)"
            for note, count in self.line_notes.items()
        ]


Written = Sequence[str] | None
"""Captions that were written beside a picture, of which one is drawn each time; none of them where an empty
one was written, None where nothing was."""


def caption_of(
    written: Written, picture: StoredPicture, stem: str, reading: Reading, otherwise: str = ""
) -> tuple[Sequence[str], Generation | None]:
    """The captions of a picture or clip, at least one, and how it was made if it had to be asked.

    `otherwise` is what its folder says. What the file itself carries comes before that, where nothing was
    written. DatasetError gives the reason alone why there is no caption.
    """
    by_name = reading.captions == "file names"
    if by_name:
        written = [words_of(stem)]
    if texts := [text for text in map(encodable, written or ()) if text]:
        return texts, None
    silence, advice = "no caption beside it", NO_CAPTION
    if by_name:
        silence, advice = "its name has no words", GIVE_CAPTION
    elif written is not None:
        silence, advice, otherwise = "its caption is empty", EMPTY_CAPTION, ""
    elif reading.captions == SOURCES[0]:
        try:
            with reasons(), picture.open() as file:
                about = read_generation(file, picture.name)
            return [about.prompt], about
        except NoPromptError as error:
            silence += f"; in the file: {error}"
    text = encodable(otherwise) or reading.caption.strip()
    if not text:
        raise DatasetError(f"{silence}. {advice}")
    return [text], None


def encodable(text: str) -> str:
    """Without halves of characters, which names and JSON can hold and no tokenizer takes."""
    return text.encode("utf-8", "ignore").decode("utf-8").strip()


def words_of(stem: str) -> str:
    """A caption from a file's name: `red_bird_00012_` -> "red bird", `blue-book` -> "blue book"."""
    words = re.sub(r"[_\s]+", " ", re.sub(r"_\d{5}_?$", "", stem)).strip()
    return words if " " in words else words.replace("-", " ").strip()


def encoding_of(head: bytes) -> str:
    """UTF-8, or what a mark says; without one, zeros at odd or at even places alone tell UTF-16."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    big, little = head[0::2].count(0), head[1::2].count(0)
    mostly_zeros = 3 * (big + little) >= len(head)
    if max(big, little) > 4 * min(big, little) and (mostly_zeros or not _is_utf_8(head)):
        return "utf-16-be" if big > little else "utf-16-le"
    return "utf-8-sig"


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def decoded(data: bytes) -> str:
    """A caption file's text. DatasetError gives the reason alone."""
    if len(data) > MAX_CAPTION_BYTES:
        raise DatasetError(
            f"its caption file is over {MAX_CAPTION_BYTES // 1000} kB; is it the right file?"
        )
    try:
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError:
        raise DatasetError(NOT_TEXT) from None
    if "\0" in text:
        raise DatasetError(NOT_TEXT)
    return text.strip()


def written_captions(suffix: str, data: bytes, reading: Reading) -> Written:
    """What a file of this suffix holds, or the prompt of a graph of ComfyUI in it.

    DatasetError gives the reason alone.
    """
    text = decoded(data)
    if suffix != ".json":
        return captions_of_lines(text, reading)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"its .json is not valid JSON ({error})") from None
    others = without_graphs(values)
    if not is_graph(values):
        return as_written(caption_in(others))
    by_hand = {key: others[key] for key in EMPTY_KEYS if key in others}
    found = (caption_in(by_hand), graph_beside(values), caption_in(others))
    return as_written(next((caption for caption in found if caption is not None), None))


def first_written(found: Iterable[Written]) -> Written:
    """The first that holds a caption; an empty one, if any is, before none."""
    empty: Written = None
    for written in found:
        if written:
            return written
        empty = empty if written is None else written
    return empty


def as_written(text: str | None) -> Written:
    return None if text is None else [text] if text else []


def captions_of_lines(text: str, reading: Reading) -> list[str]:
    """The captions in a text file, by what `reading` says of lines; counted in `reading.line_notes`."""
    every = [line.strip() for line in text.splitlines()]
    if len({*every} - {""}) < 2:
        return every[:1]
    texts, note = read_lines(every, reading.caption_lines)
    reading.line_notes[note] += 1
    return texts


def read_lines(every: Sequence[str], how: str) -> tuple[list[str], str]:
    """The captions that lines are, by a row of LINES, and what the report says of it."""
    lines = [*dict.fromkeys(filter(None, every))]
    if how == "first":
        return lines[:1], "the first is used"
    if how != "one is drawn":
        if are_tags(lines):
            return [as_tags(lines)], "joined, as tags"
        lines = [run_on(every)] if how == "joined" else [*dict.fromkeys(texts_of(every))]
        if len(lines) == 1:
            return lines, "joined, as one text"
    if len(lines) > MOST_CAPTIONS:
        return lines[:MOST_CAPTIONS], f"one of the first {MOST_CAPTIONS} is drawn each time"
    return lines, "one is drawn each time"


def caption_in(values: Any, depth: int = 0) -> str | None:
    """The caption of a JSON value: a string, a list of tags, or an object with one of CAPTION_KEYS.

    None if it is nothing of these, or an object without any; empty if one of EMPTY_KEYS is and no other is filled.
    """
    if isinstance(values, dict) and depth < DEEPEST:
        found = {key: caption_in(values[key], depth + 1) for key in CAPTION_KEYS if key in values}
        empty = any(found.get(key) == "" for key in EMPTY_KEYS)
        return next(filter(None, found.values()), "" if empty else None)
    if isinstance(values, list):
        return ", ".join(item.strip() for item in values if isinstance(item, str) and item.strip())
    return values.strip() if isinstance(values, str) else None


def table_rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """(file name, caption) of every row of a metadata table; an empty name, and no caption, where it has none.

    DatasetError says what is wrong with the table; what stands before the damage is given.
    """
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise DatasetError(f"is over {MAX_TABLE_BYTES // 10**6} MB; split it into folders")
    rows = _csv_rows if path.suffix == ".csv" else _json_rows
    try:
        with path.open("rb") as file:
            encoding = encoding_of(file.read(HEAD_BYTES))
        with path.open(encoding=encoding, newline="") as file:
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
