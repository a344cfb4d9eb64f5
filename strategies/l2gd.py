"""L2GD: every client has a model of its own, drawn to the mean of all; the server makes that mean.

Hanzely & Richtarik, 2020, https://arxiv.org/abs/2002.05516: (1/K) sum of f_k(x_k) + lambda / (2K) sum of
||x_k - mean||^2. What a client does is in `clients.l2gd`, when, in `corolla.training.coin`.

Departures: the mean is of those who took part in the round, or of all that were ever known; who was away is
drawn to the mean that it meets next, not to that of its last round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from corolla.aggregation.coverage import momentum_average
from corolla.aggregation.updates import Update, update_weight
from corolla.federation import Federation
from corolla.settings import settings
from corolla.state import State
from corolla.tasks import Reply
from corolla.training.available_memory import require_memory
from corolla.training.coin import CoinSettings, flips
from corolla.types import Arrays, ClientId, client_order
from strategies.base import Outcome
from strategies.ditto import Ditto
from strategies.fedavg import FedAvgSettings

_MIB = 2**20


@settings
class L2GDSettings(CoinSettings, FedAvgSettings):
    """FedAvg's settings, the clients', and whose mean it is."""

    mean_of: Literal["round", "known"]  # who took part in it | the last models of all that ever did


class L2GD(Ditto):
    """FedAvg's server; the personal models stay with the clients, as Ditto's."""

    settings: L2GDSettings

    def __init__(self, *, federation: Federation, settings: L2GDSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._known: dict[ClientId, tuple[Arrays, int]] = {}  # last x_k, and images
        if settings.mean_of == "known":
            own_mib = sum(array.nbytes for array in self._arrays.values()) / _MIB
            require_memory(
                2 * federation.clients * own_mib,  # with what is being written
                what=f"L2GD's server keeps a model of each of {federation.clients} clients",
                key="method.mean_of",
                value=settings.mean_of,
                remedy="Use mean_of=round, a smaller network, or fewer clients",
            )

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Make the mean."""
        if not replies:
            return Outcome()
        if self.settings.mean_of == "known":
            answered = {r.client: (r.arrays, r.num_examples) for r in replies}
            self._known = {**self._known, **answered}
            self._arrays, self._velocity = momentum_average(
                self._arrays,
                self._updates(),
                self._velocity,
                momentum=self.settings.server_momentum,
                rule=self.federation.robust,
            )
        else:
            super().absorb(server_round, replies)
        flipped = flips(self.settings, self.federation.seed, server_round)
        if flipped.steps is None:
            return Outcome()
        return Outcome({"local_steps": flipped.steps, "averagings": flipped.averagings})

    def _updates(self) -> list[Update]:
        return [
            Update(
                arrays=arrays,
                regions=self._regions,
                weight=update_weight(self.settings.weights, images),
                client=client,
            )
            for client, (arrays, images) in self._known.items()
        ]

    def state(self) -> State:
        """Return FedAvg's state, and the models that are known."""
        state = super().state()
        known = sorted(self._known.items(), key=lambda item: client_order(item[0]))
        arrays = {
            f"known/{number}/{name}": array
            for number, (_, (model, _)) in enumerate(known)
            for name, array in model.items()
        }
        images: list[Any] = [[client, count] for client, (_, count) in known]
        return replace(
            state, arrays={**state.arrays, **arrays}, meta={**state.meta, "known": images}
        )

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        super().load_state(state)
        self._known = {
            str(client): (state.part(f"known/{number}/"), int(count))
            for number, (client, count) in enumerate(state.meta["known"])
        }
