"""How a picture was generated, as far as its file tells."""

from dataclasses import dataclass

from ..errors import DatasetError


class NoPromptError(DatasetError):
    """A file or a graph tells no prompt; the message is the reason alone."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Settings of the sampler that made a picture; None is not known."""

    prompt: str = ""
    negative: str = ""
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    model: str | None = None
    """name of the file"""
