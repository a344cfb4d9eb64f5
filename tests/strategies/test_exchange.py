"""What is made of replies: whatever is wrong with one is its client's failure, and nothing else's."""

from __future__ import annotations

import logging
import math
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from clients.wire import declared, from_record, to_record
from corolla.spaces.architecture import Architecture
from corolla.tasks import Failure, Reply, Task
from strategies.exchange import Exchange, Order, Terms
from strategies.metrics import CHOICES, REPLY_METRICS, Admission, Metric, Text
from tests.packs import pack

NAMES = ("w", "bn.running_var")
Change = Callable[[RecordDict], Any]


def _exchange(**terms: Any) -> tuple[Exchange, dict[str, Message]]:
    """Return an exchange with clients 0 and 1, and its messages."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    sent = {name: np.ones(3, np.float32) for name in NAMES}
    orders = [
        Order(
            task=Task(client=client, round=4, architecture=Architecture((1, 0))),
            arrays=sent,
            returns=dict.fromkeys(NAMES, (3,)),
            needs=("val_accuracy",),
        )
        for client in "01"
    ]
    exchange = Exchange(orders, {"0": 10, "1": 11}, terms=Terms(**terms))
    messages = {}
    for message in exchange.messages():
        client = str(message.content["task"]["client"])
        message.metadata.__dict__["_message_id"] = f"to {client}"
        messages[client] = message
    return exchange, messages


def _content(client: str) -> RecordDict:
    info = {"round": 4, "client": client, "architecture": [1, 0]}
    metrics = {"num_examples": 8, "val_accuracy": 0.5, "handling_s": 1.5, "val_loss": 2.0}
    arrays = {name: np.full(3, 2.0, np.float32) for name in NAMES}
    return RecordDict(
        {
            "info": ConfigRecord(info),  # type: ignore[arg-type]
            "metrics": MetricRecord(metrics),  # type: ignore[arg-type]
            "arrays": to_record(arrays),
        }
    )


def _sorted(change: Change, **terms: Any) -> tuple[list[Reply], list[Failure]]:
    """Return what is made of client 0's good reply and client 1's changed one."""
    exchange, messages = _exchange(**terms)
    changed = _content("1")
    change(changed)
    return exchange.sort(
        [Message(_content("0"), reply_to=messages["0"]), Message(changed, reply_to=messages["1"])]
    )


def _arrays(**arrays: Any) -> Change:
    def change(content: RecordDict) -> None:
        named = {name.replace("__", "."): array for name, array in arrays.items()}
        content["arrays"] = to_record({**from_record(content.array_records["arrays"]), **named})

    return change


def _past_flower(record: str, values: dict[str, Any]) -> Change:
    """Set values of a record past Flower's own checks: another release may have others."""
    return lambda content: content[record].__dict__["_data"].update(values)


def _metrics(**metrics: Any) -> Change:
    return _past_flower("metrics", metrics)


def _info(**info: Any) -> Change:
    return _past_flower("info", info)


def _packed(listed: Any, data: bytes) -> Change:
    return lambda content: content["arrays"].__setitem__("000000", pack(listed, data))


