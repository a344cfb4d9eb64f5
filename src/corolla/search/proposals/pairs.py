"""What each client's architectures were worth so far, and a forest that predicts it for others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corolla.errors import Fault, RefusedError
from corolla.search.evolution import Fits
from corolla.search.measured import Measured
from corolla.search.predictor import ForestPredictor, ForestSettings
from corolla.search.proposals.protocol import Observation, SearchContext
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace
from corolla.state import Keeps, State, Stateful
from corolla.types import ClientId, client_order

KEPT = 500  # architectures per client
Predict = Callable[[Sequence[Architecture]], NDArray[np.float64]]
"""Gives the reward that a client can expect of each architecture, higher is better."""


@dataclass
class _Sum:
    """The rewards of one architecture at one client."""

    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.count


class Pairs(Stateful):
    """Mean rewards of architectures, per client; of more than `KEPT` those seen last.

    Kept as sums: in what order rewards came does not matter, and a checkpoint holds a row per client and
    architecture, however often it was trained.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._sums: dict[ClientId, dict[Architecture, _Sum]] = {}  # what was seen last comes last
        self._rows: dict[ClientId, _Rows] = {}  # of clients that nothing was added to since
        self._pooled: dict[Architecture, float] | None = None

    @property
    def clients(self) -> list[ClientId]:
        """Clients with a pair, in their fixed order."""
        return sorted(self._sums, key=client_order)

    def add(self, observations: Sequence[Observation]) -> None:
        """Remember a round, one observation per client."""
        for seen in observations:
            sums = self._sums.setdefault(seen.client, {})
            total = sums.pop(seen.architecture, _Sum())
            total.total += seen.reward
            total.count += 1
            sums[seen.architecture] = total
            if len(sums) > KEPT:
                del sums[next(iter(sums))]
            self._rows.pop(seen.client, None)
        self._pooled = None

    def count(self, client: ClientId) -> int:
        """Return how many rewards of the client are known."""
        return sum(one.count for one in self._sums.get(client, {}).values())

    def mean(self, client: ClientId) -> float:
        """Return the mean of the client's rewards, 0 before there was one."""
        totals = [one.total for one in self._sums.get(client, {}).values()]
        return math.fsum(totals) / max(self.count(client), 1)

    def rewards(self, client: ClientId) -> dict[Architecture, float]:
        """Return the client's mean reward of each architecture, in the order of the choices."""
        sums = self._sums.get(client, {})
        return {architecture: sums[architecture].mean for architecture in sorted(sums)}

    def pooled(self) -> dict[Architecture, float]:
        """Return each architecture's mean over all clients, every reward less its client's mean.

        A client with hard data would otherwise make whatever it happened to draw look bad.
        """
        if self._pooled is None:
            grouped: dict[Architecture, list[tuple[float, int]]] = {}
            for client in self.clients:
                mean = self.mean(client)
                for architecture, one in self._sums[client].items():
                    above = one.total - one.count * mean
                    grouped.setdefault(architecture, []).append((above, one.count))
            self._pooled = {
                architecture: math.fsum(above for above, _ in rows) / sum(n for _, n in rows)
                for architecture, rows in sorted(grouped.items())
            }
        return self._pooled

    def best(self, client: ClientId, *, fits: Fits) -> Architecture | None:
        """Return what brought the client most of what fits; for one without rewards, what brought all most.

        Of equals the lower choices. None where nothing that was tried fits.
        """
        rewards = self.rewards(client) if client in self._sums else self.pooled()
        means = {
            architecture: reward for architecture, reward in rewards.items() if fits(architecture)
        }
        return max(means, key=lambda architecture: means[architecture], default=None)

    def state(self) -> State:
        """Return all sums, a row for each; ``owner`` is a place in ``meta["clients"]``."""
        clients = self.clients
        rows = [self._rows_of(client) for client in clients]
        none = _Rows.of({}, self._space)
        arrays = {
            "owner": np.repeat(
                np.arange(len(rows), dtype=np.int32), [len(row.counts) for row in rows]
            ),
            "choices": np.concatenate([none.choices, *(row.choices for row in rows)]),
            "total": np.concatenate([none.totals, *(row.totals for row in rows)]),
            "count": np.concatenate([none.counts, *(row.counts for row in rows)]),
        }
        return State(arrays, {"clients": clients})

    def _rows_of(self, client: ClientId) -> _Rows:
        if client not in self._rows:
            self._rows[client] = _Rows.of(self._sums[client], self._space)
        return self._rows[client]

    def load_state(self, state: State) -> None:
        """Replace all pairs; refuses those of a space with other dimensions."""
        choices, dimensions = state.arrays["choices"], self._space.dimensions
        sizes = [len(dimension) for dimension in dimensions]
        if choices.shape[1:] != (len(sizes),) or (choices >= sizes).any():
            remedy = (
                "Resume with the space.* settings that the run was started with (its config.yaml)"
            )
            problem = "the checkpoint's rewards are of architectures of another space"
            raise RefusedError(Fault("proposals", choices.shape, problem, remedy))
        clients = state.meta["clients"]
        self._sums = {client: {} for client in clients}
        self._rows, self._pooled = {}, None
        columns = (state.arrays[name].tolist() for name in ("owner", "choices", "total", "count"))
        for owner, row, total, count in zip(*columns, strict=True):
            self._sums[clients[owner]][Architecture(tuple(row))] = _Sum(total, count)


