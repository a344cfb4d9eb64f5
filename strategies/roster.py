"""Who is there: clients by their own names, and the Flower nodes that answer for them at the moment.

Flower's node ids are random per run and, without authentication, per restart. A client is its partition
id in simulation; on real nodes what its own node configuration says, or the name it was registered under.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from clients.flower_internals import ErrorCode
from corolla.errors import Fault, RefusedError, RunFailedError
from corolla.limits.client_limits import Shortfall
from corolla.types import ClientId, client_order
from strategies.identity import checked_name, said_by
from strategies.waiting import UNFINISHED, gather, patiently
from strategies.words import brief

_LOG = logging.getLogger("corolla")
_POLL_S = 0.5
_REMIND_S = 60.0
_ON_THE_WAY = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)
_PUT_OFF = 10.0  # of the time for an answer: so long a node that let it pass is not asked again
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

    def leave_out(self, clients: Collection[ClientId], *, reason: str = TRAINED) -> None:
        """Forget these clients; a stage for new clients has others from the start."""
        self._clients = [client for client in self._clients if client not in clients]
        self._nodes = {}


@dataclass(frozen=True)
class _Site:
    client: ClientId
    facts: Mapping[str, Any]


class NodeRoster:
    """Real nodes. Each is asked once who it is; one that comes back is known by its name again."""

    interchangeable = False

    def __init__(self, *, expected: int, deadline_s: float, reply_timeout_s: float = 300.0) -> None:
        self._expected = expected
        self._deadline_s = deadline_s
        self._reply_timeout_s = reply_timeout_s
        self._sites: dict[int, _Site] = {}
        self._known: dict[ClientId, Mapping[str, Any]] = {}
        self._left_out: dict[ClientId, str] = {}  # with the reason
        self._put_off: dict[int, float] = {}  # nodes that said nothing, and until when they wait

    def clients(self) -> list[ClientId]:
        """Return all clients that were ever connected, less those that are left out."""
        return sorted(self._known, key=client_order)

    def facts(self, client: ClientId) -> Mapping[str, Any]:
        """Return the client's own answer to who it is."""
        return self._known.get(client, {})

    def leave_out(self, clients: Collection[ClientId], *, reason: str = TRAINED) -> None:
        """Ask these clients nothing more; the wait for as many as were expected is for others."""
        there = sorted(self._known.keys() & set(clients), key=client_order)
        if there:
            _LOG.info("left out, since they %s: %s", reason, ", ".join(there))
        self._left_out |= dict.fromkeys(clients, reason)
        self._known = {c: facts for c, facts in self._known.items() if c not in self._left_out}

    def nodes(self, grid: Grid) -> Mapping[ClientId, int]:
        """Return the connected clients; at the first call waits for as many as were expected.

        Raises:
            RunFailedError: too few connected in time, or none of them said who it is.
            RefusedError: all that connected in time are left out.

        """
        start = time.monotonic()
        wanted = 1 if self._known else self._expected
        while True:
            ids = self._wait(grid, wanted, start)
            lost = self._identify(grid, self._to_ask(ids))
            ids = [node for node in ids if not self._is_left_out(node)]
            online = {self._sites[node].client: node for node in ids if node in self._sites}
            again = lost and not online and time.monotonic() < start + self._deadline_s
            if len(ids) >= wanted and not again:
                break  # else old sites were among those that had not said who they are
            if again:
                time.sleep(_POLL_S)
        if not online:
            raise RunFailedError("none of the connected nodes said who it is; see the nodes' logs")
        return online

    def _to_ask(self, ids: Sequence[int]) -> list[int]:
        """Return the nodes that have not said who they are, without the mute ones while there are others.

        Every round would wait for those, as long as the first.
        """
        new = [node for node in ids if node not in self._sites]
        if len(new) == len(ids):
            return new
        now = time.monotonic()
        return [node for node in new if self._put_off.get(node, now) <= now]

    def _is_left_out(self, node: int) -> bool:
        return node in self._sites and self._sites[node].client in self._left_out

    def _wait(self, grid: Grid, wanted: int, start: float) -> list[int]:
        """Return the connected nodes that are not left out, once there are as many as wanted."""
        try:
            return wait_for_nodes(
                grid, wanted, self._deadline_s, start=start, ignored=self._is_left_out
            )
        except RunFailedError:
            ids = list(patiently(grid.get_node_ids))
            old = sorted(
                (self._sites[node].client for node in ids if self._is_left_out(node)),
                key=client_order,
            )
            if self._known or not old or len(old) < len(ids):
                raise
            problem = f"all connected sites took part in training: {', '.join(old)}"
            remedy = "Connect SuperNodes of sites that did not, under names of their own"
            raise RefusedError(Fault("clients", self._expected, problem, remedy)) from None

    def _identify(self, grid: Grid, nodes: list[int]) -> bool:
        """Ask nodes who they are; return whether question or answer was lost on the way to one of them."""
        if not nodes:
            return False
        messages = [
            Message(
                content=RecordDict({"task": ConfigRecord({"question": "identity"})}),
                dst_node_id=node,
                message_type=MessageType.QUERY,
                group_id="identity",
            )
            for node in nodes
        ]
        until = time.monotonic() + _PUT_OFF * self._reply_timeout_s
        replies = gather(grid, messages, timeout_s=self._reply_timeout_s, real_nodes=True)
        answers: dict[str, Message] = {}
        for reply in replies:
            answers.setdefault(reply.metadata.reply_to_message_id, reply)
        names = _registered_names(grid)
        lost = any(_is_lost(answers.get(message.metadata.message_id)) for message in messages)
        for message, node in zip(messages, nodes, strict=True):
            registered = names.get(node, "")
            try:
                said, facts = said_by(answers.get(message.metadata.message_id))
                if registered:
                    checked_name(registered)
            except Exception as error:  # whatever a node says, it is that node that is left out
                called = f" ({brief(registered, 100)})" if registered else ""
                reason = brief(str(error) or type(error).__name__)
                _LOG.warning("node %d%s did not say who it is: %s", node, called, reason)
                if _is_mute(answers.get(message.metadata.message_id)):
                    self._put_off[node] = until
                continue
            if said and registered and said != registered:
                # Only the registered name is bound to the node's key.
                _LOG.error(
                    "node %d calls itself %r but its key is registered as %r: ignored. Make "
                    'client="..." in its --node-config agree',
                    node,
                    said,
                    registered,
                )
                continue
            client = registered or said or str(node)
            taken = {site.client: other for other, site in self._sites.items()}
            if client in taken and taken[client] in set(patiently(grid.get_node_ids)):
                _LOG.error(
                    "node %d calls itself %r, as node %d does: ignored. Give each node its own "
                    'client="..." in --node-config',
                    node,
                    client,
                    taken[client],
                )
                continue
            self._sites[node] = _Site(client, facts)
            if client in self._left_out:
                why = self._left_out[client]
                _LOG.info("client %s is node %d: left out, it %s", client, node, why)
                continue
            self._known[client] = facts
            _LOG.info("client %s is node %d", client, node)
        return lost


def _is_lost(answer: Message | None) -> bool:
    return answer is None or (answer.has_error() and answer.error.code in _ON_THE_WAY)


def _is_mute(answer: Message | None) -> bool:
    """Return whether the whole time went by for it."""
    return answer is None or (answer.has_error() and answer.error.reason == UNFINISHED)


def _in_order_of_creation(grid: Grid, ids: list[int]) -> list[int]:
    made = {info.node_id: info.registered_at for info in patiently(grid.get_nodes)}
    return sorted(ids, key=lambda node: (made.get(node, ""), node))


def _registered_names(grid: Grid) -> dict[int, str]:
    return {info.node_id: info.name for info in patiently(grid.get_nodes) if info.name}


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
        time.sleep(_POLL_S)