ONES = np.ones(3, np.float32)
BAD: dict[str, tuple[Change, str]] = {
    "float64 beyond float32": (_arrays(w=np.array([1, 1e39, 1])), "NaN or infinite"),
    "near the limit": (_arrays(w=np.array([1, -3e38, 1], np.float32)), "beyond 1e\\+18"),
    "NaN": (_arrays(w=np.array([1, np.nan, 1], np.float32)), "NaN or infinite"),
    "variance": (
        _arrays(bn__running_var=np.array([1, -1e-3, 1], np.float32)),
        "variance cannot be neg",
    ),
    "type": (_arrays(w=np.ones(3, np.int32)), "w holds int32, expected"),
    "shape": (_arrays(w=np.ones((3, 1), np.float32)), r"w has shape \(3, 1\), expected \(3,\)"),
    "one name more": (_arrays(v=ONES), "1 wrong array names, the first: 'v'"),
    "names without numbers": (  # each takes the server twenty times what it takes the client
        _packed([[str(number), "bool", [0]] for number in range(2000)], b""),
        r"more than \d+ arrays are listed",
    ),
    "cut": (_packed([["w", "float32", [3]]], bytes(11)), "'w' has 11 bytes"),
    "name of a type": (_packed([["w", "f4," * 10_000, [3]]], bytes(12)), "'w' holds f4,f4"),
    "no pack": (lambda content: content["arrays"].update(w=Array(ONES)), "is no pack of arrays"),
    "no metrics": (lambda content: content.pop("metrics"), "reply holds"),
    "another record": (
        lambda content: content.__setitem__("more", ArrayRecord()),
        "'more', which is not asked for",
    ),
    "info as arrays": (lambda content: content.__setitem__("info", ArrayRecord()), "'info'"),
    "other round": (_info(round=3), "reply is for round 3, expected 4"),
    "long round": (_info(round="9" * 10**6), "reply is for round '999"),
    "other client": (_info(client="0"), "reply is for client '0'"),
    "architecture": (_info(architecture=[1, 1]), "another architecture"),
    "own architecture": (_info(own_architecture=[1, "1"]), "own_architecture has an entry"),
    "own architecture of another space": (_info(own_architecture=[7, 7]), "7, 7 is none of ours"),
    "text": (_info(told="x" * 101), "told must have 100 characters at most"),
    "accuracy": (_metrics(val_accuracy=1.1), "val_accuracy is 1.1, must lie in 0..1"),
    "no accuracy": (
        lambda content: content["metrics"].pop("val_accuracy"),
        "the reply lacks val_accuracy",
    ),
    "fine-tuned": (_metrics(fine_tuned_val_accuracy=math.nan), "is nan, must be finite"),
    "time": (_metrics(handling_s=-1e-9), "handling_s is -1e-09, must lie in"),
    "samples": (_metrics(samples_processed=math.nan), "samples_processed is nan"),
    "half a sample": (_metrics(samples_processed=1.5), "must be whole"),
    "no examples": (_metrics(num_examples=0), "num_examples is 0, must lie in"),
    "loss": (_metrics(train_loss=1e308), r"train_loss is 1e\+308"),
    "best of losses": (_metrics(val_loss=-math.inf), "val_loss is -inf, must be finite"),
    "list": (_metrics(val_accuracy=[0.5]), "val_accuracy must be a number"),
    "truth": (_metrics(val_accuracy=True), "val_accuracy must be a number"),
    "overflow": (_metrics(val_accuracy=10**5000), "val_accuracy must lie in 0..1"),
    "word": (_metrics(handling_s="soon"), "handling_s must be a number"),
    "of the method": (_metrics(phase=4), "phase is 4, must lie in 1..3"),
}


def _check(architecture: Architecture) -> Architecture:
    if max(architecture.choices) > 1:
        raise ValueError(f"{str(architecture.to_list())[1:-1]} is none of ours")
    return architecture


def _admission() -> Admission:
    phase = Metric(least=1, most=3, whole=True)
    notes = {"own_architecture": CHOICES, "told": Text(most=100)}
    return Admission(metrics={**REPLY_METRICS, "phase": phase}, notes=notes)


@pytest.mark.parametrize("kind", BAD)
def test_a_reply_that_is_not_what_was_ordered_is_its_clients_failure(kind: str) -> None:
    change, reason = BAD[kind]
    valid, (failure,) = _sorted(change, admission=_admission(), check=_check)
    assert [reply.client for reply in valid] == ["0"]
    assert failure.client == "1"
    assert len(failure.reason) <= 300
    assert failure.reason.isprintable()
    assert re.search(reason, failure.reason), failure.reason


def test_what_is_private_is_neither_sent_nor_taken() -> None:
    sent = {name: np.ones(3, np.float32) for name in NAMES}
    architecture = Architecture((1, 0))
    orders = [
        Order(
            task=Task(client=client, round=4, architecture=architecture),
            arrays=sent,
            returns=dict.fromkeys(NAMES, (3,)),
            of=of,
        )
        for client, of in (("0", "task"), ("1", Architecture((0, 0))), ("2", "task"), ("3", None))
    ]
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    exchange = Exchange(orders, dict.fromkeys("0123", 10), private=frozenset({"bn.running_var"}))
    messages = list(exchange.messages())
    names = [list(declared(message.content.array_records["arrays"])) for message in messages]
    assert names == [["w"], ["w"], ["w"], ["w", "bn.running_var"]]
    assert [message.content["task"].get("withheld") for message in messages] == [
        *(
            [1, 0],
            [0, 0],
            [1, 0],
            None,
        )  # the last are no network's arrays: their names mean nothing
    ]
    answers = []
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = f"to {number}"
        content = _content(str(number))
        if number in (0, 1):
            arrays = from_record(content.array_records["arrays"])
            content["arrays"] = to_record({"w": arrays["w"]})
        answers.append(Message(content, reply_to=message))
    valid, (failure,) = exchange.sort(answers)
    assert [reply.client for reply in valid] == ["0", "1", "3"]
    assert failure.client == "2"
    assert failure.reason == "1 wrong array names, the first: 'bn.running_var'"
    for reply, values, size in zip(valid, (1.0, 1.0, 2.0), (12, 12, 24), strict=True):
        assert list(reply.arrays) == list(NAMES)
        assert reply.arrays["w"].tolist() == [2.0] * 3
        assert reply.arrays["bn.running_var"].tolist() == [values] * 3
        assert (reply.bytes_down, reply.bytes_up) == (size, size)
        assert reply.task.withheld is None


