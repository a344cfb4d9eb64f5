"""Sending a round's messages and waiting for the answers, through all that can go wrong on the way.

A SuperLink may answer 500, cut an answer off or be away for a while; a node may be started again, or never
finish its upload. Each costs at most the answer that it hits, and nobody else's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import httpx
from flwr.app import Error, Message
from flwr.serverapp import Grid

from clients.flower_internals import ErrorCode, is_passing
from corolla.records.phases import step
from strategies.words import brief

_LOG = logging.getLogger("corolla")
_SHORTEST_S, _LONGEST_S = 0.02, 3.0  # between two looks for answers; Flower itself looks every 3 s
_SHARE = 0.02  # of the time waited so far: a round ends at most this share after its last answer
_REST = 4.0  # of what a look took: with many nodes, looking must not become all that is done
_RESTARTS_S = 5.0  # between two looks for nodes that were started again
_TROUBLE_S = 0.5  # at least, before the SuperLink is asked again what it did not answer
_WHOLE_S = (
    2.0  # of a look, for answers one after another; what takes longer goes on beside the others
)
_GRACE_S = 5.0  # the same after the deadline
_BRIEFLY_S = 0.05  # at least, for each of them
_TIMES_ASKED = 4  # a client whose answers are lost on the way is not asked more often in a round
PATIENCE_S = 600.0
"""So long nothing but errors, where there is no deadline: then the SuperLink is taken for lost."""

NOT_SENT = "the SuperLink did not take the message"
UNREADABLE = "its answer is not a message"
RESTARTED = "the node restarted, or lost its connection, while it worked on this"
UNFINISHED = "its answer did not arrive whole in time"
LOST = "its answer was lost between the SuperLink and the server"

_UPLOAD = "Reply message objects are unavailable"  # so Flower begins where a node did not finish

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], None]


@runtime_checkable
class Exchanges(Protocol):
    """A grid that sends and receives by itself: it takes each message when somebody is free for it."""

    def exchange(
        self, messages: Iterable[Message], *, timeout_s: float | None
    ) -> Iterator[Message]:
        """Yield the replies that come within ``timeout_s`` seconds, as they come."""


def gather(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout_s: float | None,
    real_nodes: bool,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
) -> Iterable[Message]:
    """Send ``messages`` and return the replies that come within ``timeout_s`` seconds, as they come.

    With real nodes each answer is fetched by itself, and once more after the deadline. What the SuperLink
    does not take, or answers with an error, is tried again until then; so is a client whose answer was
    lost on its way here. Who then has no answer may be an error reply that says why:

    - a real node that is started again loses the message it worked on, and where it comes back between
      two looks of the SuperLink, Flower reports no error. One whose heartbeats were missed for long
      enough to count as gone looks the same;
    - a message that the SuperLink refuses is an error reply at once;
    - so is an answer that cannot be put together again.

    In Flower's own simulation nothing is tried again: its grid (``InMemoryGrid``) is a table of messages in
    this process, without a network in between. What a call raises there is a defect and would be raised
    again; a client that fails, or whose Ray actor dies, is an error reply.
    """
    if isinstance(grid, Exchanges):
        return _counted(grid.exchange(messages, timeout_s=timeout_s))
    sent = list(messages)
    if real_nodes:
        return _Round(grid, sent, timeout_s=timeout_s, clock=clock, sleep=sleep).replies()
    started = clock()
    accepted = {identifier for identifier in grid.push_messages(sent) if identifier}
    waiting = {m.metadata.message_id for m in sent} & accepted
    replies = [_error(m, NOT_SENT) for m in sent if m.metadata.message_id not in accepted]
    while waiting:
        pulled = grid.pull_messages(waiting)
        answers = [one for one in pulled if one.metadata.reply_to_message_id in waiting]
        waiting -= {answer.metadata.reply_to_message_id for answer in answers}
        replies += answers
        step(len(answers))
        waited = clock() - started
        if timeout_s is not None and waited >= timeout_s:
            break
        if waiting and not answers:
            sleep(_pause_s(waited))
    return replies


def _counted(replies: Iterable[Message]) -> Iterator[Message]:
    """Say of each reply that it is there, for whoever watches; none is kept."""
    for reply in replies:
        step()
        yield reply
        del reply


def patiently(
    ask: Callable[[], T], *, clock: Clock = time.monotonic, sleep: Sleep = time.sleep
) -> T:
    """Return what ``ask`` returns; a SuperLink that answers with an error is asked again.

    Raises: the last error, after `PATIENCE_S` of them.
    """
    started = clock()
    while True:
        try:
            return ask()
        except Exception as error:
            waited = clock() - started
            if waited >= PATIENCE_S:
                raise
            _LOG.warning("the SuperLink answers with an error, asking again: %s", _said(error))
        sleep(max(_pause_s(waited), _TROUBLE_S))


class _Pull(threading.Thread):
    """One look for one answer. It takes as long as the node takes to upload what it has begun to send."""

    def __init__(self, grid: Grid, identifier: str) -> None:
        super().__init__(daemon=True)  # a run does not wait for it in order to end
        self._grid, self._identifier = grid, identifier
        self.answers: list[Message] = []
        self.problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Fetch the answer, if there is one."""
        try:
            self.answers = list(self._grid.pull_messages([self._identifier]))
        except BaseException as problem:  # Flower's word for a run that was stopped is no Exception
            self.problem = problem


