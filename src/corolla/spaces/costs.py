"""What an architecture costs: parameters, multiply-accumulates, bytes on the wire, training memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from corolla.aggregation.statistics import is_statistic
from corolla.spaces.blank import ShapesOnly

_BYTES = 4  # float32
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one architecture.

    ``training_memory_mib`` estimates what one training step adds to a process: weights, gradients and
    two optimiser moments (AdamW; SGD with momentum needs one less), plus all activations kept for the
    backward pass.
    """

    params: int  # trainable numbers
    macs: int  # one image, forward
    payload_bytes: int  # one direction: parameters and BN statistics, float32
    activation_bytes: int  # kept for the backward pass of one batch
    training_memory_mib: float

    @classmethod
    def of(
        cls, *, shapes: Mapping[str, tuple[int, ...]], macs: int, activation_bytes: int
    ) -> Costs:
        """Derive all costs from the state_dict's shapes, the MACs and the kept activations."""
        numbers = sum(math.prod(shape) for shape in shapes.values())
        buffers = sum(math.prod(shape) for name, shape in shapes.items() if is_statistic(name))
        params = numbers - buffers
        training = _BYTES * (numbers + 3 * params) + activation_bytes
        return cls(
            params=params,
            macs=macs,
            payload_bytes=_BYTES * numbers,
            activation_bytes=activation_bytes,
            training_memory_mib=training / _MIB,
        )

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)


def weight_macs(
    shapes: Mapping[str, tuple[int, ...]], side: Callable[[str], int]
) -> dict[str, int]:
    """Return the multiply-accumulates of each array: a convolution multiplies each weight once per pixel.

    Args:
        shapes: of a state_dict.
        side: rows, and columns, of what the layer of an array gives; 1 of linear layers.

    """
    return {
        name: math.prod(shape) * side(name) ** 2 if len(shape) > 1 else 0
        for name, shape in shapes.items()
    }


def count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Return multiply-accumulates of a forward pass on a meta-device ``module`` (counted by torch)."""
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), ShapesOnly():
        module(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def saved_bytes(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Return bytes of the distinct tensors that autograd keeps in one training forward pass.

    Parameters are left out: they exist anyway. ``module`` may live on the meta device: only shapes count.
    """
    own = {id(parameter) for parameter in module.parameters()}
    # Meta storages have no address: tell tensors apart by the object that autograd saves, and keep
    # them alive meanwhile so that no id is used twice.
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in own:
            kept[id(base)] = base
        return tensor

    device = next(module.parameters()).device
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), ShapesOnly():
        module(torch.empty(shape, device=device)).sum()
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
