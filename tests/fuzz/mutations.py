"""Seeded mutations of a client's real reply: everything that a client, or its network, can do to it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from clients.wire import from_record, to_record
from corolla.types import Arrays
from tests.packs import pack

NUMBERS: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, 1e308, -1e308, 1e39, 3.4e38, 1e18, 1e12, -1e12, 10**400, 2**63,
    -(2**63), -1, -0.0, 0, 1, 1.0000001, 0.5, 1e-45, 5e-324, -1e-9, 3, 10**15,
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "", "nan", "ActorDiedError", "<class 'ray.exceptions.ActorDiedError'>:<'it died'>",
    "[" * 100_000, '{"a":' * 50_000, "x" * 2_000_000, "\x1b[2J\r\n\x00round 1: done", "{not JSON",
    json.dumps([{"round": math.nan, "cell": 1}]), "[" * 900 + "]" * 900, "9" * 5000, "\ud800", "../..",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    True,
    None,
    [],
    [math.nan],
    [1, 2],
    [[]],
    ["1"],
    [0] * 50_000,
    b"\x80",
    {},
    (1,),
)
TRICKY_NAMES = (
    "round", "client", "architecture", "params", "macs", "bytes_up", "round_s", "failures", "per_client",
    "participants", "test_accuracy", "val_accuracy", "fine_tuned_test_accuracy", "global_val_accuracy",
    "global_test_accuracy", "received_val_accuracy", "val_loss", "train_loss", "samples_processed",
    "handling_s", "num_examples", "peak_memory_mib", "phase", "knn_lambda", "latency_ms", "loss",
    "state_restarted", "validation_in_training", "reward", "", "a" * 10_000, "a\nb", "__class__",
)  # fmt: skip
TRICKY_NOTES = (
    "round", "client", "architecture", "own_architecture", "decisions", "choices", "losses",
    "accuracies", "classes", "names", "kind", "",
)  # fmt: skip
VALUES = (
    math.nan,
    math.inf,
    -math.inf,
    1e39,
    3.4e38,
    -3.4e38,
    -0.0,
    1e-45,
    1e30,
    9.9e17,
    -1.0,
    0.0,
)
DTYPES = ("float64", "float16", "int32", "uint8", "bool")
NAMES_OF_TYPES = (
    "float64",
    "int8",
    "object",
    ">f4",
    "f4,f4",
    "",
    "V4",
    "(9,)f4",
    "f4," * 9999,
    "O",
)
SHAPES: tuple[Any, ...] = ([], [-1], [0], [10**12], [10**30, 0], [1] * 40, [True], [2**63])

Change = Callable[[RecordDict, random.Random], None]


def mutated(reply: Message, rng: random.Random, others: Sequence[Message]) -> list[Message]:
    """Return what arrives instead of ``reply``: mostly one message, with one to three changes.

    ``others``: replies of the same client in other exchanges, and of others in this one.
    """
    kind = rng.random()
    if kind < 0.06:
        text = rng.choice(TEXTS)
        return [
            _addressed(Message(Error(rng.randrange(-1, 12), text), reply_to=_asked(reply)), reply)
        ]
    if kind < 0.08:
        return []
    if kind < 0.14 and others:
        other = rng.choice(others)
        if not other.has_error():
            content = copied(other.content)
            return [_addressed(Message(content, reply_to=_asked(reply)), reply)]
    if kind < 0.17:  # an answer to something else, before or instead of the right one
        foreign = Message(copied(reply.content), reply_to=_asked(reply))
        foreign.metadata.__dict__["_reply_to_message_id"] = rng.choice(["", "of another round"])
        return [foreign, reply] if rng.random() < 0.5 else [foreign]
    content = copied(reply.content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(CHANGES)(content, rng)
    changed = _addressed(Message(content, reply_to=_asked(reply)), reply)
    if kind < 0.2:  # twice, in either order
        return [changed, reply] if rng.random() < 0.5 else [reply, changed]
    return [changed]


def copied(content: RecordDict) -> RecordDict:
    """Return records of their own with the same values."""
    found = RecordDict()
    for name, record in content.items():
        same = type(record)()
        _data(same).update(_data(record))
        found[name] = same
    return found


def _asked(reply: Message) -> Message:
    return reply  # Message(reply_to=...) only takes addresses from it


def _addressed(message: Message, reply: Message) -> Message:
    """Give ``message`` the address of ``reply``."""
    known = reply.metadata.reply_to_message_id
    message.metadata.__dict__["_reply_to_message_id"] = known
    return message


def _data(record: Any) -> dict[str, Any]:
    """Return what a record holds, past Flower's own checks: another release may have others."""
    values: dict[str, Any] = record.__dict__["_data"]
    return values


