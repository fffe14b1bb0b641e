"""A checkpoint's manifest: which files make up a run at one step, and what each has to be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..files import Seal, is_whole
from ..settings import load_json


def file_name(folder: str, step: int) -> str:
    """Of a run's file, relative to the run directory."""
    return f"{folder}/step_{step:08d}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One manifest: the files that make up the run at a step."""

    step: int
    pool: list[int]
    seals: dict[str, Seal]
    """name relative to the run directory -> what the file has to be"""
    metrics: Seal
    """of metrics.jsonl as it was; it goes on after the checkpoint"""
    about: dict[str, Any]
    """run.json as it was"""

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """CheckpointError if this is no manifest, or names files elsewhere."""
        try:
            values = load_json(path)
            if not is_whole(values):
                raise CheckpointError(f"{path.name} is damaged")
            seals = {name: Seal(**seal) for name, seal in values["files"].items()}
            metrics = Seal(**values["metrics"])
            found = cls(values["step"], values["pool"], seals, metrics, values["about"])
            numbers = [found.step, *found.pool]
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path.name} is damaged ({error})") from None
        sound = all(type(n) is int for n in numbers) and type(found.about) is dict
        if not sound or set(seals) != {
            file_name("state", found.step),
            file_name("weights", found.step),
        } | {file_name("pool", step) for step in found.pool}:
            raise CheckpointError(f"{path.name} is damaged (it does not name its own files)")
        return found

    def complaint(self, directory: Path, thoroughly: bool) -> str:
        """What is wrong with its files; empty if they are whole."""
        checks = (s.complaint(directory / name, thoroughly) for name, s in self.seals.items())
        return next(filter(None, checks), "")
