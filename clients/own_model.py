"""A model that a client keeps on its own disk, by round, with its optimiser's state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from torch import nn

from corolla.errors import RefusedError
from corolla.records.client_store import ClientStore
from corolla.records.errors import CorruptStateError
from corolla.records.packing import pack_optimizer, unpack_optimizer
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet, to_arrays
from corolla.state import State
from corolla.training.results import OptimizerState
from corolla.types import Arrays, ClientId, diverged, shapes_of

_LOG = logging.getLogger("corolla")
_T = TypeVar("_T")


@dataclass(kw_only=True)
class OwnModel:
    """A client's own model as it was before a round, or after it."""

    architecture: Architecture
    model: nn.Module
    optimizer: OptimizerState | None = None
    fresh: bool = False  # it was never trained
    restarted: bool = False  # it was lost, in this round or an earlier one

    def to_state(self) -> State:
        """Return what goes to the disk."""
        packed = pack_optimizer(self.optimizer, "optimizer/")
        arrays = {f"model/{name}": array for name, array in to_arrays(self.model).items()}
        meta = {
            "optimizer": packed.meta,
            "architecture": self.architecture.to_list(),
            "restarted": self.restarted,
        }
        return State(arrays | packed.arrays, meta)

    @classmethod
    def from_state(cls, space: Supernet, state: State) -> Self:
        """Return what was saved. KeyError or ValueError where it is not such a state."""
        return cls(**cls._fields(space, state))

    @classmethod
    def _fields(cls, space: Supernet, state: State) -> dict[str, Any]:
        architecture = Architecture.of(state.meta["architecture"])
        return {
            "architecture": architecture,
            "model": space.load(architecture, state.part("model/")),
            "optimizer": unpack_optimizer(state, "optimizer/", state.meta["optimizer"]),
            "restarted": bool(state.meta["restarted"]),
        }


def newest_usable(
    store: ClientStore,
    client: ClientId,
    before_round: int,
    use: Callable[[State], _T],
    *,
    what: str,
) -> tuple[_T | None, bool]:
    """Return what ``use`` makes of the newest whole state; and whether all there are were damaged.

    One that is damaged, not finite (the server refused that training, too), or that ``use`` refuses by
    KeyError, TypeError or ValueError, is passed over for the one before, as if the client had missed its
    round. ``what`` is lost says the log, as errors.

    Raises:
        RefusedError: a state of another experiment, or of a newer release: nothing is overwritten.

    """
    damaged = False
    for round, read in store.states(client, before_round):
        try:
            usable = use(_sane(read()))
        except RefusedError:
            raise
        except (CorruptStateError, KeyError, TypeError, ValueError) as error:
            _LOG.error("client %s: %s of round %d cannot be used: %s", client, what, round, error)
            damaged = True
            continue
        if damaged:
            _LOG.error("client %s: %s GOES BACK to what it was after round %d", client, what, round)
        return usable, False
    if damaged:
        _LOG.error("client %s: %s STARTS ANEW", client, what)
    return None, damaged


def _sane(state: State) -> State:
    for name, array in state.arrays.items():
        problem = diverged(array)
        if problem is not None:
            raise ValueError(f"{name} {problem}")
    return state


def kept_arrays(
    store: ClientStore,
    client: ClientId,
    before_round: int,
    like: Arrays,
    *,
    what: str,
    start: Arrays | None = None,
) -> State:
    """Return the newest arrays of the names and shapes of ``like`` that a client kept.

    Without any ``start``, by default zeros. ``restarted`` in the meta: what there was is lost, then or
    earlier. Otherwise as `newest_usable`.
    """

    def usable(state: State) -> State:
        if shapes_of(state.arrays) != shapes_of(like):
            raise ValueError("is of another model")
        return State(state.arrays, {"restarted": bool(state.meta["restarted"])})

    variate, lost = newest_usable(store, client, before_round, usable, what=what)
    zeros = {name: np.zeros_like(array) for name, array in like.items()}
    return variate or State(zeros if start is None else dict(start), {"restarted": lost})
