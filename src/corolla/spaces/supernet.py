"""A subnet is a region of the supernet: what every weight-sharing space offers.

A new space writes two methods, `subnet` and the dimensions; the rest follows from the shapes of its
``state_dict``: leading channels, centre crops of kernels. Spaces whose cuts are others (one operation
per edge, rolling windows) override `regions`; spaces with closed forms override `shapes` and `macs`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from corolla.aggregation.regions import Place, Region, cut, leading_regions, place
from corolla.errors import Fault, RefusedError
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.blank import on_meta
from corolla.spaces.conv_layers import ConvLayer, conv_layers
from corolla.spaces.costs import Costs, count_macs, saved_bytes
from corolla.spaces.model_parts import Parts, parts_of
from corolla.spaces.space import SearchSpace
from corolla.types import Arrays

Shapes = dict[str, tuple[int, ...]]
MOST_PIXELS = 1024
"""A side of an image: a first layer of 16 channels holds 64 MiB for one of this size."""


class Network(TypedDict):
    """What every space is told, whatever its kind; constructors pass it on as ``**network``."""

    name: str  # of the space
    num_classes: int  # of the classifier
    in_channels: int  # of an image


class Supernet(SearchSpace):
    """A search space whose architectures share the weights of one supernet."""

    def __init__(
        self,
        *,
        name: str,
        dimensions: tuple[Dimension, ...],
        num_classes: int,
        in_channels: int,
        resolution: int,
    ) -> None:
        super().__init__(name=name, dimensions=dimensions)
        if num_classes < 2 or in_channels < 1 or resolution < 1:
            raise ValueError(
                f"space {name!r}: num_classes={num_classes} must be >= 2, in_channels={in_channels} "
                f"and resolution={resolution} >= 1"
            )
        if resolution > MOST_PIXELS:
            problem = f"is more than {MOST_PIXELS} pixels a side"
            remedy = f"Use {MOST_PIXELS} or fewer"
            raise RefusedError(Fault("resolution", resolution, problem, remedy))
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.resolution = resolution  # pixels a side of the images that clients hold
        self._shapes_of = lru_cache(maxsize=512)(self.shapes)
        self._regions_of = lru_cache(maxsize=512)(self._leading_regions)
        self._module_of = lru_cache(maxsize=1)(self.blank)  # to be measured: nothing is put in
        self._macs_of = lru_cache(maxsize=65536)(self.macs)
        self._convolutions_of = lru_cache(maxsize=512)(self._convolutions)
        self._costs_of = lru_cache(maxsize=4096)(self._measure)

    @abstractmethod
    def subnet(self, architecture: Architecture) -> nn.Module:
        """Build the plain module of ``architecture``; its state_dict names are the supernet's.

        Input ``(n, in_channels, h, w)`` floats, output ``(n, num_classes)`` logits. BatchNorm layers
        come from `corolla.spaces.layers.BatchNorm` (no ``num_batches_tracked``).
        """

    def supernet(self) -> nn.Module:
        """Build the module that holds every entry of the supernet; by default the largest subnet."""
        return self.subnet(self.largest())

    def blank(self, architecture: Architecture) -> nn.Module:
        """Build `subnet` on the meta device: shapes without values, for weights to be put in."""
        return on_meta(lambda: self.subnet(architecture))

    def shapes(self, architecture: Architecture) -> Shapes:
        """Return name -> shape of the subnet's state_dict, in its order."""
        return _shapes(self._module_of(architecture))

    @cached_property
    def supernet_shapes(self) -> Shapes:
        """Name -> shape of every entry of the supernet."""
        return _shapes(self._blank_supernet)

    @cached_property
    def parts(self) -> Parts:
        """Names of the supernet's arrays by part; a subnet's parts are those of its arrays' names.

        `corolla.spaces.model_parts` says what the parts are. A space that knows better overrides this.
        """
        return parts_of(self._blank_supernet, self.num_classes)

    @cached_property
    def _blank_supernet(self) -> nn.Module:
        return on_meta(self.supernet)

    def names_in(self, parts: Iterable[str]) -> frozenset[str]:
        """Return the names of all arrays in any of these `parts`, or below these modules (``stages.2``)."""
        found: set[str] = set()
        for part in parts:
            below = part.rstrip(".") + "."
            modules = (name for name in self.supernet_shapes if name.startswith(below))
            found.update(self.parts.get(part, modules))
        return frozenset(found)

    def regions(self, architecture: Architecture) -> Mapping[str, Region]:
        """Return for each tensor of the subnet the block of the supernet's tensor that it owns."""
        return self._regions_of(architecture)

    def _leading_regions(self, architecture: Architecture) -> Mapping[str, Region]:
        return leading_regions(self._shapes_of(self.check(architecture)), self.supernet_shapes)

    def initial_state(self, seed: int) -> Arrays:
        """Return freshly initialised weights of the whole supernet; the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.supernet()
        return to_arrays(module)

    def cut(self, state: Arrays, architecture: Architecture) -> Arrays:
        """Copy the subnet's weights out of the supernet's ``state``."""
        return cut(state, self.regions(architecture))

    def load(self, architecture: Architecture, arrays: Arrays) -> nn.Module:
        """Build the subnet around ``arrays`` (shared, not copied) without initialising it first.

        Raises:
            ValueError: names or shapes that are not the subnet's.

        """
        expected = self._shapes_of(self.check(architecture))
        given = {name: tuple(array.shape) for name, array in arrays.items()}
        if given != expected:
            wrong = sorted(set(given.items()) ^ set(expected.items()))[:4]
            raise ValueError(f"arrays do not fit the architecture of {self.name!r}; first: {wrong}")
        module = self.blank(architecture)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        module.load_state_dict(tensors, strict=True, assign=True)
        return module

    def macs(self, architecture: Architecture) -> int:
        """Return multiply-accumulates of one image's forward pass (convolutions, matrix products)."""
        module = self._module_of(architecture)
        return count_macs(module, (1, self.in_channels, self.resolution, self.resolution))

    def known_macs(self, architecture: Architecture) -> int:
        """Return `macs`, kept: a search under a cap asks for the same architectures again and again."""
        return self._macs_of(self.check(architecture))

    def cost(self, architecture: Architecture) -> int:
        """Return `known_macs`."""
        return self.known_macs(architecture)

    def activation_bytes(self, architecture: Architecture, batch_size: int) -> int:
        """Return bytes that one training step keeps for the backward pass, for ``batch_size`` images."""
        module = self._module_of(architecture)
        return saved_bytes(module, (batch_size, self.in_channels, self.resolution, self.resolution))

    def conv_layers(self, architecture: Architecture) -> list[ConvLayer]:
        """Return the convolutions of ``architecture`` in the order in which they run."""
        return list(self._convolutions_of(self.check(architecture)))

    def _convolutions(self, architecture: Architecture) -> list[ConvLayer]:
        module = self._module_of(architecture)
        return conv_layers(module, (1, self.in_channels, self.resolution, self.resolution))

    def costs(self, architecture: Architecture, *, batch_size: int = 32) -> Costs:
        """Return what the architecture costs to hold, send, run and train (cached)."""
        return self._costs_of(self.check(architecture), batch_size)

    def _measure(self, architecture: Architecture, batch_size: int) -> Costs:
        return Costs.of(
            shapes=self._shapes_of(architecture),
            macs=self._macs_of(architecture),
            activation_bytes=self.activation_bytes(architecture, batch_size),
        )


