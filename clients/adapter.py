"""Between Flower's messages and a NumPyClient's methods; array names survive the way.

Flower 1.41 keeps NumPyClient but connects nothing of its message API to it: a ClientApp's handlers get a
Message. This is the only file that imports NumPyClient's module.

    train    -> fit(parameters, config)      -> arrays, num_examples, metrics
    evaluate -> evaluate(parameters, config) -> loss, num_examples, metrics
    query    -> get_properties(config)       -> properties

``config`` holds the task's scalars and, under ``names``, the names of ``parameters``. What comes back is
named alike: ``fit`` returns its arrays in the order of ``names``, or of a list of names that it puts into
its metrics under ``names``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient

from clients.wire import from_record, to_record

__all__ = ["NumPyClient", "answer_evaluate", "answer_failure", "answer_query", "answer_train"]

_ECHOED = ("client", "round", "architecture")


def answer_train(client: NumPyClient, message: Message) -> Message:
    """Have ``client`` train and return the reply."""
    start = time.perf_counter()
    parameters, config = _read(message)
    arrays, num_examples, metrics = client.fit(parameters, config)
    names = metrics.pop("names", config["names"])
    if not isinstance(names, list) or len(names) != len(arrays):
        raise ValueError(f"fit returned {len(arrays)} arrays for {len(list(names))} names")
    record = to_record(dict(zip(names, arrays, strict=True)))
    return _reply(message, config, num_examples, metrics, start, record)


def answer_evaluate(client: NumPyClient, message: Message) -> Message:
    """Have ``client`` evaluate and return the reply."""
    start = time.perf_counter()
    parameters, config = _read(message)
    loss, num_examples, metrics = client.evaluate(parameters, config)
    return _reply(message, config, num_examples, {**metrics, "loss": loss}, start, None)


def answer_query(client: NumPyClient, message: Message) -> Message:
    """Return what ``client`` says of itself."""
    properties = client.get_properties({})
    return Message(RecordDict({"info": ConfigRecord(dict(properties))}), reply_to=message)


def answer_failure(kind: str, reason: str, message: Message) -> Message:
    """Return word of a task that cannot be done on this device: a kind of `corolla.tasks.FAILURE_KINDS`."""
    record = ConfigRecord({"kind": kind, "reason": reason})
    return Message(RecordDict({"failure": record}), reply_to=message)


def _read(message: Message) -> tuple[list[Any], dict[str, Any]]:
    arrays = from_record(message.content.array_records["arrays"])
    config = {**message.content.config_records["task"], "names": list(arrays)}
    return list(arrays.values()), config


def _reply(
    message: Message,
    config: Mapping[str, Any],
    num_examples: int,
    metrics: Mapping[str, Any],
    start: float,
    arrays: ArrayRecord | None,
) -> Message:
    # MetricRecord takes plain ints and floats only; everything else travels as information.
    numbers: dict[str, int | float | list[int] | list[float]] = {"num_examples": int(num_examples)}
    info: dict[str, Any] = {key: config[key] for key in _ECHOED if key in config}
    for key, value in metrics.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | str | bytes | list):
            info[key] = value
        else:
            numbers[key] = value
    numbers["handling_s"] = time.perf_counter() - start
    content = RecordDict({"metrics": MetricRecord(numbers), "info": ConfigRecord(info)})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, reply_to=message)