class _Rows(NamedTuple):
    """One client's sums as a checkpoint holds them, in the order in which they were seen last."""

    choices: NDArray[np.unsignedinteger[Any]]  # (architectures, dimensions)
    totals: NDArray[np.float64]
    counts: NDArray[np.int32]

    @classmethod
    def of(cls, sums: Mapping[Architecture, _Sum], space: SearchSpace) -> _Rows:
        most = max(len(dimension) for dimension in space.dimensions) - 1
        choices = [architecture.choices for architecture in sums]
        return cls(
            np.array(choices, dtype=np.min_scalar_type(most)).reshape(-1, len(space.dimensions)),
            np.array([one.total for one in sums.values()], dtype=np.float64),
            np.array([one.count for one in sums.values()], dtype=np.int32),
        )


@settings
class PairsSettings:
    """What a forest learns from."""

    pairs: Literal["client", "all"]  # a client's own; everybody's, as long as its own are too few
    forest: ForestSettings  # ``min_pairs`` counts architectures, each with its mean reward


class RewardForest(Stateful):
    """Predicts a client's rewards from its own pairs or, with ``all``, from everybody's.

    Args:
        context: of the run; the seed is the forests'.
        settings: `PairsSettings`.

    """

    keeps: ClassVar[Keeps] = {"pairs": ""}

    def __init__(self, *, context: SearchContext, settings: PairsSettings) -> None:
        self._settings = settings.forest
        self._context = context
        self._shared = settings.pairs == "all"
        self.pairs = Pairs(context.space)
        self._kept: dict[ClientId | None, ForestPredictor] = {}

    def predictor(self, client: ClientId, *, keep: bool = False) -> Predict | None:
        """Return the prediction for ``client``, None with too few pairs.

        ``keep`` remembers the forest until there are more pairs: for those who are asked twice in a round.
        """
        rewards, needed = self.pairs.rewards(client), self._settings.min_pairs
        mean = own = self.pairs.mean(client)
        key: ClientId | None = client
        if len(rewards) < needed and self._shared:
            rewards, mean, key = self.pairs.pooled(), 0.0, None
        if len(rewards) < needed:
            return None
        forest = self._kept.get(key)
        if forest is None:
            forest = ForestPredictor(self._context.space, self._settings, seed=self._context.seed)
            forest.fit([Measured(a, mean - reward, 0.0) for a, reward in rewards.items()])
        if keep or key is None:
            self._kept[key] = forest
        fitted = forest
        return lambda architectures: own - fitted.predict(architectures)

    def known(self, client: ClientId) -> list[Architecture]:
        """Return the architectures that the forest for ``client`` knows of, in the order of choices."""
        rewards = self.pairs.rewards(client)
        if self._shared and len(rewards) < self._settings.min_pairs:
            rewards = self.pairs.pooled()
        return list(rewards)

    def add(self, observations: Sequence[Observation]) -> None:
        """Remember a round."""
        self._kept = {}
        self.pairs.add(observations)

    def load_state(self, state: State) -> None:
        """Invert `state`; forests are fitted again."""
        super().load_state(state)
        self._kept = {}
