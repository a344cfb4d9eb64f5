"""One client's reply, read with suspicion: checked against its order before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from clients.wire import FLOATS, Declared, declared
from corolla.spaces.architecture import Architecture
from corolla.tasks import FAILURE_KINDS, Reply, Task
from corolla.types import Arrays, ClientId, diverged, shapes_of
from strategies.metrics import Admission
from strategies.words import brief, last_line

Shapes = Mapping[str, tuple[int, ...]]

_SPARE_NAMES = 1000  # of arrays that nobody asked for: so many are counted in the refusal
_ECHOED = ("client", "round", "architecture")
_PARTS: Mapping[str, type] = {"info": ConfigRecord, "metrics": MetricRecord, "arrays": ArrayRecord}


@dataclass(frozen=True, kw_only=True)
class Order:
    """A task, what is sent with it, and the arrays that must come back (none: an empty mapping).

    ``of`` says whose arrays these are: of the task's model, of another network, or of none (images, logits).
    Parts of a network may be private to the clients (`strategies.withholding`).
    """

    task: Task
    arrays: Arrays
    returns: Shapes
    needs: tuple[str, ...] = ()  # metrics that the method cannot do without
    of: Architecture | Literal["task"] | None = "task"
    may_lack: frozenset[str] = frozenset()  # of ``returns``: what a client may leave out

    @classmethod
    def both_ways(cls, task: Task, arrays: Arrays, **more: Any) -> Order:
        """Return the order that sends ``arrays`` and wants all of them back; ``more``: its other fields."""
        return cls(task=task, arrays=arrays, returns=shapes_of(arrays), **more)


class InvalidReplyError(Exception):
    """Why a reply cannot be used; ``kind`` where the client says that it could not train what it was sent."""

    def __init__(self, reason: str, kind: str | None = None) -> None:
        super().__init__(reason)
        self.kind = kind


def _as_it_is(architecture: Architecture) -> Architecture:
    return architecture


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every reply of a run is held against, whatever was ordered."""

    admission: Admission = field(default_factory=Admission)
    # Training images that a client may claim at most; None: not known.
    most_examples: Callable[[ClientId], int | None] = lambda client: None
    # Returns an architecture that a client names, or raises ValueError.
    check: Callable[[Architecture], Architecture] = _as_it_is
    link_mbit_s: float | None = None


def read_reply(order: Order, answer: Message | None, terms: Terms) -> Reply:
    """Return the valid reply to ``order``.

    Raises:
        InvalidReplyError: there is no reply, or the client reports a failure.
        Exception: of any kind, where the reply is not what was ordered; it is this client's failure.

    """
    if answer is None:
        raise InvalidReplyError("no reply before the round's deadline")
    if answer.has_error():
        reason = last_line(answer.error.reason) or "no reason given"
        raise InvalidReplyError(f"error {answer.error.code}: {reason}")
    content, task = answer.content, order.task
    if list(content) == ["failure"]:
        raise _told_failure(content["failure"])
    for name in content:
        if name not in _PARTS or not isinstance(content[name], _PARTS[name]):
            raise InvalidReplyError(f"reply holds {brief(repr(name), 80)}, which is not asked for")
    if "info" not in content or "metrics" not in content:
        raise InvalidReplyError(f"reply holds {sorted(content)}, not info and metrics")
    info = dict(content["info"])
    _check_echo(info, task)
    said: dict[str, Any] = {key: value for key, value in info.items() if key not in _ECHOED}
    try:
        notes = terms.admission.known(said, terms.admission.notes)
        told = notes.pop("own_architecture", None)
        own = None if told is None else terms.check(Architecture.of(told))
        numbers = terms.admission.known(content["metrics"], terms.admission.metrics)
    except ValueError as error:
        raise InvalidReplyError(str(error)) from error
    metrics = {key: float(value) for key, value in numbers.items()}
    missing = [key for key in ("num_examples", *order.needs) if key not in metrics]
    if missing:
        raise InvalidReplyError(f"the reply lacks {', '.join(missing)}")
    most = terms.most_examples(task.client)
    num_examples = int(metrics["num_examples"])
    record = content.array_records["arrays"] if "arrays" in content else ArrayRecord()
    try:
        came = declared(record, most=len(order.returns) + _SPARE_NAMES)
    except ValueError as error:
        raise InvalidReplyError(str(error)) from error
    _check_declared(came, order)
    arrays = {name: _values(name, came[name], order) for name in order.returns if name in came}
    down = payload_bytes(order.arrays)
    up = sum(array.size * came[name].item_bytes for name, array in arrays.items())
    link_s = 8e-6 * (down + up) / terms.link_mbit_s if terms.link_mbit_s else 0.0
    return Reply(
        task=task,
        arrays=arrays,
        num_examples=num_examples if most is None else min(num_examples, most),
        metrics=metrics,
        own_architecture=own,
        notes=notes,
        round_s=metrics.get("handling_s", 0.0) + link_s,
        bytes_down=down,
        bytes_up=up,
    )


def payload_bytes(arrays: Arrays) -> int:
    """Return the bytes of the numbers themselves, without headers."""
    return sum(array.nbytes for array in arrays.values())


def _told_failure(record: Any) -> InvalidReplyError:
    """Return what a client says of a task that it could not do, in the words of `corolla.tasks`."""
    if not isinstance(record, ConfigRecord) or record.get("kind") not in FAILURE_KINDS:
        return InvalidReplyError("the client reports a failure without a reason")
    kind = str(record["kind"])
    return InvalidReplyError(f"{kind}: {brief(str(record.get('reason', '')))}", kind)


def _check_echo(info: Mapping[str, Any], task: Task) -> None:
    for key, expected in (("round", task.round), ("client", task.client)):
        given = info.get(key)
        if given != expected:
            # Of a long list, or text, not even a line is made.
            start = given[:80] if isinstance(given, str | bytes | list) else given
            said = brief(repr(start), 80)
            raise InvalidReplyError(f"reply is for {key} {said}, expected {expected!r}")
    if info.get("architecture") != task.architecture.to_list():
        raise InvalidReplyError("reply is for another architecture")


def _check_declared(came: Mapping[str, Declared], order: Order) -> None:
    """Compare what the arrays say of themselves with what was ordered; no number is read."""
    wrong = sorted((set(came) ^ set(order.returns)) - (order.may_lack - set(came)))
    if wrong:
        first = brief(repr(wrong[0]), 80)
        raise InvalidReplyError(f"{len(wrong)} wrong array names, the first: {first}")
    for name, shape in order.returns.items():
        if name not in came:
            continue
        array = came[name]
        if tuple(array.shape) != tuple(shape):
            found = brief(str(tuple(array.shape)), 80)
            raise InvalidReplyError(f"{name} has shape {found}, expected {tuple(shape)}")
        if array.dtype not in FLOATS:
            problem = f"{name} holds {brief(str(array.dtype), 40)}"
            raise InvalidReplyError(f"{problem}, expected floating-point numbers")


def _values(name: str, array: Declared, order: Order) -> np.ndarray:
    """Return what came, in the type that it will be used in: there it must be finite, too."""
    sent = order.arrays.get(name)
    wanted = sent.dtype if sent is not None and sent.dtype.kind == "f" else np.dtype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values: np.ndarray = array.values().astype(wanted, copy=False)
    problem = diverged(values)
    if problem is not None:
        raise InvalidReplyError(f"{name} {problem}")
    if name.rpartition(".")[2] == "running_var" and values.size and (least := values.min()) < 0:
        raise InvalidReplyError(f"{name} holds {least:g}, and a variance cannot be negative")
    return values
