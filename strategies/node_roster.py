"""Real nodes of a federation: which client each is, and which of them take no part, and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from clients.flower_internals import ErrorCode
from corolla.errors import Fault, RefusedError, RunFailedError
from corolla.types import ClientId, client_order
from strategies.identity import checked_name, said_by
from strategies.roster import POLL_S, TRAINED, wait_for_nodes
from strategies.waiting import UNFINISHED, gather, patiently
from strategies.words import brief

_LOG = logging.getLogger("corolla")
_ON_THE_WAY = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)
_PUT_OFF = 10.0  # of the time for an answer: so long a node that let it pass is not asked again


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
        self._unusable: dict[int, tuple[str, str]] = {}  # how a node is called, and the reason

    def clients(self) -> list[ClientId]:
        """Return all clients that were ever connected, less those that are left out."""
        return sorted(self._known, key=client_order)

    def facts(self, client: ClientId) -> Mapping[str, Any]:
        """Return the client's own answer to who it is."""
        return self._known.get(client, {})

    def unusable(self) -> Mapping[str, str]:
        """Return the connected nodes that take no part, by name or number, with the reason."""
        return dict(self._unusable[node] for node in sorted(self._unusable))

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
            self._unusable = {node: why for node, why in self._unusable.items() if node in ids}
            ids = [node for node in ids if not self._is_left_out(node)]
            online = {self._sites[node].client: node for node in ids if node in self._sites}
            again = lost and not online and time.monotonic() < start + self._deadline_s
            if len(ids) >= wanted and not again:
                break  # else old sites were among those that had not said who they are
            if again:
                time.sleep(POLL_S)
        if not online:
            told = "\n".join(f"{name}: {why}" for name, why in self.unusable().items())
            raise RunFailedError(f"none of the connected nodes can take part\n{told}".strip())
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
        for message, node in zip(messages, nodes, strict=True):
            answer, registered = answers.get(message.metadata.message_id), names.get(node, "")
            try:
                client, facts = _named(node, answer, registered)
                self._take(node, client, facts, patiently(grid.get_node_ids))
            except Exception as error:  # whatever a node says, it is that node that takes no part
                self._refuse(node, registered, brief(str(error) or type(error).__name__))
                if _is_mute(answer):
                    self._put_off[node] = until
        return any(_is_lost(answers.get(message.metadata.message_id)) for message in messages)

    def _take(
        self, node: int, client: ClientId, facts: Mapping[str, Any], connected: Iterable[int]
    ) -> None:
        """Note that ``node`` is ``client``; ValueError where another one is."""
        other = {site.client: number for number, site in self._sites.items()}.get(client)
        if other is not None and other in set(connected):
            remedy = 'Give each node its own client="..." in --node-config'
            raise ValueError(f"it calls itself {client!r}, as node {other} does. {remedy}")
        self._sites[node] = _Site(client, facts)
        self._unusable.pop(node, None)
        if client in self._left_out:
            why = self._left_out[client]
            _LOG.info("client %s is node %d: left out, it %s", client, node, why)
            return
        self._known[client] = facts
        _LOG.info("client %s is node %d", client, node)

    def _refuse(self, node: int, registered: str, reason: str) -> None:
        """Note why a node takes no part; say so once, though it is asked again."""
        name = brief(registered, 100) or f"node {node}"
        if self._unusable.get(node) != (name, reason):
            called = f"{name} (node {node})" if registered else name
            _LOG.warning("%s takes no part: %s", called, reason)
        self._unusable[node] = (name, reason)


def _named(
    node: int, answer: Message | None, registered: str
) -> tuple[ClientId, Mapping[str, Any]]:
    """Return a node's name and what it says of itself; ValueError where it cannot be used.

    Only the name that it was registered under, if it was, is bound to its key.
    """
    said, facts = said_by(answer)
    if registered:
        checked_name(registered)
    if said and registered and said != registered:
        remedy = 'Make client="..." in its --node-config agree'
        problem = f"it calls itself {said!r} but its key is registered as {registered!r}"
        raise ValueError(f"{problem}. {remedy}")
    return registered or said or str(node), facts


def _is_lost(answer: Message | None) -> bool:
    return answer is None or (answer.has_error() and answer.error.code in _ON_THE_WAY)


def _is_mute(answer: Message | None) -> bool:
    """Return whether the whole time went by for it."""
    return answer is None or (answer.has_error() and answer.error.reason == UNFINISHED)


def _registered_names(grid: Grid) -> dict[int, str]:
    return {info.node_id: info.name for info in patiently(grid.get_nodes) if info.name}
