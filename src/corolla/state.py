"""All that a strategy or a client has to remember, as named arrays and JSON-able values."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from corolla.types import Arrays

Keeps = Mapping[str, str]
"""Attribute -> its name in the state: see `Stateful`."""


@dataclass(eq=False)
class State:
    """A snapshot that can be written to disk and read back without loss.

    ``arrays`` holds numbers in bulk (weights, policies, momentum); ``meta`` holds the rest:
    str-keyed dicts, lists, strings, numbers, booleans and None.
    """

    arrays: Arrays = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> Arrays:
        """Return the arrays whose names begin with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }


class Stateful:
    """What has a state, and says of what: ``keeps`` names the attributes, and what each is called there.

    Each class adds its own; one that names an attribute of its parent anew gives it another name.
    Behind a name that ends with ``/`` are named arrays, or an object with a state of its own, whose meta has
    the name without the stroke; with the empty name such an object's state is not marked at all. Any other
    name is that of one array, or of JSON in the meta. Of an attribute that is None nothing is kept.
    What this cannot say, a class adds in `state` and `load_state`.
    """

    keeps: ClassVar[Keeps] = {}

    def state(self) -> State:
        """Return everything that is to be remembered, for the checkpoint."""
        arrays: Arrays = {}
        meta: dict[str, Any] = {}
        for attribute, name in self._declared().items():
            value = getattr(self, attribute)
            if isinstance(value, Stateful):
                own = value.state()
                arrays |= below(name, own.arrays)
                meta |= {name.removesuffix("/"): own.meta} if name else own.meta
            elif value is None:
                continue
            elif name.endswith("/"):
                arrays |= below(name, value)
            elif isinstance(value, np.ndarray):
                arrays[name] = value
            else:
                meta[name] = deepcopy(value)
        return State(arrays, meta)

    def load_state(self, state: State) -> None:
        """Put a checkpointed state back; the inverse of `state`.

        Raises: KeyError where it lacks something, or has what an attribute that is None would lose.
        """
        for attribute, name in self._declared().items():
            value = getattr(self, attribute)
            if isinstance(value, Stateful):
                value.load_state(
                    State(state.part(name), state.meta[name.removesuffix("/")]) if name else state
                )
            elif value is None:
                if name in state.arrays or name in state.meta or (name and state.part(name)):
                    raise KeyError(
                        f"{name}: {type(self).__name__}.{attribute} is None and takes no state"
                    )
            elif name.endswith("/"):
                setattr(self, attribute, state.part(name))
            elif isinstance(value, np.ndarray):
                setattr(self, attribute, state.arrays[name])
            else:
                setattr(self, attribute, deepcopy(state.meta[name]))

    @classmethod
    def _declared(cls) -> dict[str, str]:
        kinds = reversed(cls.__mro__)
        return {name: at for kind in kinds for name, at in vars(kind).get("keeps", {}).items()}


def below(prefix: str, arrays: Arrays) -> Arrays:
    """Return ``arrays`` under names that begin with ``prefix``: the inverse of `State.part`."""
    return {prefix + name: array for name, array in arrays.items()}