class _Round:
    """One exchange with real nodes. A message is to be sent, or waited for, or has its reply."""

    def __init__(
        self,
        grid: Grid,
        messages: Sequence[Message],
        *,
        timeout_s: float | None,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self._grid, self._clock, self._sleep = grid, clock, sleep
        self._started = self._heard = clock()
        self._timeout_s = timeout_s
        self._unsent = list(messages)
        self._waiting: dict[str, Message] = {}
        self._replies: list[Message] = []  # not yielded yet
        self._under_way: dict[str, _Pull] = {}  # begun in an earlier look
        self._problems: dict[str, BaseException] = {}  # of the last look for an answer
        self._asked: dict[str, int] = {}
        self._together = True  # until that fails: then each message is sent by itself
        self._trouble: BaseException | None = None  # of the look at hand
        self._warned = False  # of trouble that has lasted since
        self._looked = clock()
        self._activated = self._activations(self._unsent)
        self._send()

    def replies(self) -> Iterator[Message]:
        """Carry it out: yield each reply as it comes, and keep none."""
        while self._unsent or self._waiting or self._replies:
            lost = self._restarted()
            # After the look for restarts: an answer that came before a restart counts.
            began = self._clock()
            heard = False
            for reply in self._look(_WHOLE_S):
                heard = True
                yield reply
                del reply
            rest = min(_REST * (self._clock() - began), _LONGEST_S)
            for message in lost:
                if self._waiting.pop(message.metadata.message_id, None) is not None:
                    _LOG.warning(
                        "node %d restarted and lost its task", message.metadata.dst_node_id
                    )
                    self._replies.append(_error(message, RESTARTED))
            self._warned = self._trouble is not None
            if self._is_over():
                yield from self._end()
                return
            if (self._unsent or self._waiting) and not (heard or self._replies):
                least = _TROUBLE_S if self._trouble is not None else 0.0
                self._sleep(max(_pause_s(self._clock() - self._started), rest, least))
            self._trouble = None
            self._send()

    # --- sending ----------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Push what is to be sent; sending again what the SuperLink has already changes nothing."""
        pending, self._unsent = self._unsent, []
        if self._together and len(pending) > 1:
            if not self._push(pending):
                self._together = False
                self._unsent = pending
            return
        for message in pending:
            if not self._push([message]):
                self._unsent.append(message)

    def _push(self, messages: list[Message]) -> bool:
        """Return whether the SuperLink has said of each message if it takes it."""
        try:
            taken = list(self._grid.push_messages(messages))
        except Exception as error:
            self._note(error)
            if len(messages) > 1 or not _refuses(error):
                return False
            taken = []
        if not taken and len(messages) > 1:
            return False  # too much at once for something in between
        self._heard = self._clock()
        accepted = set(taken)
        for message in messages:
            identifier = message.metadata.message_id
            if identifier in accepted:
                self._waiting[identifier] = message
                self._asked[identifier] = self._asked.get(identifier, 0) + 1
            else:
                self._replies.append(_error(message, NOT_SENT))
        return True

    # --- looking ----------------------------------------------------------------------------------------

    def _look(self, whole_s: float) -> Iterator[Message]:
        """Fetch and yield each answer that is there; who takes long holds nobody up."""
        end = time.monotonic() + whole_s  # of this process, not of whoever tests it
        for identifier in sorted(self._waiting):
            pull = self._under_way.pop(identifier, None)
            if pull is None or whole_s == _GRACE_S:
                pull = pull or _Pull(self._grid, identifier)
                pull.join(max(end - time.monotonic(), _BRIEFLY_S))
            if pull.is_alive():
                self._under_way[identifier] = pull
            else:
                self._take(identifier, pull)
            del pull  # it has the answer
            given = time.monotonic()
            yield from self._heard_of()
            end += time.monotonic() - given
        yield from self._heard_of()

    def _heard_of(self) -> Iterator[Message]:
        while self._replies:
            yield self._replies.pop(0)

    def _take(self, identifier: str, pull: _Pull) -> None:
        message = self._waiting[identifier]
        problem = pull.problem
        if problem is None:
            self._heard = self._clock()
            self._problems.pop(identifier, None)
            for answer in pull.answers:
                if answer.metadata.reply_to_message_id == identifier:
                    del self._waiting[identifier]
                    if _is_gone(answer) and self._asked[identifier] < _TIMES_ASKED:
                        self._ask_again(message)
                    else:
                        self._replies.append(answer)
                        step()
                    return
        elif not isinstance(problem, Exception):
            raise problem
        elif is_passing(problem):
            self._problems[identifier] = problem
            self._note(problem)
        else:
            del self._waiting[identifier]
            reason = brief(f"{UNREADABLE}: {type(problem).__name__}: {problem}")
            self._replies.append(_error(message, reason))

    def _ask_again(self, message: Message) -> None:
        """Have the client answer once more: the SuperLink gave its answer away, and it did not arrive.

        The task says all, so a client that does it again gives the same answer.
        """
        node = message.metadata.dst_node_id
        _LOG.warning("an answer of node %d was lost on its way here: it is asked again", node)
        self._unsent.append(message)

    def _is_over(self) -> bool:
        now = self._clock()
        if self._timeout_s is not None:
            return now - self._started >= self._timeout_s
        if self._trouble is not None and now - self._heard >= PATIENCE_S:
            raise self._trouble
        return False

    def _end(self) -> Iterator[Message]:
        """Look once more, and say of everybody who is known to have failed why."""
        yield from self._look(_GRACE_S)
        for identifier, message in self._waiting.items():
            if identifier in self._under_way:
                self._replies.append(_error(message, UNFINISHED))
            elif identifier in self._problems:
                reason = brief(f"{LOST}: {_said(self._problems[identifier])}")
                self._replies.append(_error(message, reason))
        for message in self._unsent:
            if message.metadata.message_id in self._asked:
                self._replies.append(_error(message, LOST))
            else:
                self._replies.append(_error(message, NOT_SENT))
        yield from self._heard_of()

    # --- nodes ------------------------------------------------------------------------------------------

    def _restarted(self) -> list[Message]:
        """Return the messages that are waited for and whose node was started after they were sent."""
        if not self._waiting or self._clock() - self._looked < _RESTARTS_S:
            return []
        self._looked = self._clock()
        waiting = [self._waiting[i] for i in sorted(self._waiting)]
        now = self._activations(waiting)
        first = {node: at for node, at in now.items() if node not in self._activated}
        self._activated = {**self._activated, **first}  # where the first look failed
        return [
            message
            for message in waiting
            if (node := message.metadata.dst_node_id) in now and now[node] != self._activated[node]
        ]

    def _activations(self, messages: Sequence[Message]) -> dict[int, str]:
        """Return when the nodes of ``messages`` were last started, as the SuperLink writes it."""
        nodes = {message.metadata.dst_node_id for message in messages}
        if not nodes:
            return {}
        try:
            return {
                i.node_id: i.last_activated_at for i in self._grid.get_nodes() if i.node_id in nodes
            }
        except Exception as error:
            self._note(error)
            return {}

    def _note(self, error: BaseException) -> None:
        if not self._warned:
            _LOG.warning("the SuperLink answers with an error, asking again: %s", _said(error))
        self._trouble, self._warned = error, True


def _pause_s(waited_s: float) -> float:
    return min(max(_SHARE * waited_s, _SHORTEST_S), _LONGEST_S)


def _refuses(error: Exception) -> bool:
    """Return whether the SuperLink has understood, and will say the same next time."""
    return isinstance(error, httpx.HTTPStatusError) and not is_passing(error)


def _is_gone(answer: Message) -> bool:
    """Return whether the SuperLink knows nothing of the message any more: it gave the answer away.

    Flower gives each answer away once. It has the same code where a node did not finish its upload.
    """
    if not answer.has_error() or answer.error.code != ErrorCode.MESSAGE_UNAVAILABLE:
        return False
    return not str(answer.error.reason).startswith(_UPLOAD)


def _said(error: BaseException) -> str:
    return brief(str(error).partition("\n")[0] or type(error).__name__)


def _error(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)
