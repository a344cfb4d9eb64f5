"""An optimiser's state as a `State` and back.

Parameter, entry, dtype, shape and strides become tagged lists in ``meta["tree"]``, which JSON keeps exactly;
the numbers become arrays of bytes, as numpy has no bfloat16. What comes back equals what went in to the bit.
"""

from __future__ import annotations

from typing import Any

import torch

from corolla.state import State, below
from corolla.training.results import OptimizerState
from corolla.types import Arrays


def pack_optimizer(saved: OptimizerState | None, prefix: str) -> State:
    """Return an optimiser's state, its arrays under names that begin with ``prefix``.

    Of None, and of one that holds nothing, there are neither arrays nor meta. Tensors come back on the CPU,
    in plain memory layout; other entries must be JSON.
    """
    arrays: Arrays = {}
    tree = [
        [name, ["dict", [[entry, _packed(value, arrays)] for entry, value in entries.items()]]]
        for name, entries in (saved or {}).items()
    ]
    return State(below(prefix, arrays), {"tree": ["dict", tree]} if tree else {})


def unpack_optimizer(state: State, prefix: str, meta: dict[str, Any]) -> OptimizerState | None:
    """Return what `pack_optimizer` was given; ``meta`` is its meta.

    Raises: KeyError when an array or the tree is missing.
    """
    if not meta:
        return None
    arrays = state.part(prefix)
    return {
        name: {entry: _unpacked(node, arrays) for entry, node in entries}
        for name, (_, entries) in meta["tree"][1]
    }


def _packed(value: Any, arrays: Arrays) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    plain, name = value.detach().cpu().contiguous(), f"{len(arrays):06d}"
    arrays[name] = plain.reshape(-1).view(torch.uint8).numpy().copy()
    dtype = str(plain.dtype).removeprefix("torch.")
    return ["tensor", name, dtype, list(plain.shape), list(plain.stride())]


def _unpacked(node: Any, arrays: Arrays) -> Any:
    if not isinstance(node, list):
        return node
    _, name, dtype, shape, strides = node
    raw, kind = torch.from_numpy(arrays[name].copy()), vars(torch)[dtype]
    # numpy gives empty arrays strides that torch does not view as another type
    flat = raw.view(kind) if raw.numel() else torch.empty(0, dtype=kind)
    return flat.as_strided(shape, strides)
