"""From winning images to an encoded dataset: the one place that every host's encoders go through."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DatasetError
from ..files import NotStorableError, flatten
from ..identity import digest_value
from ..randomness import derived_seed, generator
from . import Conditioning, EncodedDataset, Example, all_paired
from .cache import DiskStore, MemoryStore, Store, at_hand, kept
from .latents import usable_latents
from .pictures import Picture
from .prepare import Clip, Preparation, Tally, is_clip, prepare
from .winners import LeftOut, Winner, Winners, nothing_usable

PREPARATION_VERSION = 2
"""Raised when `prepare` or `Picture.load` gives other pixels, so that old entries are not used."""

RECENT = 16
"""How many encoded values are kept in memory while a dataset is read."""

MOST_HELD_OUT = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded value: read when needed."""

    store: Store
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded winner; the picture itself is let go."""

    image: Entry
    losing: Entry | None
    texts: tuple[tuple[str, ...], ...]
    """the wordings of each of its captions, the given order first; under dropout the empty one is the last"""
    dropout: float
    repeats: int
    place: float
    """in [0, 1), from the winning picture's content alone: it is held out below the share"""


class StoredExamples(Sequence[Example]):
    """Examples read from where they were stored, when they are asked for."""

    def __init__(self, rows: Sequence[Row], texts: dict[str, Entry]) -> None:
        self.rows = rows
        self.texts = texts
        self._read = lru_cache(RECENT)(lambda entry: entry.store.read(entry.key))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self._example(index, self.rows[index].texts[0][0])

    def drawn(self, index: int, draw: torch.Generator) -> Example:
        """The example with one of its captions, each as likely as the others, or with the empty one.

        A caption's wordings share its chance.
        """
        row = self.rows[index]
        if torch.rand((), generator=draw) < row.dropout:
            return self._example(index, "")
        captions = row.texts[:-1] if row.dropout else row.texts
        place = torch.randint(len(captions), (), generator=draw) if len(captions) > 1 else 0
        worded = captions[place]
        return self._example(index, worded[torch.randint(len(worded), (), generator=draw)])

    def _example(self, index: int, caption: str) -> Example:
        row = self.rows[index]
        return Example(
            latents=self._read(row.image)["latents"],
            cond=self._read(self.texts[caption]),
            caption=caption,
            losing=self._read(row.losing)["latents"] if row.losing else None,
        )


class StoredDataset(EncodedDataset):
    """Winners whose captions may have several variants, all of them encoded."""

    examples: StoredExamples

    def drawn(self, position: int, *key: int | str) -> Example:
        return self.examples.drawn(self.order[position], generator(*key))


def encode(
    winners: Winners,
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[str], Conditioning],
    preparation: Preparation,
    *,
    image_identity: str,
    text_identity: str,
    cache: Path | None = None,
    held_out: float = 0.0,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> EncodedDataset:
    """Encode what the cache does not hold yet: first all images, then all texts, each text once.

    `encode_image` takes float32 [H, W, 3] in 0..1, of a clip [F, H, W, 3], and gives latents [C, H, W], or
    [C, F, H, W] of a video VAE. The identities name the encoders: another identity, another cache entry.
    Without `cache` everything stays in memory. `held_out` is the share of winners that becomes the
    dataset's `held_out`; the content of its picture alone decides on which side a winner is.
    `on_item(done, total)` runs after every image and text and may raise to stop; what is encoded by then
    stays. A picture that cannot be decoded is left out, with a warning.
    """
    if not 0 <= held_out <= MOST_HELD_OUT:
        raise ConfigError(f"held_out must lie in [0, {MOST_HELD_OUT}], got {held_out}")
    store = DiskStore(cache) if cache else MemoryStore()
    worded = [_texts(winner) for winner in winners]
    captions = list(dict.fromkeys(text for texts in worded for one in texts for text in one))
    total = len(winners) + len(captions)

    with kept(store):
        known = preparation.with_step(None)
        images = ImageEncoding(store, encode_image, known, image_identity)
        tally = Tally(known)
        rows, left_out = _image_rows(
            winners, worded, images, tally, lambda done: on_item(done, total)
        )
        texts = {}
        for done, caption in enumerate(captions, len(winners) + 1):
            texts[caption] = _text_entry(store, caption, encode_text, text_identity)
            on_item(done, total)
    dataset = _split(rows, texts, held_out, winners.source)
    dataset.left_out, dataset.notes = left_out, tally.notes()
    if held_out and dataset.held_out is None:
        dataset.notes.append(f"held_out={held_out} takes none of them; raise it, or add winners")
    return dataset


def _texts(winner: Winner) -> tuple[tuple[str, ...], ...]:
    """All that training may read for its caption; see `Row.texts`."""
    dropout = winner.wording is not None and winner.wording.dropout > 0
    return (*winner.wordings(), ("",)) if dropout else (*winner.wordings(),)