def _of(content: RecordDict, kind: type, rng: random.Random) -> dict[str, Any]:
    found = [record for record in content.values() if isinstance(record, kind) and len(record)]
    return _data(rng.choice(found)) if found else {}


# --- arrays -----------------------------------------------------------------------------------------------


def _arrays(content: RecordDict, rng: random.Random, change: Callable[[Arrays], None]) -> None:
    """Change the arrays of a record; one whose packs are spoiled already stays as it is."""
    packs = _of(content, ArrayRecord, rng)
    try:
        arrays = from_record(packs)  # type: ignore[arg-type]
    except ValueError:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        change(arrays)
    packs.clear()
    packs.update(to_record(arrays))


def _pack(content: RecordDict, rng: random.Random, change: Callable[[bytes], bytes]) -> None:
    packs = _of(content, ArrayRecord, rng)
    if packs:
        name = rng.choice(list(packs))
        stype = packs[name].stype
        packs[name] = pack(whole=change(packs[name].data))
        packs[name].__dict__["stype"] = stype


def _values(content: RecordDict, rng: random.Random) -> None:
    def change(arrays: Arrays) -> None:
        if not arrays:
            return
        name = rng.choice(list(arrays))
        values = arrays[name].astype(rng.choice(["float32", "float32", "float64", "float16"]))
        if rng.random() < 0.5 and values.size:
            values.reshape(-1)[rng.randrange(values.size)] = rng.choice(VALUES)
        else:
            values[...] = rng.choice(VALUES)
        arrays[name] = values

    _arrays(content, rng, change)


def _type(content: RecordDict, rng: random.Random) -> None:
    def change(arrays: Arrays) -> None:
        if arrays:
            name = rng.choice(list(arrays))
            arrays[name] = arrays[name].astype(rng.choice(DTYPES))

    _arrays(content, rng, change)


def _declared(content: RecordDict, rng: random.Random) -> None:
    """Say something else of an array, or of a pack, than what its bytes are."""

    def change(data: bytes) -> bytes:
        at = 4 + int.from_bytes(data[:4], "little")
        try:
            listed = json.loads(data[4:at])
            entry = rng.choice(listed)
            column = rng.randrange(3)
            entry[column] = rng.choice(
                [
                    (rng.choice(listed)[0], "", "x" * 10_000, 7, None),
                    NAMES_OF_TYPES,
                    (*SHAPES, [*entry[2], 1], entry[2][::-1], "(3,)", None, [[]]),
                ][column]
            )
        except (ValueError, TypeError, IndexError, RecursionError):
            return data
        return bytes(pack(listed, data[at:]).data)

    if rng.random() < 0.1:
        packs = _of(content, ArrayRecord, rng)
        for name, array in packs.items():
            packs[name] = pack(whole=array.data)  # the other is the honest reply's too
            packs[name].__dict__["stype"] = rng.choice(["numpy.ndarray", "torch", ""])
        return
    _pack(content, rng, change)


