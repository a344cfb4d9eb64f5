"""A network that writes networks: from a client's embedding z to arrays of its model.

pFedHN: Shamsian, Navon, Fetaya & Chechik, ICML 2021, https://arxiv.org/abs/2103.04628. A perceptron makes
features of z; a linear layer per array writes that array. With ``chunk`` all arrays are one row of chunks,
and one layer writes each of them, from the features times an embedding of the chunk's own. (Chunks: von
Oswald et al., ICLR 2020, https://arxiv.org/abs/1906.00695. There the perceptron reads both embeddings, and
its features are so alike that chunks overwrite each other: random factors are nearly orthogonal.)

Ours, too: what is written is added to the common initial weights, and the writing layers start at 0. So
before its first step every model is the initial one, and what a layer writes is learned, not drawn. Features
have a length of about 1 at first, and differ between clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from corolla.settings import Count, CountOrNone, Decay, NonNegative, Positive, settings
from corolla.training.available_memory import require_memory
from corolla.types import Arrays, generator

_MIB = 2**20
_HELD = 6  # weights and momenta before a round and after it, a gradient, what it is made of

_WEIGHTS = 0x49E7  # keeps the draws of its weights apart from others of the same seed

Width = Annotated[int, Field(ge=1, le=2**20)]
"""Numbers that a layer takes or gives."""


@settings
class HypernetworkSettings:
    """The hypernetwork, and the SGD that trains it."""

    embedding: Width | None  # numbers of a client's z; None: 1 + a quarter of the clients
    hidden: Width  # numbers between its layers
    layers: CountOrNone  # of hidden x hidden, after the one that reads z
    chunk: Count | None  # entries written at once, all by the same layer; None: a layer per array
    # 1: what it writes moves by a client's whole step, or more
    lr: Annotated[float, Field(gt=0, le=1)]
    momentum: Decay
    weight_decay: NonNegative
    clip_norm: Positive | None  # largest L2 norm of a step's whole gradient; None: unlimited


class Hypernetwork:
    """The shapes of a hypernetwork, and its arithmetic on named arrays; it holds no values itself.

    Args:
        settings: its sizes.
        outputs: name -> shape of what it writes; at least one.
        embedding: numbers of z.

    """

    def __init__(
        self, settings: HypernetworkSettings, outputs: Mapping[str, tuple[int, ...]], embedding: int
    ) -> None:
        self._settings, self._outputs = settings, dict(outputs)
        self.embedding = embedding
        self._sizes = {name: math.prod(shape) for name, shape in outputs.items()}
        self.outputs = sum(self._sizes.values())  # entries that it writes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of its own weights."""
        settings = self._settings
        chunk, hidden = settings.chunk, settings.hidden
        found: dict[str, tuple[int, ...]] = {}
        for number, width in enumerate([self.embedding, *[hidden] * settings.layers]):
            found |= {f"layer.{number}.weight": (hidden, width), f"layer.{number}.bias": (hidden,)}
        if chunk is not None:
            found["chunks"] = (-(-self.outputs // chunk), hidden)
            found["write.chunk.weight"] = (chunk, hidden)  # a bias would be the same for all chunks
            return found
        for name, size in self._sizes.items():
            found |= {f"write.{name}.weight": (size, hidden), f"write.{name}.bias": (size,)}
        return found

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def size(self) -> str:
        """Its size, in words."""
        mib = 4 * self.weights / _MIB
        return f"{self.weights:,} weights ({mib:,.0f} MiB) that write {self.outputs:,}"

    def require_memory(self, key: str, *, free_mib: float | None = None) -> None:
        """Raise RefusedError where it cannot be trained in this memory; ``key``: of its settings."""
        require_memory(
            _HELD * 4 * self.weights / _MIB,
            what=f"the hypernetwork has {self.size}, and momenta and gradients beside them",
            key=f"{key}.chunk",
            value=self._settings.chunk,
            remedy=f"Write in chunks ({key}.chunk=10000), lower {key}.hidden, or keep parts private",
            free_mib=free_mib,
        )

    def initial(self, seed: int) -> Arrays:
        """Return its weights before the first step; the same for the same seed."""
        settings, found = self._settings, {}
        rng = generator(seed, _WEIGHTS)
        for name, shape in self.shapes.items():
            kind, last = name.partition(".")[0], name.startswith(f"layer.{settings.layers}.")
            # A layer per array has a bias, of length 1 as features are; chunks' layer has this one instead.
            constant = name.endswith(".bias") and not (last and settings.chunk)
            if kind == "write" or constant:
                found[name] = np.zeros(shape, np.float32)
                continue
            found[name] = rng.standard_normal(shape, dtype=np.float32)
            if kind == "layer" and name.endswith(
                ".weight"
            ):  # relu halves all but what it reads first
                found[name] *= np.float32(math.sqrt((1 if ".0." in name else 2) / shape[1]))
            if last:
                found[name] *= np.float32(1 / math.sqrt(settings.hidden))
        return found

    def written(self, weights: Arrays, z: NDArray[np.floating]) -> Arrays:
        """Return h(z): what it adds to the model of the client whose embedding is ``z``."""
        with torch.no_grad():
            found = self._run(_tensors(weights), torch.from_numpy(z))
        return {name: tensor.numpy() for name, tensor in found.items()}

    def bounded(self, weights: Arrays, largest: float) -> bool:
        """Return whether it writes finite values for every z whose entries are within +-``largest``.

        What it writes is no larger than with the weights' sizes and the largest z. Finite there, a sum of
        products is finite everywhere.
        """
        sizes = {name: tensor.abs() for name, tensor in _tensors(weights).items()}
        with torch.no_grad():
            found = self._run(sizes, torch.full((self.embedding,), largest))
        return all(bool(torch.isfinite(tensor).all()) for tensor in found.values())

    def gradients(
        self, weights: Arrays, z: NDArray[np.floating], change: Arrays
    ) -> tuple[Arrays, NDArray[np.floating]]:
        """Return the vector-Jacobian products of h(z) with ``change``, by weights and by z.

        With ``change`` = h(z) - target it is the gradient of 1/2 ||h(z) - target||^2.
        """
        leaves = {name: t.detach().requires_grad_() for name, t in _tensors(weights).items()}
        own = torch.from_numpy(z).detach().requires_grad_()
        found = self._run(leaves, own)
        products = torch.autograd.grad(
            list(found.values()),
            [*leaves.values(), own],
            grad_outputs=[torch.from_numpy(change[name]) for name in found],
        )
        by_weights = dict(zip(leaves, (p.numpy() for p in products[:-1]), strict=True))
        return by_weights, products[-1].numpy()

    def _run(self, weights: Mapping[str, Tensor], z: Tensor) -> dict[str, Tensor]:
        settings, features = self._settings, z
        for number in range(1 + settings.layers):
            features = functional.relu(features) if number else features
            features = functional.linear(
                features, weights[f"layer.{number}.weight"], weights[f"layer.{number}.bias"]
            )
        if settings.chunk is None:
            return {
                name: functional.linear(
                    features, weights[f"write.{name}.weight"], weights[f"write.{name}.bias"]
                ).view(shape)
                for name, shape in self._outputs.items()
            }
        row = (weights["chunks"] * features) @ weights["write.chunk.weight"].T  # a line per chunk
        parts = torch.split(row.flatten()[: self.outputs], list(self._sizes.values()))
        return {n: p.view(s) for (n, s), p in zip(self._outputs.items(), parts, strict=True)}


def clipped(gradient: Arrays, most: float | None) -> Arrays:
    """Return the gradient, shortened to the L2 norm ``most`` where it is longer."""
    if most is None:
        return gradient
    norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradient.values()))
    if norm <= most:
        return gradient
    return {name: (g * (most / norm)).astype(g.dtype) for name, g in gradient.items()}


def stepped(
    values: Arrays, velocity: Arrays, gradient: Arrays, settings: HypernetworkSettings
) -> tuple[Arrays, Arrays]:
    """Return values and velocity after a step of SGD, as torch's; nothing is written to.

    v' = momentum v + (gradient + weight_decay value), value' = value - lr v'.
    """
    moved, moving = {}, {}
    for name, value in values.items():
        step = gradient[name] + settings.weight_decay * value
        if name in velocity:
            step += settings.momentum * velocity[name]
        moving[name] = step.astype(value.dtype, copy=False)
        moved[name] = (value - settings.lr * moving[name]).astype(value.dtype, copy=False)
    return moved, moving


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
