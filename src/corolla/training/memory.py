"""How much memory a training step holds: counted on the CPU, asked of the allocator on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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


def backward(loss: Tensor) -> None:
    """Run a backward pass through what `saved_for_backward` may have counted.

    Ctrl-C in the middle leaves nodes in the queue of this thread, and our hooks in them. torch would free
    them after the end of Python, which is a segmentation fault and no exit code 130 (torch 2.15, CPU):
    another pass empties the queue.
    """
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except BaseException:
        torch.zeros((), requires_grad=True).backward()  # type: ignore[no-untyped-call]
        raise


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
