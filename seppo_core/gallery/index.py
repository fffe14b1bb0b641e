"""What the pictures of a folder tell of themselves, read a little at a time and remembered on disk."""

import json
import sys
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ..data.generation import NoPromptError
from ..data.pictures import PictureFile, open_image, reasons
from ..data.prompts import read_generation
from ..errors import DatasetError
from ..files import atomic, make_folder, unless_refused
from .places import Listed, listing

MAX_TEXT = 4_000
"""Characters of a prompt that are kept; filters and groups look at these."""
MAX_ROWS = 1_000
"""that one answer holds"""

Row = dict[str, Any]
"""JSON: name, mtime_ns, size; width, height; the fields of Generation, or `reason` why there are none."""


def about(path: Path, listed: Listed) -> Row:
    """What a picture's file tells of itself."""
    row: Row = listed._asdict()
    try:
        with reasons(), PictureFile(path, listed.name).open() as file:
            with open_image(file) as image:
                row |= {"width": image.width, "height": image.height}
            file.seek(0)
            made = asdict(read_generation(file, listed.name))
    except NoPromptError as error:
        return row | {"reason": str(error)}
    except DatasetError as error:
        return row | {"reason": str(error), "broken": True}
    for name in ("prompt", "negative"):
        made[name] = sys.intern(made[name][:MAX_TEXT])  # whole batches share them
    return row | made


@dataclass(frozen=True)
class Answer:
    """Rows that are new since the last answer, and where to go on."""

    edition: str
    """another one begins at 0 again"""
    after: int
    left: int
    """pictures that are still to be read"""
    rows: list[Row]


class Index:
    """Rows of a folder's pictures. `file` remembers them: a line of JSON each, later ones replace earlier ones.

    What a full disk does not take is read from the pictures again next time.
    """

    def __init__(self, root: Path, file: Path) -> None:
        self.root, self.file = root, file
        self.edition = uuid.uuid4().hex
        self.read: list[Row] = []
        """in the order they became known"""
        self.latest: dict[str, Row] = {}
        self.waiting: deque[Listed] | None = None
        """None: the folder was not looked at yet"""
        self.lock = Lock()

    def pictures(self) -> list[Listed]:
        """The folder's pictures as they are now, newest first; those that are new are read later."""
        with self.lock:
            return self._listed()

    def _listed(self) -> list[Listed]:
        found = listing(self.root)
        if self.waiting is None:
            self._remember({row.name for row in found})
        self.waiting = deque(row for row in found if not self._knows(row))
        return found

    def _knows(self, listed: Listed) -> bool:
        row = self.latest.get(listed.name)
        return row is not None and (row["mtime_ns"], row["size"]) == (listed.mtime_ns, listed.size)

    def answer(self, edition: str, after: int, seconds: float) -> Answer:
        """Read on for at most about `seconds`, and tell what is new `after` so many rows of an edition."""
        with self.lock:
            if self.waiting is None:
                self._listed()
            start = after if edition == self.edition and 0 <= after <= len(self.read) else 0
            if len(self.read) - start < MAX_ROWS:
                self._read_on(time.monotonic() + seconds)
            rows = self.read[start : start + MAX_ROWS]
            left = len(self.waiting or ()) + len(self.read) - start - len(rows)
            return Answer(self.edition, start + len(rows), left, rows)

    def _read_on(self, end: float) -> None:
        fresh = []
        while self.waiting and time.monotonic() < end:
            listed = self.waiting.popleft()
            fresh.append(about(self.root / listed.name, listed))
        self._take(fresh)
        if fresh:
            with unless_refused(self.file):
                make_folder(self.file.parent)
                with self.file.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in fresh)

    def _take(self, rows: list[Row]) -> None:
        self.read += rows
        self.latest |= {row["name"]: row for row in rows}

    def _remember(self, names: set[str]) -> None:
        """Take the rows of these pictures from the file; it is written anew if most of it is of no use."""
        try:
            lines = self.file.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return
        rows = {row["name"]: row for row in map(_row, lines) if row and row["name"] in names}
        self._take([*rows.values()])
        if len(lines) > 2 * len(rows) + MAX_ROWS:
            with unless_refused(self.file), atomic(self.file) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))


def _row(line: str) -> Row | None:
    """What a line of the file says; None for one that was cut off or is none of ours."""
    try:
        row = json.loads(line)
        known = (row["name"], row["mtime_ns"], row["size"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return row if [type(value) for value in known] == [str, int, int] else None
