"""What each client's architectures were worth so far, and a forest that predicts it for others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corolla.config.build import settings_of
from corolla.errors import Fault, RefusedError, nearest
from corolla.search.measured import Measured
from corolla.search.predictor import ForestPredictor, ForestSettings
from corolla.search.proposals.protocol import Observation, SearchContext
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace
from corolla.state import State
from corolla.types import ClientId, client_order

Predict = Callable[[Sequence[Architecture]], NDArray[np.float64]]
"""Gives the reward that a client can expect of each architecture, higher is better."""


class Pairs:
    """All (architecture, reward) pairs, per client in the order of its rounds."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._pairs: dict[ClientId, list[tuple[Architecture, float]]] = {}

    @property
    def clients(self) -> list[ClientId]:
        """Clients with a pair, in their fixed order."""
        return sorted(self._pairs, key=client_order)

    def add(self, observations: Sequence[Observation]) -> None:
        """Remember a round, one observation per client."""
        for seen in observations:
            pair = (seen.architecture, seen.reward)
            self._pairs.setdefault(seen.client, []).append(pair)

    def count(self, client: ClientId) -> int:
        """Return how many rounds of the client were observed."""
        return len(self._pairs.get(client, []))

    def mean(self, client: ClientId) -> float:
        """Return the mean of the client's rewards, 0 before there was one."""
        rewards = [reward for _, reward in self._pairs.get(client, [])]
        return math.fsum(rewards) / max(len(rewards), 1)

    def rewards(self, client: ClientId) -> dict[Architecture, float]:
        """Return the client's mean reward of each architecture, in the order of the choices."""
        return _means(self._pairs.get(client, []))

    def pooled(self) -> dict[Architecture, float]:
        """Return each architecture's mean over all clients, every reward less its client's mean.

        A client with hard data would otherwise make whatever it happened to draw look bad.
        """
        return _means(
            (architecture, reward - mean)
            for client in self.clients
            for mean in [self.mean(client)]
            for architecture, reward in self._pairs[client]
        )

    def state(self) -> State:
        """Return all pairs; ``owner`` is a place in ``meta["clients"]``."""
        clients = self.clients
        rows = [
            (number, *pair) for number, client in enumerate(clients) for pair in self._pairs[client]
        ]
        choices = [architecture.choices for _, architecture, _ in rows]
        shape = (len(rows), len(self._space.dimensions))
        arrays = {
            "owner": np.array([number for number, _, _ in rows], dtype=np.int64),
            "choices": np.array(choices, dtype=np.int64).reshape(shape),
            "reward": np.array([reward for _, _, reward in rows], dtype=np.float64),
        }
        return State(arrays, {"clients": clients})

    def load_state(self, state: State) -> None:
        """Replace all pairs; refuses those of a space with other dimensions."""
        choices, dimensions = state.arrays["choices"], self._space.dimensions
        sizes = [len(dimension) for dimension in dimensions]
        if choices.shape[1:] != (len(sizes),) or (choices >= sizes).any():
            remedy = "Resume with the space the checkpoint was made with"
            problem = "are pairs of another search space"
            raise RefusedError(Fault("proposals", choices.shape, problem, remedy))
        self._pairs = {client: [] for client in state.meta["clients"]}
        for owner, row, reward in zip(
            state.arrays["owner"].tolist(),
            choices.tolist(),
            state.arrays["reward"].tolist(),
            strict=True,
        ):
            self._pairs[state.meta["clients"][owner]].append((Architecture(tuple(row)), reward))


def _means(pairs: Iterable[tuple[Architecture, float]]) -> dict[Architecture, float]:
    grouped: dict[Architecture, list[float]] = {}
    for architecture, reward in pairs:
        grouped.setdefault(architecture, []).append(reward)
    return {
        architecture: math.fsum(found) / len(found)
        for architecture, found in sorted(grouped.items())
    }


class RewardForest:
    """Predicts a client's rewards from its own pairs or, with ``all``, from everybody's.

    Args:
        context: of the run; the seed is the forests'.
        pairs: ``client``: a client's own; ``all``: everybody's, as long as its own are too few.
        forest: keys of `ForestSettings`; ``min_pairs`` counts architectures, each with its mean reward.

    """

    def __init__(
        self,
        *,
        context: SearchContext,
        pairs: Literal["client", "all"],
        forest: Mapping[str, Any],
    ) -> None:
        known, faults = ("client", "all"), []
        if pairs not in known:
            remedy = nearest(str(pairs), known)
            faults.append(Fault("pairs", pairs, "is nobody's pairs", remedy))
        try:
            self._settings: ForestSettings = settings_of(ForestSettings, forest, "forest")
        except RefusedError as error:
            faults += error.faults
        if faults:
            raise RefusedError(faults)
        self._context = context
        self._shared = pairs == "all"
        self.pairs = Pairs(context.space)
        self._kept: dict[ClientId | None, ForestPredictor] = {}

    def predictor(self, client: ClientId, *, keep: bool = False) -> Predict | None:
        """Return the prediction for ``client``, None with too few pairs.

        ``keep`` remembers the forest until there are more pairs: for those who are asked twice in a round.
        """
        found, needed = self.pairs.rewards(client), self._settings.min_pairs
        mean = own = self.pairs.mean(client)
        key: ClientId | None = client
        if len(found) < needed and self._shared:
            found, mean, key = self.pairs.pooled(), 0.0, None
        if len(found) < needed:
            return None
        forest = self._kept.get(key)
        if forest is None:
            forest = ForestPredictor(self._context.space, self._settings, seed=self._context.seed)
            forest.fit([Measured(a, mean - reward, 0.0) for a, reward in found.items()])
        if keep or key is None:
            self._kept[key] = forest
        fitted = forest
        return lambda architectures: own - fitted.predict(architectures)

    def known(self, client: ClientId) -> list[Architecture]:
        """Return the architectures that the forest for ``client`` knows of, in the order of choices."""
        found = self.pairs.rewards(client)
        if self._shared and len(found) < self._settings.min_pairs:
            found = self.pairs.pooled()
        return list(found)

    def add(self, observations: Sequence[Observation]) -> None:
        """Remember a round."""
        self._kept = {}
        self.pairs.add(observations)

    def state(self) -> State:
        """Return all pairs; forests are fitted again."""
        return self.pairs.state()

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        self._kept = {}
        self.pairs.load_state(state)
