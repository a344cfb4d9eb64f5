"""How much memory a training step holds: counted on the CPU, asked of the allocator on CUDA."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20


@contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[dict[int, int]]:
    """Collect what autograd keeps of a forward pass in the block: address -> bytes.

    Views count once, as the memory behind them; the model's own parameters and buffers not at all.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in _held(model)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def peak_of_tensors(work: Callable[[], object], alive: Iterable[Tensor]) -> int:
    """Return the peak of bytes of all tensors alive during ``work``: those in ``alive``, and new ones.

    Follows every tensor that is made, so it is slow and exact; scratch memory inside kernels is not seen.
    """
    live = _LiveTensors()
    for tensor in alive:
        live.follow(tensor)
    with live:
        work()
    return live.peak_bytes


class MemoryCount:
    """Counts what one training holds, from its first step, which has the largest batch."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
        self._model, self._optimizer, self._device = model, optimizer, device
        self._counted = False
        self._activations = self._gradients = 0
        self._others = 0  # on CUDA: what was there before us
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._others = torch.cuda.memory_allocated(device) - _bytes(_held(model))
            self._counted = True

    @contextmanager
    def first_forward(self) -> Iterator[None]:
        """Count the tensors that the block keeps for the backward pass; later calls do nothing."""
        if self._counted:
            yield
            return
        with saved_for_backward(self._model) as kept:
            yield
        self._activations = sum(kept.values())

    def after_first_step(self) -> None:
        """Count the gradients; once."""
        if not self._counted:
            parameters = self._model.parameters()
            self._gradients = _bytes([p.grad for p in parameters if p.grad is not None])
            self._counted = True

    def tensors(self) -> list[Tensor]:
        """Return what stays between two steps."""
        return _held(self._model) + _state_tensors(self._optimizer)

    def resident_mib(self) -> float:
        """Return what stays between two steps; on CUDA without the optimiser's, which `peak_mib` has."""
        if self._device.type == "cuda":
            return _bytes(_held(self._model)) / MIB
        return _bytes(self.tensors()) / MIB

    def peak_mib(self) -> float:
        """Return the count, or what the CUDA allocator says."""
        if self._device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self._device) - self._others) / MIB
        return self.resident_mib() + (self._gradients + self._activations) / MIB


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up the memory behind all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._bytes = 0
        self._followed: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def follow(self, tensor: Tensor) -> None:
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


def _held(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _state_tensors(optimizer: Optimizer) -> list[Tensor]:
    return [
        value
        for entries in optimizer.state.values()
        for value in entries.values()
        if isinstance(value, Tensor)
    ]


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