def _bytes(content: RecordDict, rng: random.Random) -> None:
    def change(data: bytes) -> bytes:
        at = rng.randrange(128)
        return rng.choice(
            [
                data[: rng.randrange(len(data) + 1)],
                data + rng.randbytes(9),
                b"",
                rng.randbytes(len(data)),
                data[:at] + rng.randbytes(1) + data[at + 1 :],
                b"PK\x03\x04" + data[4:],
                b"\xff\xff\xff\xff" + data[4:],
                b"\x00\x00\x00\x00" + data[4:],
                rng.choice(TEXTS).encode(errors="replace").join((b"\x40\x42\x0f\x00", data)),
                bytes(pack(text=b"[" * 65535, data=data).data),
                b"\x80\x04\x95cos\nsystem\n",
            ]
        )

    _pack(content, rng, change)


def _names(content: RecordDict, rng: random.Random) -> None:
    def change(arrays: Arrays) -> None:
        if not arrays:
            arrays["w"] = np.zeros(1, np.float32)
            return
        name = rng.choice(list(arrays))
        array = arrays[name]
        if rng.random() < 0.7:
            del arrays[name]
        if rng.random() < 0.7:
            arrays[rng.choice(["", name + "x", "x" * 10_000])] = array
        elif rng.random() < 0.5:
            arrays[name] = array  # in another order

    if "arrays" not in content or rng.random() < 0.2:  # packs too few, or twice
        packs = _data(content.setdefault("arrays", ArrayRecord()))
        packs["more"] = rng.choice([*packs.values(), pack([["w", "float32", [1]]], bytes(4))])
        return
    _arrays(content, rng, change)


def _variance(content: RecordDict, rng: random.Random) -> None:
    def change(arrays: Arrays) -> None:
        names = [name for name in arrays if name.endswith("running_var")]
        if names:
            arrays[rng.choice(names)][:1] = rng.choice([-1.0, -1e-30, -0.0, 1e17])

    _arrays(content, rng, change)


# --- numbers and notes --------------------------------------------------------------------------------------


def _number(content: RecordDict, rng: random.Random) -> None:
    metrics = _of(content, MetricRecord, rng)
    name = rng.choice([*metrics, *metrics, *TRICKY_NAMES])
    metrics[name] = rng.choice((*NUMBERS, *NUMBERS, *ODD, rng.choice(TEXTS)))


def _no_number(content: RecordDict, rng: random.Random) -> None:
    metrics = _of(content, MetricRecord, rng)
    if metrics:
        metrics.pop(rng.choice(list(metrics)))


def _note(content: RecordDict, rng: random.Random) -> None:
    info = _of(content, ConfigRecord, rng)
    name = rng.choice([*info, *info, *TRICKY_NOTES])
    known = info.get(name)
    if isinstance(known, list) and known and rng.random() < 0.6:
        changed = list(known)
        changed[rng.randrange(len(changed))] = rng.choice((*NUMBERS, "1", [], None))
        info[name] = rng.choice([changed, changed[:-1], changed * 2, changed[::-1]])
        return
    info[name] = rng.choice((*TEXTS, *ODD, rng.choice(NUMBERS)))


def _no_note(content: RecordDict, rng: random.Random) -> None:
    info = _of(content, ConfigRecord, rng)
    if info:
        info.pop(rng.choice(list(info)))


def _failure(content: RecordDict, rng: random.Random) -> None:
    if rng.random() < 0.7:
        content.clear()
    kind = rng.choice(["out_of_memory", "diverged", "lost", *TEXTS, *ODD])
    content["failure"] = ConfigRecord()
    _data(content["failure"]).update(kind=kind, reason=rng.choice((*TEXTS, *ODD)))
    if rng.random() < 0.2:
        content["failure"] = rng.choice([ArrayRecord(), ConfigRecord(), MetricRecord()])


def _record(content: RecordDict, rng: random.Random) -> None:
    name = rng.choice(["arrays", "metrics", "info", "more", ""])
    content.pop(name, None)
    kind = rng.choice([None, ArrayRecord, MetricRecord, ConfigRecord])
    if kind is not None:
        content[name] = kind()


CHANGES: tuple[Change, ...] = (
    _values, _values, _type, _declared, _declared, _bytes, _bytes, _names, _variance,
    _number, _number, _number, _no_number, _note, _note, _note, _no_note, _record,
    _failure,
)  # fmt: skip
