"""What to do and to say when a device has no room left."""

import logging
import re
from dataclasses import dataclass

import torch

from ..devices import free_bytes, used_bytes
from ..errors import ShortageError
from .config import SePPOConfig

GIB = 2**30
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "bytes": 1}
ASKED = re.compile(r"allocate ([0-9.]+) (KiB|MiB|GiB|bytes)")
log = logging.getLogger(__name__)


class Footprint:
    """Says in the log what a step takes beside the model: after the first, and after one that took more."""

    GROWTH = 1.1
    """times what was said before it is said again"""
    LITTLE = 0.1
    """of a step's need: less room than this is worth a warning"""

    def __init__(self, device: torch.device, config: SePPOConfig) -> None:
        self.device, self.config = device, config
        self.said = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        used = used_bytes(device)
        self.before = used[0] if used else 0

    def look(self, step: int) -> None:
        used, free = used_bytes(self.device), free_bytes(self.device)
        if used is None or free is None:
            return
        now, highest = used
        took, left = highest - self.before, free - (highest - now)
        if took <= self.said * self.GROWTH:
            return
        self.said = took
        message = (
            f"step {step} took {took / GIB:.1f} GiB beside the model, and {self.device} had "
            f"{max(left, 0) / GIB:.1f} GiB left"
        )
        if left < took * self.LITTLE:
            log.warning(
                "%s: larger pictures may not fit. To need less: %s",
                message,
                "; ".join(remedies(self.config)),
            )
        else:
            log.info("%s", message)


@dataclass(frozen=True)
class Shortage:
    """What was measured when memory ran out, in bytes; 0 is not known."""

    device: str
    needed: int
    """at its highest, with what was asked for last"""
    total: int
    free: int

    @classmethod
    def of(cls, error: BaseException, device: torch.device) -> "Shortage":
        asked = ASKED.search(str(error))
        needed = int(float(asked[1]) * UNITS[asked[2]]) if asked else 0
        if device.type != "cuda":
            return cls(str(device), needed, 0, 0)
        free, total = torch.cuda.mem_get_info(device)
        return cls(str(device), torch.cuda.max_memory_allocated(device) + needed, total, free)

    def error(self, where: str, config: SePPOConfig) -> ShortageError:
        measured = f" on {self.device}"
        if self.total:
            measured = (
                f": it needs at least {self.needed / GIB:.1f} GiB on {self.device}, which has "
                f"{self.total / GIB:.1f} GiB, {self.free / GIB:.1f} GiB of them free"
            )
        elif self.needed:
            measured += f" (the last {self.needed / GIB:.2f} GiB could not be had)"
        return ShortageError(
            f"{where}: out of memory{measured}. To need less: {'; '.join(remedies(config))}. What was "
            "trained before this step is kept"
        )


def remedies(config: SePPOConfig) -> list[str]:
    """The settings that would lower the need, in the order in which they cost the least."""
    found = []
    if not config.compute.gradient_checkpointing:
        found.append("turn gradient_checkpointing on")
    if config.batch_size > 1:
        found.append(f"lower batch_size (now {config.batch_size}) and raise accumulation instead")
        if config.guard.out_of_memory != "split":
            found[-1] += ", or set out_of_memory to 'split'"
    if config.references.batch_size > 1 and config.loss.draws_samples:
        found.append(f"lower the references' batch_size (now {config.references.batch_size})")
    found.append("encode the winners at a lower resolution")
    if config.lora.rank > 4:
        found.append(f"lower the rank (now {config.lora.rank})")
    return [*found, "let ComfyUI load the model in fp8", "close other programs"]
