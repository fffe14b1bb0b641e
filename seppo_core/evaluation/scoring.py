"""Scoring pictures: a scorer's files are found, loaded when first needed, and its scores kept on disk."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..errors import ConfigError, ScorerError
from . import Embeddings, Scorer, make_scorer
from .cache import JsonCache
from .clip import Clip, load_clip
from .weights import HUB, Files, ask_for, fetched, fetched_before, read_tensors, words_of

VERSION = 1
"""Enters the names of kept scores; raised when the same files would give other scores."""

ONLY_IF_THERE = "pytorch_model.bin"
"""Is read where it lies, never fetched: the repositories hold the same as safetensors."""

OnItem = Callable[[int, int], None]
Layers = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Choice:
    """A scorer and the files that were found for it."""

    name: str
    files: Files

    def identity(self, cache: Path) -> str:
        """A name for everything that its scores depend on but picture and caption."""
        known = JsonCache(cache / "weights.json", str)
        digest = self.files.identity(known.values)
        known.save()
        return f"{self.name}-{VERSION}-{digest[:24]}"

    def load(self, device: torch.device) -> "Loaded":
        scorer = make_scorer(self.name)
        clip = load_clip(self.files, scorer.layout(self.files), device)
        head: Layers = ()
        if self.files.head:
            head = read_head(self.files.head, clip.network.config.projection_dim, device)
        return Loaded(scorer, clip, head)


@dataclass(frozen=True)
class Loaded:
    scorer: Scorer
    clip: Clip
    head: Layers

    def __call__(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """A score for each picture with its caption; ScorerError if one is no number."""
        images = self.clip.images(pictures)
        texts = self._texts(captions) if self.scorer.reads_captions else images[:, :0]
        found = self.scorer.formula(Embeddings(images, texts, self.clip.scale, self.head))
        if not found.isfinite().all():
            raise ScorerError(
                f"{self.scorer.folder}: its weights give no numbers, they are damaged; fetch them again"
            )
        return found.cpu().tolist()

    def _texts(self, captions: Sequence[str]) -> Tensor:
        """Each different caption goes through the network once."""
        different = list(dict.fromkeys(captions))
        return self.clip.captions(different)[[different.index(caption) for caption in captions]]


def read_head(path: Path, inputs: int, device: torch.device) -> Layers:
    """The layers of the aesthetic predictor in their order, from `inputs` values to one.

    ScorerError unless each leads to the next. Between them lie dropouts only, which do nothing here; a
    predictor with ReLUs has its layers elsewhere and is refused.
    """
    tensors = {name: tensor.float().to(device) for name, tensor in read_tensors(path).items()}
    wanted = [f"layers.{place}" for place in (0, 2, 4, 6, 7)]
    if set(tensors) != {f"{name}.{part}" for name in wanted for part in ("weight", "bias")}:
        raise ScorerError(
            f"{path}: is not the aesthetic predictor with linear layers alone; take the file whose name ends "
            "in linearMSE.pth"
        )
    layers = tuple((tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in wanted)
    sizes = [inputs, *(weight.shape[0] for weight, _ in layers)]
    if sizes[-1] != 1 or [tuple(weight.shape[1:]) for weight, _ in layers] != [
        (size,) for size in sizes[:-1]
    ]:
        raise ScorerError(
            f"{path}: does not fit the CLIP beside it, which gives {inputs} values; take the one it was "
            "made for, openai/clip-vit-large-patch14"
        )
    return layers


# Finding


def find(name: str, place: Path, words: Path | None = None) -> Choice:
    """The scorer with its files: those in the folder `place`, or around the weights `place`.

    `words` is a folder with CLIP's tokenizer, for weights that bring none. ScorerError says what to get.
    """
    scorer = make_scorer(name)
    folder = place.parent if place.is_file() else place
    weights = place if place.is_file() else _first(folder, scorer.weights)
    head = _first(folder, scorer.head)
    for found, names in ((weights, scorer.weights), (head, scorer.head)):
        if names and found is None:
            raise ScorerError(
                f"{name}: there is no {names[0]} in {folder}. Get {scorer.get}, and put it there"
            )
    config = weights.with_name("config.json")
    return Choice(
        name,
        Files(
            weights,
            config=config if config.is_file() else None,
            words=words_of(weights, words) if scorer.reads_captions else None,
            head=head,
        ),
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((path for name in names if (path := folder / name).is_file()), None)


def fetch(name: str, weights: str) -> Path:
    """The folder of a scorer given as `hub:owner/name`, fetched if it is not on this machine yet."""
    return fetched(weights.removeprefix(HUB), _fetched_files(name))


def require_fetchable(name: str, weights: str) -> None:
    """ScorerError if the weights are not on this machine and the hub does not have them; fetches nothing."""
    hub_id = weights.removeprefix(HUB)
    here = fetched_before(hub_id, _fetched_files(name))
    if here is None or _first(here, make_scorer(name).weights) is None:
        ask_for(hub_id)


def _fetched_files(name: str) -> tuple[str, ...]:
    scorer = make_scorer(name)
    files = [file for file in (*scorer.weights, *scorer.head) if file != ONLY_IF_THERE]
    words = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
    return (*files, *words)


def choices(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(scorer, weights) of every `scorer` or `scorer=weights`; ConfigError for unknown or repeated ones."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        name, _, weights = (part.strip() for part in line.partition("="))
        make_scorer(name)
        if name in found:
            raise ConfigError(f"scorer {name!r} is named twice; name each once")
        found[name] = weights
    return list(found.items())


# Scoring


@torch.no_grad()
def score(
    choice: Choice,
    pictures: Iterable[Image.Image],
    captions: Sequence[str],
    *,
    cache: Path,
    device: torch.device,
    batch_size: int = 8,
    on_item: OnItem = lambda done, total: None,
) -> list[float]:
    """A score for each picture with its caption, in their order; those in `cache` are not computed again.

    The scorer is loaded when a score is missing. `on_item(done, total)` runs after each picture and may raise
    to stop; what was computed until then is kept.
    """
    kept = JsonCache(cache / f"{choice.identity(cache)}.json", float)
    reads_captions = make_scorer(choice.name).reads_captions
    keys: list[str] = []
    waiting: dict[str, tuple[Image.Image, str]] = {}
    loaded: Loaded | None = None
    try:
        for picture, caption in zip(pictures, captions, strict=True):
            keys.append(content(picture, caption if reads_captions else ""))
            if keys[-1] not in kept.values:
                waiting[keys[-1]] = picture, caption
            if len(waiting) == batch_size or (waiting and len(keys) == len(captions)):
                loaded = loaded or choice.load(device)
                kept.values.update(
                    zip(waiting, loaded(*zip(*waiting.values(), strict=True)), strict=True)
                )
                waiting = {}
            on_item(len(keys), len(captions))
    finally:
        kept.save()
    return [kept.values[key] for key in keys]


def require_loadable(choice: Choice, cache: Path) -> None:
    """ScorerError if the weights cannot be used; those that gave scores before are not tried again."""
    if not (cache / f"{choice.identity(cache)}.json").is_file():
        choice.load(torch.device("cpu"))


def content(picture: Image.Image, caption: str) -> str:
    """A hash over what is to be seen, whatever file it came in, and the caption."""
    rgb = picture.convert("RGB")
    digest = hashlib.sha256(f"{rgb.size} ".encode())
    digest.update(rgb.tobytes())
    digest.update(caption.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
