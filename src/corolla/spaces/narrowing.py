"""Leaving out channels of a plain network, layer by layer, and HeteroFL's Scaler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from corolla.spaces.layers import BatchNorm


class ScaledBatchNorm(BatchNorm):
    """BatchNorm behind HeteroFL's Scaler, which divides what comes in by the rate r, in training alone.

    The Scaler is to keep activations in a thin network as large as in the whole one. With BatchNorm right
    behind it, it does next to nothing, as that divides by their size again:

        (x/r - mean/r) / sqrt(var/r^2 + eps) = (x - mean) / sqrt(var + r^2 eps)

    So it is made here as what remains of it, a smaller eps: same outputs, same gradients, one pass over
    the activations less. The running statistics stay those of x, which scoring needs, where nothing is
    divided. Like the public code, nothing else is scaled: no convolution without BatchNorm behind it
    (shortcuts of MobileNetV2, squeeze-and-excite), whose outputs would be 1/r times as large in training
    as in scoring.
    """

    def __init__(self, channels: int, *, rate: float, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` normalised, of its shape."""
        eps = self.eps
        self.eps = eps * self.rate**2 if self.training else eps
        try:
            return super().forward(x)
        finally:
            self.eps = eps


def kept_channels(channels: int, rate: float) -> int:
    """Return ceil(rate * channels), at least 1; what a product is off by rounding does not count."""
    return max(1, math.ceil(rate * channels - 1e-9))


class Ends(NamedTuple):
    """What slicing must know of a network besides its layers' sizes."""

    readers: frozenset[str]  # layers that read the image
    last: str  # the one that gives the logits
    spans: Mapping[
        str, int
    ]  # layer that reads a flattened map -> its pixels, inputs of one channel


def ends(module: nn.Module, images: Tensor) -> Ends:
    """Return what runs first and last, and which layers read flattened maps.

    Raises:
        ValueError: a network that cannot be thinned: layers with other weights than convolutions,
            BatchNorm, GroupNorm of one group and linear layers have, channels that are joined, a last
            layer that is not linear.

    """
    calls: list[tuple[str, Tensor]] = []  # in the order in which layers run, with what they read
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            record = partial(_record, calls, name)
            hooks.append(layer.register_forward_pre_hook(record))
        elif [*layer.parameters(recurse=False)] and not _normalises(layer):
            problem = f"{name} ({type(layer).__name__}) has no channels that can be left out"
            remedy = "take a space of convolutions, BatchNorm and linear layers"
            raise ValueError(f"space.base: {problem}; {remedy}")
    with _NoConcatenation():
        module.eval()(images)
    for hook in hooks:
        hook.remove()
    if not calls or not isinstance(module.get_submodule(calls[-1][0]), nn.Linear):
        raise ValueError("space.base: its last layer is not linear; there are no rows of classes")
    # The first one reads the image, resized perhaps; others that do, read the same tensor.
    image = calls[0][1]
    readers = frozenset(name for name, read in calls if read is image)
    return Ends(readers, calls[-1][0], _spans(module, [name for name, _ in calls]))


def _spans(module: nn.Module, order: Sequence[str]) -> dict[str, int]:
    """Return the inputs per channel of linear layers that follow a convolution with more than one."""
    found = {}
    for before, name in pairwise(order):
        source, layer = module.get_submodule(before), module.get_submodule(name)
        if isinstance(source, nn.Conv2d) and isinstance(layer, nn.Linear):
            span, rest = divmod(layer.in_features, source.out_channels)
            if span > 1 and not rest:
                found[name] = span
    return found


def _record(calls: list[tuple[str, Tensor]], name: str, layer: nn.Module, args: Any) -> None:
    calls.append((name, args[0]))


def narrow(module: nn.Module, rate: float, found: Ends) -> None:
    """Leave the leading channels of every layer but the image's and the classes."""
    keep = partial(kept_channels, rate=rate)
    for name, layer in module.named_modules():
        reads = name in found.readers
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups > 1
            if depthwise and not layer.groups == layer.in_channels == layer.out_channels:
                raise ValueError(
                    f"space.base: {name} has {layer.groups} groups; take one, or depthwise"
                )
            inputs = layer.in_channels if reads else keep(layer.in_channels)
            outputs = keep(layer.out_channels)
            _lead(layer, outputs, None if depthwise else inputs)
            layer.in_channels, layer.out_channels = inputs, outputs
            layer.groups = outputs if depthwise else 1
        elif isinstance(layer, nn.Linear):
            span = found.spans.get(name, 1)
            channels = layer.in_features // span
            inputs = span * (channels if reads else keep(channels))
            outputs = layer.out_features if name == found.last else keep(layer.out_features)
            _lead(layer, outputs, inputs)
            layer.in_features, layer.out_features = inputs, outputs
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = keep(layer.num_features)
            _lead(layer, layer.num_features, None)
        elif isinstance(layer, nn.GroupNorm):
            layer.num_channels = keep(layer.num_channels)
            _lead(layer, layer.num_channels, None)


def scale(module: nn.Module, rate: float) -> None:
    """Put the Scaler before every BatchNorm; before GroupNorm it would be nothing but a smaller eps."""
    for name, layer in [*module.named_modules()]:
        if isinstance(layer, BatchNorm):
            scaled = ScaledBatchNorm(layer.num_features, rate=rate, affine=layer.affine)
            scaled.eps, scaled.momentum = layer.eps, layer.momentum
            scaled.load_state_dict(layer.state_dict(), assign=True)
            owner, _, entry = name.rpartition(".")
            setattr(module.get_submodule(owner), entry, scaled)


def _normalises(layer: nn.Module) -> bool:
    """Tell whether any number of channels can be left of a normalisation: not of several groups."""
    return isinstance(layer, nn.BatchNorm2d) or (
        isinstance(layer, nn.GroupNorm) and layer.num_groups == 1
    )


def _lead(layer: nn.Module, outputs: int, inputs: int | None) -> None:
    """Leave ``outputs`` entries of the first axis of the layer's tensors, ``inputs`` of the second."""
    for name, parameter in [*layer.named_parameters(recurse=False)]:
        block = parameter.detach()[:outputs]
        if block.dim() > 1 and inputs is not None:
            block = block[:, :inputs]
        layer.register_parameter(name, nn.Parameter(block.clone()))
    for name, buffer in [*layer.named_buffers(recurse=False)]:
        layer.register_buffer(name, buffer[:outputs].clone())


class _NoConcatenation(TorchFunctionMode):
    """Refuses networks that join channels: the leading ones of a whole are not those of its parts."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.cat, torch.concat, torch.concatenate, torch.hstack):
            raise ValueError("space.base: it joins channels; take a space that only adds them")
        return func(*args, **(kwargs or {}))
