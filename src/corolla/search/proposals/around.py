"""A search by proposals around another one: it passes on whatever it does not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from corolla.search.evolution import Fits
from corolla.search.proposals.protocol import Observation, Proposals
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps
from corolla.types import ClientId


class Around(Proposals):
    """Draws in its own way, and does otherwise as ``search`` does."""

    keeps: ClassVar[Keeps] = {"_search": ""}

    def __init__(self, search: Proposals) -> None:
        self._search = search
        self.learns = search.learns

    def observe(self, observations: Sequence[Observation]) -> None:
        """Have the search learn, of what was trained."""
        self._search.observe(observations)

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what the search deploys."""
        return self._search.chosen(client, fits=fits)

    def chosen_for_all(self) -> Architecture | None:
        """Return the search's."""
        return self._search.chosen_for_all()

    def metrics(self, clients: Sequence[ClientId]) -> dict[str, float]:
        """Return the search's."""
        return self._search.metrics(clients)

    def columns(self, client: ClientId, architecture: Architecture) -> dict[str, float]:
        """Return the search's."""
        return self._search.columns(client, architecture)

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Return the search's."""
        return self._search.describe(client)
