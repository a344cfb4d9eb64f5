"""Measured architectures as flat lists of numbers, which is what a message can carry beside arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corolla.search.measured import Measured
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace


def to_choices(architectures: Sequence[Architecture]) -> list[int]:
    """Return the choice indices of all architectures, one after the other."""
    return [index for architecture in architectures for index in architecture.choices]


def from_choices(space: SearchSpace, choices: Sequence[int]) -> list[Architecture]:
    """Invert `to_choices`; ValueError where they are not architectures of ``space``."""
    width = len(space.dimensions)
    if len(choices) % width:
        raise ValueError(f"{len(choices)} choices are no whole number of {width} dimensions each")
    rows = (choices[start : start + width] for start in range(0, len(choices), width))
    return [space.check(Architecture.of(row)) for row in rows]


def to_lists(measured: Sequence[Measured]) -> dict[str, list[Any]]:
    """Return ``choices``, ``losses`` and ``accuracies``."""
    return {
        "choices": to_choices([one.architecture for one in measured]),
        "losses": [float(one.loss) for one in measured],
        "accuracies": [float(one.accuracy) for one in measured],
    }


def from_lists(space: SearchSpace, lists: Mapping[str, Any]) -> list[Measured]:
    """Invert `to_lists`. ValueError, KeyError or TypeError where the lists do not fit each other."""
    architectures = from_choices(space, lists["choices"])
    losses, accuracies = list(lists["losses"]), list(lists["accuracies"])
    return [
        Measured(architecture, float(loss), float(accuracy))
        for architecture, loss, accuracy in zip(architectures, losses, accuracies, strict=True)
    ]
