"""Who is there: clients by their own names, and the Flower nodes that answer for them at the moment.

Flower's node ids are random per run and, without authentication, per restart. A client is its partition
id in simulation; on real nodes what its own node configuration says, or the name it was registered under.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from flwr.serverapp import Grid

from corolla.errors import RunFailedError
from corolla.limits.client_limits import Shortfall
from corolla.types import ClientId
from strategies.waiting import patiently

_LOG = logging.getLogger("corolla")
POLL_S = 0.5
_REMIND_S = 60.0
_WAITING = "waiting for %d nodes, %s"
TRAINED = "took part in training"


class Roster(Protocol):
    """Clients and the nodes that answer for them."""

    interchangeable: bool  # any node may act as any client

    def clients(self) -> list[ClientId]:
        """Return every client known so far, in order."""

    def nodes(self, grid: Grid) -> Mapping[ClientId, int]:
        """Return the clients that can be asked now, with their node ids; waits while there are none."""

    def facts(self, client: ClientId) -> Mapping[str, Any]:
        """Return what a client has said of itself (sizes of splits, limits, speed)."""

    def unusable(self) -> Mapping[str, str]:
        """Return the connected nodes that take no part, by name or number, with the reason."""

    def leave_out(self, clients: Collection[ClientId], *, reason: str = TRAINED) -> None:
        """Have nothing more to do with these clients, if they are there; ``reason``: what they did."""


def leave_out_short(roster: Roster, short: Sequence[Shortfall]) -> None:
    """Leave out, with a warning each, the clients that not even the smallest architecture fits."""
    for one in short:
        _LOG.warning("client %s is left out: %s", one.client, one)
    if short:
        reason = "had less than the smallest architecture takes"
        roster.leave_out({one.client for one in short}, reason=reason)


class SimulatedRoster:
    """Virtual clients: any node may act as any client, the message says which. One node per client."""

    interchangeable = True

    def __init__(
        self,
        *,
        clients: Sequence[ClientId],
        deadline_s: float = 120.0,
        facts: Mapping[ClientId, Mapping[str, Any]] | None = None,
    ) -> None:
        """``facts``: what the partition says of each client."""
        self._clients = list(clients)
        self._facts = facts or {}
        self._deadline_s = deadline_s
        self._nodes: dict[ClientId, int] = {}

    def clients(self) -> list[ClientId]:
        """Return all of them: they are known from the start."""
        return list(self._clients)

    def nodes(self, grid: Grid) -> Mapping[ClientId, int]:
        """Return all clients; their nodes are looked up once, they stay for the run."""
        if not self._nodes:
            ids = _in_order_of_creation(grid, wait_for_nodes(grid, 1, self._deadline_s))
            self._nodes = {c: ids[i % len(ids)] for i, c in enumerate(self.clients())}
        return self._nodes

    def facts(self, client: ClientId) -> Mapping[str, Any]:
        """Return what the partition says of the client."""
        return self._facts.get(client, {})

    def unusable(self) -> Mapping[str, str]:
        """Return none: virtual nodes are alike."""
        return {}

    def leave_out(self, clients: Collection[ClientId], *, reason: str = TRAINED) -> None:
        """Forget these clients; a stage for new clients has others from the start."""
        self._clients = [client for client in self._clients if client not in clients]
        self._nodes = {}


def _in_order_of_creation(grid: Grid, ids: list[int]) -> list[int]:
    made = {info.node_id: info.registered_at for info in patiently(grid.get_nodes)}
    return sorted(ids, key=lambda node: (made.get(node, ""), node))


def wait_for_nodes(
    grid: Grid,
    count: int,
    deadline_s: float,
    *,
    start: float | None = None,
    ignored: Callable[[int], bool] = lambda _: False,
) -> list[int]:
    """Return the connected node ids, sorted and without the ignored, once there are ``count``."""
    end = deadline_s + (time.monotonic() if start is None else start)
    announce = 0.0
    while True:
        connected = sorted(patiently(grid.get_node_ids))
        ids = [node for node in connected if not ignored(node)]
        if len(ids) >= count:
            return ids
        others = f", and {len(connected) - len(ids)} left out" if len(ids) < len(connected) else ""
        if time.monotonic() > end:
            raise RunFailedError(
                f"{len(ids)} of {count} nodes connected within {deadline_s:.0f} s{others}. Start the "
                "missing SuperNodes, lower `clients`, or raise engine.node_timeout_s"
            )
        if time.monotonic() >= announce:
            remedy = ". Start the missing SuperNodes; their logs say why they do not connect"
            there = f"{len(ids)} connected{others}{remedy if announce else ''}"
            _LOG.log(logging.WARNING if announce else logging.INFO, _WAITING, count, there)
            announce = time.monotonic() + _REMIND_S
        time.sleep(POLL_S)
