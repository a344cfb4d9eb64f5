"""How much memory tensors hold together at the most, to the byte."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_of_tensors(work: Callable[[], object], alive: Iterable[Tensor]) -> int:
    """Return the peak of bytes of all tensors alive during ``work``: those in ``alive``, and new ones.

    Follows every tensor that is made, so it is slow and exact; scratch memory inside kernels is not seen.
    """
    live = LiveTensors()
    for tensor in alive:
        live.follow(tensor)
    with live:
        work()
    return live.peak_bytes


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up the memory behind all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._bytes = 0
        self._followed: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def follow(self, tensor: Tensor) -> None:
        """Count the memory behind a tensor, until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._followed:
            return
        self._followed.add(storage)
        size = storage.nbytes()
        self._bytes += size
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self._bytes -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and follow what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.follow(leaf)
        return result
