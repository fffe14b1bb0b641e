"""Winning images from tables of judged pairs, in the columns of Pick-a-Pic v2: Parquet files.

Listing reads the small columns alone. Pictures are read when they are asked for, a few rows at a time.
"""

import io
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import ConfigError, DatasetError, MissingPackageError
from .captions import Reading, decoded
from .folder import files_of
from .pictures import StoredPicture
from .winners import LeftOut, Winner, Winners

if TYPE_CHECKING:
    from pyarrow import DataType
    from pyarrow.parquet import ParquetFile

SUFFIXES = (".parquet",)

TIES: dict[str, int | None] = {"skip": None, "first": 0, "second": 1}
"""What becomes of pairs that nobody won: which of the two counts as the winner."""

PICTURES = ("jpg_0", "jpg_1")
LABELS = ("label_0", "label_1")
REQUIRED = (*PICTURES, *LABELS, "caption")
OPTIONAL = "has_label"

LISTED_ROWS = 10_000
"""Rows of small columns that are in memory at a time."""

PICTURE_ROWS = 16
"""Rows of one picture column that are in memory at a time."""

READ_BYTES = 2**20

DAMAGE = (OSError, ValueError, KeyError, NotImplementedError)
"""What pyarrow raises on files that it cannot read; its own errors are kinds of these."""

CURSORS = 2
"""Columns of row groups that stay open: a winner's and a loser's. Each holds a page, in which some writers put
a thousand pictures."""


class Cursor:
    """One column of one row group, read forward in small batches; an open file until it is closed."""

    def __init__(self, path: str, group: int, column: str) -> None:
        self.file = opened(path)
        self.batches = self.file.iter_batches(
            PICTURE_ROWS, row_groups=[group], columns=[column], use_threads=False
        )
        self.first = 0
        self.held: Any = ()

    def at(self, row: int) -> Any:
        """The value at `row` of the group, not before the rows that are held. IndexError beyond its end."""
        while row >= self.first + len(self.held):
            self.first += len(self.held)
            self.held = ()
            batch = next(self.batches, None)
            if batch is None:
                raise IndexError(row)
            self.held = batch.column(0)
        return self.held[row - self.first].as_py()

    def close(self) -> None:
        self.file.close(force=True)


class Cursors:
    """The cursors that were used last, so that a row can be read again and the next one found quickly."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, int, str], Cursor] = OrderedDict()
        self._lock = Lock()

    def read(self, path: str, group: int, column: str, row: int) -> bytes:
        """The picture's bytes. DatasetError gives the reason alone why there are none."""
        key = (path, group, column)
        with self._lock:
            try:
                value = self._cursor(key, row).at(row)
            except IndexError:
                self._close(key)
                raise DatasetError("the table has changed since it was listed") from None
            except DAMAGE as error:
                self._close(key)
                raise DatasetError(f"its table cannot be read there ({one_line(error)})") from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise DatasetError("the table holds no bytes for it")
        return data

    def _cursor(self, key: tuple[str, int, str], row: int) -> Cursor:
        cursor = self._open.get(key)
        if cursor and row < cursor.first:
            self._close(key)
            cursor = None
        if cursor is None:
            while len(self._open) >= CURSORS:
                self._close(next(iter(self._open)))
            cursor = self._open[key] = Cursor(*key)
        self._open.move_to_end(key)
        return cursor

    def _close(self, key: tuple[str, int, str]) -> None:
        if cursor := self._open.pop(key, None):
            cursor.close()


@dataclass(frozen=True, slots=True, eq=False)
class RowGroup:
    """Rows of a table that are stored together."""

    path: str
    name: str
    """of the table"""
    number: int
    first: int
    """number of its first row in the table"""
    columns: tuple[str, str]
    """of the two pictures"""
    cursors: Cursors


