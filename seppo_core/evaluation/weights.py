"""Finding and reading a scorer's files: tensors in safetensors or, without running anything in them, .pt."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, MissingPackageError, ScorerError
from ..files import Seal, first_line, load_tensors

HUB = "hub:"
"""Begins the weights of a scorer that are to be fetched: `hub:openai/clip-vit-large-patch14`."""

WORDS = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")
"""Files of CLIP's tokenizer; the first, or the next two, are enough."""

SAFE_TORCH = (2, 6)
"""Older ones can be made to run what a .pt file says, whatever they are asked."""


@dataclass(frozen=True)
class Files:
    """Where everything lies that a scorer reads."""

    weights: Path
    config: Path | None
    """config.json beside the weights"""
    words: Path | None
    """folder of the tokenizer; None where no caption is read"""
    head: Path | None
    """layers on top of CLIP, where the scorer has them"""

    def __iter__(self) -> Iterator[Path]:
        """Every file that takes part in a score."""
        yield self.weights
        yield from (path for path in (self.config, self.head) if path)
        if self.words:
            yield from (path for name in WORDS if (path := self.words / name).is_file())

    def identity(self, known: dict[str, str]) -> str:
        """A hash over all of them; `known` holds those of files that were read before, and gains the others."""
        digest = hashlib.sha256()
        for path in self:
            status = path.stat()
            mark = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
            if mark not in known:
                known[mark] = Seal.of(path).sha256
            digest.update(f"{path.name} {known[mark]}\n".encode())
        return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of one file, on the CPU; ScorerError if it is damaged or holds anything else."""
    if path.suffix == ".safetensors":
        try:
            return load_tensors(path)[0]
        except CheckpointError as error:
            raise ScorerError(f"{error}; fetch it again") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise ScorerError(
            f"{path}: such a file is opened with torch {SAFE_TORCH[0]}.{SAFE_TORCH[1]} or later only, older "
            "ones could be made to run programs in it; update torch, or take a safetensors file"
        )
    try:
        with torch.inference_mode(False):
            content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # whatever a damaged pickle makes torch's reader raise
        raise ScorerError(
            f"{path}: cannot be read as plain tensors ({first_line(error)}); fetch it again, or take a "
            "safetensors file"
        ) from None
    return _named(path, content)


def _named(path: Path, content: Any) -> dict[str, Tensor]:
    """A checkpoint of a training run keeps its tensors under `state_dict`."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ScorerError(f"{path}: holds something else than named tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def words_of(weights: Path, fallback: Path | None) -> Path:
    """The folder with CLIP's tokenizer: the weights' own, else `fallback`; ScorerError if neither has one."""
    for folder in filter(None, (weights.parent, fallback)):
        if (folder / WORDS[0]).is_file() or all((folder / name).is_file() for name in WORDS[1:3]):
            return folder
    raise ScorerError(
        f"{weights.parent}: CLIP's tokenizer is missing; put tokenizer.json, or vocab.json and merges.txt, "
        "there (those of openai/clip-vit-large-patch14 fit every CLIP)"
    )


ANSWERS_WITHIN = 3.0
"""Seconds that are waited for the hub to say whether it has a repository; what it says later counts the next time."""

ASKED_AGAIN = 60.0
"""Seconds after which an answer is asked for anew."""

_answers: dict[str, tuple[float, Future]] = {}


def fetched(hub_id: str, patterns: tuple[str, ...]) -> Path:
    """A repository of the Hugging Face hub as a folder on this machine, fetched if it is not there yet."""
    hub = _hub(hub_id)
    try:
        return Path(hub.snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:  # whatever its clients of several versions raise
        raise _not_fetched(hub_id, error) from None


def fetched_before(hub_id: str, patterns: tuple[str, ...]) -> Path | None:
    """The folder of what this machine has of a repository, whole or not; None if it has nothing."""
    hub = _hub(hub_id)
    try:
        return Path(
            hub.snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=True)
        )
    except Exception:  # as above: not there, or not to be read
        return None


def ask_for(hub_id: str) -> None:
    """ScorerError unless the hub says, within a moment, that it has the repository; nothing is fetched."""
    hub, now = _hub(hub_id), time.monotonic()
    when, answer = _answers.get(hub_id, (0.0, None))
    if answer is None or now - when > ASKED_AGAIN or (answer.done() and answer.exception()):
        answer = _in_background(lambda: hub.HfApi().model_info(hub_id, timeout=ANSWERS_WITHIN))
        _answers[hub_id] = now, answer
    try:
        answer.result(ANSWERS_WITHIN)
    except FutureTimeout:
        late = TimeoutError("the hub does not answer; try again")
        raise _not_fetched(hub_id, late) from None
    except Exception as error:  # as above
        raise _not_fetched(hub_id, error) from None


def _in_background(call: Callable[[], Any]) -> Future:
    """What `call` gives; it keeps nobody waiting who ends the process."""
    answer: Future = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer


def _hub(hub_id: str) -> Any:
    """The hub's package; ConfigError for what is no name of a repository."""
    parts = hub_id.split("/")
    if len(parts) != 2 or not all(parts):
        raise ConfigError(
            f"{HUB}{hub_id}: write owner and name, as in {HUB}openai/clip-vit-base-patch32"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise MissingPackageError(
            "fetching weights needs the package huggingface_hub: pip install 'seppo[scorers]'"
        ) from None
    return huggingface_hub


def _not_fetched(hub_id: str, error: Exception) -> ScorerError:
    return ScorerError(
        f"{HUB}{hub_id} cannot be fetched ({first_line(error)}); download it by other means and give "
        "its folder"
    )