def test_what_is_in_bounds_is_taken() -> None:
    def change(content: RecordDict) -> None:
        _arrays(w=np.array([-0.0, 1e-40, 1e18]))(content)
        _metrics(val_loss=math.nan, phase=3, train_loss=0.0)(content)
        _info(own_architecture=[0, 1], told="yes")(content)

    (_, reply), failures = _sorted(change, admission=_admission(), check=_check)
    assert failures == []
    assert reply.arrays["w"].dtype == np.float32  # what came as float64 is used as what was sent
    assert reply.arrays["w"].tobytes() == np.array([-0.0, 1e-40, 1e18], np.float32).tobytes()
    assert reply.bytes_up == 3 * 8 + 3 * 4  # as it came
    assert (reply.own_architecture, reply.notes) == (Architecture((0, 1)), {"told": "yes"})
    assert reply.metrics["phase"] == 3.0
    assert math.isnan(reply.metrics["val_loss"])


def test_what_nobody_asked_for_is_dropped_with_one_warning_of_each_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def change(content: RecordDict) -> None:
        _metrics(round=math.nan, extra="x" * 10**6)(content)
        _info(own_architecture=[0, 1], decisions="[" * 10**5)(content)

    admission = Admission()
    for _ in range(2):
        (_, reply), failures = _sorted(change, admission=admission)
        assert failures == []
        assert sorted(reply.metrics) == ["handling_s", "num_examples", "val_accuracy", "val_loss"]
        assert reply.architecture == Architecture((1, 0))
        assert reply.notes == {}
    dropped = [record.getMessage() for record in caplog.records]
    names = ["own_architecture", "decisions", "round", "extra"]
    assert dropped == [f"replies hold {n!r}, which was not asked for: dropped" for n in names]


def test_names_that_nobody_asked_for_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    _sorted(_metrics(**{f"m{n}": 1 for n in range(10_000)}))
    assert len(caplog.records) == 21


def test_a_client_counts_for_no_more_examples_than_it_was_known_to_have() -> None:
    known: dict[str, int | None] = {"0": None, "1": 100}
    for claimed, counted in ((7, 7), (100, 100), (10**12, 100)):
        (_, reply), _ = _sorted(_metrics(num_examples=claimed), most_examples=known.get)
        assert reply.num_examples == counted


def test_the_first_answer_to_a_message_of_this_round_counts() -> None:
    exchange, messages = _exchange()
    older, _ = _exchange()
    late = Message(_content("1"), reply_to=_exchange()[1]["1"])
    late.metadata.__dict__["_reply_to_message_id"] = "of an older round"
    second = _content("0")
    _metrics(val_accuracy=0.9)(second)
    valid, failures = exchange.sort(
        [
            late,
            Message(_content("0"), reply_to=messages["0"]),
            Message(second, reply_to=messages["0"]),
        ]
    )
    assert [(reply.client, reply.metrics["val_accuracy"]) for reply in valid] == [("0", 0.5)]
    assert failures == [Failure("1", "no reply before the round's deadline")]
    assert older is not exchange


@pytest.mark.parametrize(
    "error",
    [
        Error(ErrorCode.UNKNOWN, "<class 'ray.exceptions.ActorDiedError'>:<'It is gone'>"),
        Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "no images"),
        Error(ErrorCode.UNKNOWN, "\x1b[2J" + "ActorDiedError\n" * 10**5),
    ],
)
def test_a_text_of_a_client_ends_no_run(error: Error) -> None:
    exchange, messages = _exchange()
    _, failure = exchange.sort([Message(error, reply_to=messages["1"])])[1]
    assert failure.client == "1"
    assert failure.reason.startswith(f"error {error.code}: ")
    assert len(failure.reason) <= 300
    assert failure.reason.isprintable()


def test_messages_are_made_one_by_one_and_share_what_several_clients_get() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    same, own = {"w": np.ones(3, np.float32)}, {"w": np.zeros(3, np.float32)}
    orders = [
        Order(
            task=Task(client=client, round=4, architecture=Architecture((1, 0))),
            arrays=arrays,
            returns={"w": (3,)},
        )
        for client, arrays in (("0", same), ("1", own), ("2", same))
    ]
    messages = Exchange(orders, dict.fromkeys("012", 10)).messages()
    assert len(messages) == 3
    first = next(iter(messages))
    gone = weakref.ref(second := next(iter(messages)))
    third = next(iter(messages))
    assert third.content["arrays"] is first.content["arrays"]
    assert second.content["arrays"] is not first.content["arrays"]
    del second
    assert gone() is None  # nobody keeps what was sent