@dataclass(frozen=True, slots=True)
class PictureInTable(StoredPicture):
    """One picture of a row; rows are counted from 0."""

    group: RowGroup
    row: int
    """within the group"""
    side: int

    @property
    def name(self) -> str:
        return f"{row_name(self.group, self.row)} {PICTURES[self.side]}"

    def open(self) -> BinaryIO:
        group = self.group
        column = group.columns[self.side]
        return io.BytesIO(group.cursors.read(group.path, group.number, column, self.row))


def row_name(group: RowGroup, row: int) -> str:
    return f"{group.name} row {group.first + row}"


def read_parquet(path: Path, reading: Reading) -> Winners:
    """The winner of every pair in the tables at `path`, with the other picture as `losing`.

    MissingPackageError without pyarrow. A table that is damaged or lacks columns is left out.
    """
    if reading.ties not in list(TIES):
        raise ConfigError(f"unknown ties {reading.ties!r}; choose from {list(TIES)}")
    listing = Listing(reading, [], [])
    cursors = Cursors()
    for file, name in files_of(path, SUFFIXES, listing.left_out):
        try:
            with opened(file) as table:
                columns = checked_columns(table)
                for group in row_groups(file, name, table, columns, cursors):
                    listing.add(group, table)
        except DatasetError as error:
            listing.left_out.append(LeftOut(name, str(error)))
        except DAMAGE as error:
            reason = f"damaged, or no Parquet file ({one_line(error)})"
            listing.left_out.append(LeftOut(name, reason))
    return listing.winners_of(path.name)


def opened(path: str) -> "ParquetFile":
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingPackageError(
            "reading Parquet files needs pyarrow: pip install pyarrow (or 'seppo[parquet]')"
        ) from None
    return ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)


def checked_columns(table: "ParquetFile") -> tuple[str, str]:
    """The names under which the pictures' bytes are read. DatasetError if the columns are not Pick-a-Pic's."""
    schema = table.schema_arrow
    if missing := [name for name in REQUIRED if name not in schema.names]:
        raise DatasetError(
            f"the columns {', '.join(missing)} are missing; there are {', '.join(schema.names)}. "
            "Rename them to those of Pick-a-Pic v2"
        )
    kinds = {name: schema.field(name).type for name in schema.names}
    for names, fits, wanted in (
        (PICTURES, _holds_bytes, "the picture's bytes, or a struct with 'bytes'"),
        (LABELS, _is_number, "a number"),
        (("caption",), _is_text, "text"),
    ):
        for name in names:
            if not fits(_plain(kinds[name])):
                raise DatasetError(f"column {name} holds {kinds[name]}; it must hold {wanted}")
    first, second = (_bytes_column(name, kinds[name]) for name in PICTURES)
    return first, second


def _plain(kind: "DataType") -> "DataType":
    import pyarrow.types as kinds

    return kind.value_type if kinds.is_dictionary(kind) else kind


def _bytes_column(name: str, kind: "DataType") -> str:
    import pyarrow.types as kinds

    return f"{name}.bytes" if kinds.is_struct(kind) else name


def _holds_bytes(kind: "DataType") -> bool:
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)


def _is_number(kind: "DataType") -> bool:
    import pyarrow.types as kinds

    return any(fits(kind) for fits in (kinds.is_floating, kinds.is_integer, kinds.is_boolean))


def _is_text(kind: "DataType") -> bool:
    import pyarrow.types as kinds

    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def row_groups(
    path: str, name: str, table: "ParquetFile", columns: tuple[str, str], cursors: Cursors
) -> Iterator[RowGroup]:
    first = 0
    for number in range(table.num_row_groups):
        yield RowGroup(path, name, number, first, columns, cursors)
        first += table.metadata.row_group(number).num_rows


