"""Which of a client's errors say something about the architecture that it was sent."""

from __future__ import annotations

import torch

from corolla.tasks import DIVERGED, OUT_OF_MEMORY
from corolla.training.results import DivergedError

_NO_ROOM = ("DefaultCPUAllocator", "can't allocate memory")  # torch has no class of its own for it


def kind_of(error: BaseException) -> str | None:
    """Return the kind of failure that ``error`` is; None where the architecture has no part in it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_ROOM):
        return OUT_OF_MEMORY
    return DIVERGED if isinstance(error, DivergedError) else None
