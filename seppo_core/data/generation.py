"""How a picture was generated, as far as its file tells."""

from dataclasses import dataclass


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