class ElasticSupernet(nn.Module):
    """The supernet as one module that runs at any architecture, for training it in one place.

    The parameters are the supernet's; a call cuts them (views, so gradients flow back into the whole)
    and runs the architecture's plain module on the cuts. Buffers are cut too, and BN statistics that a
    training pass updates are written back into the whole.

    A slice's gradient is as large as the whole tensor, mostly zeros; `lend` does without.
    """

    def __init__(self, space: Supernet, state: Arrays) -> None:
        super().__init__()
        self._space = space
        blank = on_meta(space.supernet)
        self._buffer_names = {name for name, _ in blank.named_buffers()}
        self._names = list(state)
        for name, array in state.items():
            tensor = torch.from_numpy(array.copy())
            key = name.replace(".", "/")  # a module's own names may hold no dots
            if name in self._buffer_names:
                self.register_buffer(key, tensor)
            else:
                self.register_parameter(key, nn.Parameter(tensor))
        self._plain = lru_cache(maxsize=64)(space.blank)
        self._entries = lru_cache(maxsize=64)(self._entries_of)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Return logits ``(n, num_classes)`` of ``architecture``'s subnet."""
        module = self._plain(architecture)
        module.train(self.training)
        regions = self._space.regions(architecture)
        tensors = {
            name: getattr(self, name.replace(".", "/"))[region] for name, region in regions.items()
        }
        return functional_call(module, tensors, (images,), strict=True)  # type: ignore[no-any-return]

    @contextmanager
    def lend(self, architecture: Architecture) -> Iterator[nn.Module]:
        """Give the plain module of ``architecture`` with this one's weights, to go backward through.

        BN statistics that move in it move here. Its gradients are added to those here, in its region,
        when the ``with`` ends well; weights that changed meanwhile are not seen. Its mode is the
        caller's to set, and it is of no use afterwards.

        Raises:
            ValueError: a region of the space is not a block of slices.

        """
        module = self._plain(architecture)
        entries = self._entries(architecture)
        parts: list[tuple[nn.Parameter, nn.Parameter, Region]] = []
        try:
            for entry in entries:
                whole, where = getattr(self, entry.name), entry.place
                if where.whole:
                    entry.owner[entry.key] = whole  # autograd adds to its gradient by itself
                elif not all(isinstance(index, slice) for index in where.region):
                    problem = f"its region {where.region} is not a block of slices"
                    raise ValueError(f"{entry.name.replace('/', '.')}: {problem}")
                elif isinstance(whole, nn.Parameter):
                    # Dense, in the whole's memory layout: convolutions would copy a slice twice.
                    part = nn.Parameter(whole.detach()[where.region].clone())
                    parts.append((whole, part, where.region))
                    entry.owner[entry.key] = part
                else:
                    entry.owner[entry.key] = whole[where.region]
            yield module
        finally:
            for entry in entries:  # modules are kept: with their weights they would fill the memory
                entry.owner[entry.key] = entry.blank
        _add_gradients(parts)

    def _entries_of(self, architecture: Architecture) -> list[_Entry]:
        regions = self._space.regions(architecture)
        entries = []
        for path, inner in self._plain(architecture).named_modules():
            for owner in (inner._parameters, inner._buffers):
                for key, blank in owner.items():
                    full = f"{path}.{key}" if path else key
                    if blank is None or full not in regions:  # a buffer that is in no state
                        continue
                    name = full.replace(".", "/")
                    where = place(regions, full, tuple(getattr(self, name).shape))
                    entries.append(
                        _Entry(cast("dict[str, Tensor]", owner), key, blank, name, where)
                    )
        return entries

    def state(self) -> Arrays:
        """Return copies of all weights and buffers under the supernet's names."""
        return {
            name: getattr(self, name.replace(".", "/")).detach().cpu().numpy().copy()
            for name in self._names
        }


class _Entry(NamedTuple):
    """One tensor of a subnet's plain module, and what it is a part of."""

    owner: dict[str, Tensor]  # of the module that it is in
    key: str  # there
    blank: Tensor  # of its shape, on the meta device
    name: str  # in the ElasticSupernet
    place: Place


def _add_gradients(parts: Sequence[tuple[nn.Parameter, nn.Parameter, Region]]) -> None:
    """Add each part's gradient to the whole's, in the part's region."""
    totals, gradients = [], []
    for whole, part, region in parts:
        if part.grad is None:
            continue
        if whole.grad is None:
            whole.grad = torch.zeros_like(whole)
        totals.append(whole.grad[region])
        gradients.append(part.grad)
    if totals:
        torch._foreach_add_(totals, gradients)


def to_arrays(module: nn.Module) -> Arrays:
    """Return the module's state_dict as numpy arrays, copied."""
    return {
        name: tensor.detach().cpu().contiguous().numpy().copy()
        for name, tensor in module.state_dict().items()
    }


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
