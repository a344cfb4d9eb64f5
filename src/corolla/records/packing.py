"""Nested tensors, such as an optimizer's ``state_dict()``, as a ``State`` and back.

The structure becomes a tree of tagged lists in ``meta["tree"]`` that JSON keeps exactly (integer
keys and tuples included), the numbers become arrays. What comes back equals what went in to the
bit, in dtype, shape and strides: fused optimizers care about the memory format of their buffers.
Tensors come back on the CPU, detached; subclasses of dict, list and tuple come back as dict, list
and tuple.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from corolla.state import State
from corolla.types import Arrays

_DTYPES = {
    str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)
}


def pack_tensors(nested: Any) -> State:
    """Return ``nested`` as a state.

    Args:
        nested: Dicts, lists and tuples of tensors, numpy arrays, numbers, booleans, strings and
            None. Keys of dicts may be strings, integers, floats, booleans or None.

    Raises: TypeError naming the place of the first value that cannot be packed.
    """
    arrays: Arrays = {}
    tree = _pack(nested, arrays, "value")
    return State(arrays=arrays, meta={"tree": tree})


def unpack_tensors(state: State) -> Any:
    """Return what ``pack_tensors`` was given; arrays of other names are not looked at.

    Raises: KeyError when an array or the tree is missing.
    """
    return _unpack(state.meta["tree"], state.arrays)


def _pack(value: Any, arrays: Arrays, where: str) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else ["float", repr(value)]
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value, arrays, where)
    if isinstance(value, np.ndarray | np.generic):
        name = _add(np.asarray(value).copy(), arrays)
        return ["numpy_scalar" if isinstance(value, np.generic) else "numpy", name]
    if isinstance(value, dict):
        items = []
        for key, item in value.items():
            if key is not None and type(key) not in (bool, int, str, float):
                raise TypeError(f"{where} has the key {key!r}, which cannot be packed")
            packed_key = _pack(key, arrays, where)
            items.append([packed_key, _pack(item, arrays, f"{where}[{key!r}]")])
        return ["dict", items]
    if isinstance(value, list | tuple):
        items = [_pack(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]
        return ["tuple" if isinstance(value, tuple) else "list", items]
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be packed")


def _pack_tensor(tensor: torch.Tensor, arrays: Arrays, where: str) -> Any:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(
            f"{where} is a tensor of layout {tensor.layout}; only dense ones can be packed"
        )
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    shape, strides = list(plain.shape), list(plain.stride())
    if _fills_its_memory(plain):
        flat = plain.as_strided((plain.numel(),), (1,))  # in memory order
    else:  # expanded or sliced: there is no memory of its own whose layout could be kept
        flat, strides = plain.reshape(-1), list(torch.empty(shape, device="meta").stride())
    dtype = str(plain.dtype).removeprefix("torch.")
    # bytes, as numpy has no bfloat16 and no float8
    name = _add(flat.contiguous().view(torch.uint8).numpy().copy(), arrays)
    return ["tensor", name, dtype, shape, strides]


def _unpack(node: Any, arrays: Arrays) -> Any:
    if not isinstance(node, list):
        return node
    kind, content, *rest = node
    if kind == "tensor":
        dtype, shape, strides = rest
        raw = torch.from_numpy(arrays[content].copy())
        # numpy gives empty arrays strides that torch does not view as another type
        flat = raw.view(_DTYPES[dtype]) if raw.numel() else torch.empty(0, dtype=_DTYPES[dtype])
        return flat.as_strided(shape, strides)
    if kind == "numpy":
        return arrays[content].copy()
    if kind == "numpy_scalar":
        return arrays[content][()]
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {_unpack(key, arrays): _unpack(item, arrays) for key, item in content}
    items = [_unpack(item, arrays) for item in content]
    return tuple(items) if kind == "tuple" else items


def _add(array: np.ndarray[Any, Any], arrays: Arrays) -> str:
    name = f"{len(arrays):06d}"
    arrays[name] = array
    return name


def _fills_its_memory(tensor: torch.Tensor) -> bool:
    """Return whether each entry has a place of its own and there are no gaps between them."""
    if tensor.numel() == 0:
        return False
    expected = 1
    dims = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((stride, size) for stride, size in dims if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