@dataclass
class Listing:
    """What was found in the tables so far."""

    reading: Reading
    winners: list[Winner]
    left_out: list[LeftOut]
    ties: int = 0

    def add(self, group: RowGroup, table: "ParquetFile") -> None:
        """Every row of the group."""
        without = rows_without_bytes(table, group)
        columns = ["caption", *LABELS]
        columns += [OPTIONAL] if OPTIONAL in table.schema_arrow.names else []
        row = 0
        for batch in table.iter_batches(
            LISTED_ROWS, row_groups=[group.number], columns=columns, use_threads=False
        ):
            texts = _as_bytes(batch.column("caption"))
            labels = zip(*(batch.column(name).to_pylist() for name in columns[1:]), strict=True)
            for text, (first, second, *labelled) in zip(texts, labels, strict=True):
                pair = (first, second) if all(labelled) else None
                self._add_row(group, row, text, pair, row in without)
                row += 1

    def _add_row(
        self,
        group: RowGroup,
        row: int,
        caption: bytes | None,
        labels: tuple[Any, Any] | None,
        incomplete: bool,
    ) -> None:
        try:
            if incomplete:
                raise DatasetError("a picture of its pair is missing in the table")
            side = winning_side(labels, self.reading.ties)
            if side is None:
                self.ties += 1
                return
            text = decoded(caption or b"") or self.reading.caption.strip()
            if not text:
                raise DatasetError("no caption in its row. Give one caption for all")
            winner, loser = PictureInTable(group, row, side), PictureInTable(group, row, 1 - side)
            self.winners.append(Winner(winner, text, losing=loser))
        except DatasetError as error:
            self.left_out.append(LeftOut(row_name(group, row), str(error)))
        self.reading.on_item(len(self.winners) + len(self.left_out))

    def winners_of(self, source: str) -> Winners:
        notes = []
        if self.ties:
            notes = [f"{self.ties} pairs were passed over, for nobody won (ties: skip)"]
        if notes and not self.winners:
            self.left_out.append(LeftOut(source, notes[0]))
        return Winners(self.winners, source, self.left_out, notes)


def _as_bytes(texts: Any) -> list[bytes | None]:
    """Undecoded, so that one text that is not UTF-8 does not take the others with it."""
    import pyarrow

    if isinstance(texts, pyarrow.DictionaryArray):
        texts = texts.dictionary_decode()
    return texts.cast(pyarrow.large_binary()).to_pylist()


def winning_side(labels: tuple[Any, Any] | None, ties: str) -> int | None:
    """0 or 1; None for a tie that is to be skipped. DatasetError gives the reason why nobody knows."""
    if labels is None or any(label is None or math.isnan(label) for label in labels):
        raise DatasetError("its pair has no label")
    first, second = labels
    return TIES[ties] if first == second else int(second > first)


def rows_without_bytes(table: "ParquetFile", group: RowGroup) -> set[int]:
    """Rows of the group that lack a picture, as far as the group's statistics tell that there are any."""
    return {row for column in group.columns for row in _nulls(table, group.number, column)}


def _nulls(table: "ParquetFile", group: int, column: str) -> Iterator[int]:
    # Of a damaged column, the footer's statistics may be asked only after a value was read and its type
    # compared: elsewhere pyarrow (26) raises, there it ends the whole process.
    next(table.iter_batches(1, row_groups=[group], columns=[column], use_threads=False), None)
    about = table.metadata.row_group(group)
    schema = [table.schema.column(place) for place in range(about.num_columns)]
    places = [place for place, stated in enumerate(schema) if stated.path == column]
    if any(about.column(at).physical_type != schema[at].physical_type for at in places):
        raise DatasetError(f"damaged: {column} is not stored as the type that its schema states")
    counts = [about.column(place).statistics for place in places]
    if not any(count and count.has_null_count and count.null_count for count in counts):
        return
    row = 0
    batches = table.iter_batches(
        PICTURE_ROWS, row_groups=[group], columns=[column], use_threads=False
    )
    for batch in batches:
        values = batch.column(0)
        values = values.flatten()[0] if column.endswith(".bytes") else values
        known = values.is_valid().to_pylist()
        yield from (row + index for index, is_known in enumerate(known) if not is_known)
        row += len(batch)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
