"""What a device has left, and letting go of what it holds."""

import gc
import re

import torch

WORDS = re.compile(r"out of memory|DefaultCPUAllocator|_ALLOC_FAILED|OUT_OF_(DEVICE|HOST)_MEMORY")
"""What the runtime errors say by which devices and their libraries tell that memory ran out."""
CUDA_MEMORY_ALLOCATION = 2
"""`error_code` of torch's AcceleratorError then."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python says with this error that memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    code = getattr(error, "error_code", None)
    known = code == CUDA_MEMORY_ALLOCATION or WORDS.search(str(error))
    return isinstance(error, RuntimeError) and bool(known)


def drop_aborted_backward(device: torch.device) -> None:
    """Let go of the graph, and so of the activations, that a backward pass ended by an error left behind.

    Torch keeps them until the next backward pass on this device, so here is one. A device may tell of an
    error twice, the second time in the first thing asked of it afterwards.
    """
    for attempt in range(2):
        try:
            with torch.enable_grad():
                torch.zeros((), device=device, requires_grad=True).mul(1).backward()
            return
        except RuntimeError:
            if attempt:
                raise


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    drop_aborted_backward(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int | None:
    """What `device` could still give, with what torch holds back for itself; None where it does not tell."""
    if device.type != "cuda":
        return None
    held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held_back


def used_bytes(device: torch.device) -> tuple[int, int] | None:
    """What torch holds on `device` now and at its highest so far; None where it does not tell."""
    if device.type != "cuda":
        return None
    return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
