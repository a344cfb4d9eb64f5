"""What a search by proposals is: it draws for a client, is told the rewards, says what to deploy.

The search of the survey's general algorithm ("Improved PerFedNAS", algorithm 1): "use r_i to do some NAS
related operations". A search knows architectures and numbers; weights, clients and limits are the strategy's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corolla.search.evolution import Fits
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace
from corolla.state import Stateful
from corolla.types import ClientId


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """What every search is told of the run."""

    space: SearchSpace
    seed: int  # the run's
    max_draws: int  # draws until an architecture fits a client


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one proposal brought. ``misfits`` were drawn before it, did not fit and were never sent."""

    client: ClientId
    architecture: Architecture
    reward: float
    advantage: float  # the reward over its baseline, perhaps normalised
    misfits: Sequence[Architecture] = ()
    misfit_advantage: float = 0.0  # what an architecture that does not fit is worth in this round


class Proposals(Stateful, ABC):
    """Subclass it: what has a body here is what a search without such knowledge says.

    `draws` and `chosen` change nothing and depend on the state, their arguments and the run's seed alone, so
    that a round repeated after a crash is the same round.
    """

    learns: bool = True  # whether rewards change what is proposed or deployed

    @abstractmethod
    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Return all that was drawn until one fitted, at least one; only the last is sent."""

    def draws_of_round(
        self,
        cohort: Sequence[ClientId],
        rngs: Mapping[ClientId, np.random.Generator],
        *,
        fits: Mapping[ClientId, Fits],
    ) -> dict[ClientId, list[Architecture]]:
        """Return `draws` of every participant; a search may look at all of them together."""
        return {client: self.draws(client, rngs[client], fits=fits[client]) for client in cohort}

    @abstractmethod
    def observe(self, observations: Sequence[Observation]) -> None:
        """Learn from a round, one observation per client; their order must not matter."""

    @abstractmethod
    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return what ``client`` would deploy now, also for one that never took part."""

    def chosen_for_all(self) -> Architecture | None:
        """Return the one architecture that this search is about; None where every client has its own."""
        return None

    def metrics(self, clients: Sequence[ClientId]) -> dict[str, float]:
        """Return entries for metrics.jsonl, of a round in which ``clients`` (at least one) took part."""
        return {}

    def columns(self, client: ClientId, architecture: Architecture) -> dict[str, float]:
        """Return entries for clients.jsonl about a proposal, before its round is observed."""
        return {}

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Return entries for summary.json."""
        return {}


class Unlearning(Proposals):
    """Learns nothing. Unless it says otherwise, what it deploys is trained, the same in every round."""

    learns = False

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Return what is `chosen`: ``rng``, the round's, is not used."""
        return [self.chosen(client, fits=fits)]

    def observe(self, observations: Sequence[Observation]) -> None:
        """Learn nothing."""
