"""What a search has measured, on the client's own disk: one that was cut off, or too late, goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from clients.own_model import newest_usable
from clients.site import Site
from corolla.data.images import Images
from corolla.search.measured import Measured, from_lists, to_lists
from corolla.state import State
from corolla.types import Arrays


class SearchMemory:
    """The measured pairs of one client. ``of`` says what they were measured in and on.

    Rounds do not tell whether pairs are still true: the next round of a search measures in the same supernet,
    another run in the same folder does not. `measured_on` does.
    """

    def __init__(self, site: Site, *, of: str) -> None:
        self._site, self._of = site, of

    def load(self, server_round: int) -> list[Measured]:
        """Return what this search had measured by ``server_round``; what is damaged goes back, or is lost.

        RefusedError: it is of another experiment, or of another format.
        """
        store = self._site.store
        if store is None:
            return []
        client, before = self._site.client, server_round + 1
        found, _ = newest_usable(store, client, before, self._pairs, what="its saved search")
        return found or []

    def _pairs(self, state: State) -> list[Measured]:
        still_true = state.meta["measured_on"] == self._of
        return from_lists(self._site.space, state.meta) if still_true else []

    def save(self, server_round: int, measured: Sequence[Measured]) -> None:
        """Keep all that was measured so far, where there is a place for it."""
        if self._site.store is not None:
            state = State({}, {"measured_on": self._of, **to_lists(measured)})
            self._site.store.save(self._site.client, server_round, state)


def measured_on(supernet: Arrays, splits: Sequence[Images], *settings: int) -> str:
    """Return a fingerprint of what a measured loss depends on: weights, images, settings of the scoring."""
    fingerprint = hashlib.sha256(repr(settings).encode())
    arrays = [(name, supernet[name]) for name in sorted(supernet)]
    for number, images in enumerate(splits):
        arrays.append((f"{number}/labels", images.labels.numpy()))
        arrays.append((f"{number}/pixels", images.pixels.numpy()))
    for name, array in arrays:
        fingerprint.update(f"{name} {array.dtype} {array.shape} ".encode())
        fingerprint.update(np.ascontiguousarray(array).data)
    return fingerprint.hexdigest()
