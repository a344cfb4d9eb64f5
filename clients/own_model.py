"""A model that a client keeps on its own disk, with its optimiser's state, as part of a `State`."""

from __future__ import annotations

from typing import Any

from torch import nn

from corolla.records.packing import pack_tensors, unpack_tensors
from corolla.spaces.supernet import to_arrays
from corolla.state import State
from corolla.training.results import OptimizerState
from corolla.types import Arrays


def pack_model(model: nn.Module, optimizer_state: OptimizerState | None) -> State:
    """Return weights, buffers and optimiser state as one state."""
    packed = pack_optimizer(optimizer_state, "optimizer/")
    arrays = {f"model/{name}": array for name, array in to_arrays(model).items()}
    return State(arrays | packed.arrays, {"optimizer": packed.meta})


def unpack_model(state: State) -> tuple[Arrays, OptimizerState | None]:
    """Return what `pack_model` was given: the model's arrays, the optimiser's state."""
    return state.part("model/"), unpack_optimizer(state, "optimizer/", state.meta["optimizer"])


def pack_optimizer(optimizer_state: OptimizerState | None, prefix: str) -> State:
    """Return an optimiser's state under names that begin with ``prefix``."""
    packed = pack_tensors(optimizer_state) if optimizer_state else State({}, {})
    return State({prefix + name: array for name, array in packed.arrays.items()}, packed.meta)


def unpack_optimizer(state: State, prefix: str, meta: dict[str, Any]) -> OptimizerState | None:
    """Return what `pack_optimizer` was given; ``meta`` is its meta."""
    return unpack_tensors(State(state.part(prefix), meta)) if meta else None