def _image_rows(
    winners: Winners,
    worded: Sequence[tuple[tuple[str, ...], ...]],
    images: "ImageEncoding",
    tally: Tally,
    on_item: Callable[[int], None],
) -> tuple[list[Row], list[LeftOut]]:
    """A row for each picture that can be decoded, and those that cannot. DatasetError if none can."""
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    for done, (winner, texts) in enumerate(zip(winners, worded, strict=True), 1):
        try:
            row = images.row(winner, texts)
        except DamagedPictureError as error:
            left_out.append(LeftOut(winner.name, str(error).removeprefix(f"{winner.name}: ")))
            log.warning("left out: %s", left_out[-1])
        else:
            tally.add(winner.name, row.image.store.outline(row.image.key)["pixels"])
            rows.append(row)
        on_item(done)
    if not rows:
        raise nothing_usable(winners.source, left_out)
    return rows, left_out


class DamagedPictureError(Exception):
    """A picture could not be read; the others can."""


@dataclass(frozen=True)
class ImageEncoding:
    """How pictures become stored latents."""

    store: Store
    encode_image: Callable[[Tensor], Tensor]
    preparation: Preparation
    identity: str

    def row(self, winner: Winner, texts: tuple[tuple[str, ...], ...]) -> Row:
        """The winner encoded, and its losing image at the same size."""
        with _damage_told():
            content = winner.content()
            image = self._key(winner.picture, content)
            losing = ""
            if winner.losing:
                losing = self._key(winner.losing, winner.losing.content(), image)
        if image not in self.store or (losing and losing not in self.store):
            self._encode(winner, image, losing)
        return Row(
            Entry(self.store, image),
            Entry(self.store, losing) if losing else None,
            texts,
            winner.wording.dropout if winner.wording else 0.0,
            winner.repeats,
            place=derived_seed("held out", content) / 2**63,
        )

    def _key(self, picture: Picture | Clip, content: str, fitted_to: str = "") -> str:
        settings = asdict(self.preparation)
        if not is_clip(picture):
            del settings["clip"]
        parts = (PREPARATION_VERSION, self.identity, settings, content, fitted_to)
        return _key("image", *parts)

    def _encode(self, winner: Winner, image: str, losing: str) -> None:
        with _damage_told():
            shown = prepare(winner.picture, self.preparation)
            against = prepare(winner.losing, self.preparation, shown) if losing else None
        if image not in self.store:
            self._write(image, shown, winner.picture.name)
        if losing and losing not in self.store:
            self._write(losing, against, winner.losing.name)

    def _write(self, key: str, prepared: Tensor, name: str) -> None:
        latents = usable_latents(self.encode_image(prepared), name)
        self.store.write(key, {"latents": latents, "pixels": list(prepared.shape[:-1])})


@contextmanager
def _damage_told() -> Iterator[None]:
    """What is wrong with a picture is told apart from what is wrong with the encoder."""
    try:
        yield
    except DatasetError as error:
        raise DamagedPictureError(str(error)) from None


def _text_entry(
    store: Store, caption: str, encode_text: Callable[[str], Conditioning], identity: str
) -> Entry:
    key = _key("text", identity, caption)
    if key in store:
        return Entry(store, key)
    cond = encode_text(caption)
    try:
        flatten(cond, {})
    except NotStorableError as error:
        log.info("the conditioning stays in memory, for it holds a %s", error)
        # It may depend on more than caption and encoder, so its content becomes part of its name.
        store, key = MemoryStore(), _key("text", key, digest_value(cond))
    store.write(key, at_hand(cond))
    return Entry(store, key)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _split(
    rows: list[Row], texts: dict[str, Entry], held_out: float, source: str
) -> EncodedDataset:
    """The dataset to train on, with its held-out winners; of those repeats do not count."""
    kept_out = [replace(row, repeats=1) for row in rows if row.place < held_out]
    trained = [row for row in rows if row.place >= held_out]
    if not trained:
        raise DatasetError(
            f"{source}: held_out={held_out} takes all {len(rows)} winners, nothing is left to train "
            "on. Lower it, or add winners"
        )
    return _dataset(trained, texts, _dataset(kept_out, texts) if kept_out else None)


def _dataset(
    rows: list[Row], texts: dict[str, Entry], held_out: EncodedDataset | None = None
) -> EncodedDataset:
    identity = hashlib.sha256((held_out.identity if held_out else "").encode())
    for row in rows:
        losing = row.losing.key if row.losing else ""
        captions = [texts[text].key for one in row.texts for text in one]
        parts = [row.image.key, losing, captions, row.dropout, row.repeats]
        if len(row.texts) > (2 if row.dropout else 1):
            parts.append([len(one) for one in row.texts])
        identity.update(_key(*parts).encode())
    return StoredDataset(
        StoredExamples(rows, texts),
        [row.image.store.outline(row.image.key)["latents"] for row in rows],
        identity=identity.hexdigest(),
        repeats=[row.repeats for row in rows],
        paired=all_paired(rows),
        held_out=held_out,
    )
