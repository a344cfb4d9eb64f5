"""Between Flower's messages and a client's methods.

Flower 1.41 keeps NumPyClient but connects nothing of its message API to it: a ClientApp's handlers get a
Message. This is the only file that imports NumPyClient's module. There an array has a place, with us a name:
``config`` holds the task's scalars and, under ``names``, the names of ``parameters``; ``fit`` tells the names
of what it returns under ``names`` of its metrics.

    train    -> fit, deploy, or as_it_is, as the task says -> arrays, num_examples, metrics
    evaluate -> evaluate, or as_it_is                      -> loss, num_examples, metrics
    query    -> facts                                      -> properties
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient

from clients.client import Client
from clients.wire import from_record, to_record
from corolla.tasks import AS_IS, Answer, Task
from corolla.types import Arrays

_Work = Callable[[Task, Arrays], Answer]
_ECHOED = ("client", "round", "architecture")


class FlowerClient(NumPyClient):
    """A client as Flower knows clients."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_properties(self, config: Any) -> dict[str, Any]:
        """Return what the client says about itself."""
        return self._client.facts()

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, Any]]:
        """Train, or deploy where the task says so."""
        task, arrays = _task(parameters, config)
        client = self._client
        work = self._work(task, client.deploy if task.is_deployment else client.fit)
        answer = work(task, arrays)
        names = {"names": list(answer.arrays)}
        return list(answer.arrays.values()), answer.num_examples, {**answer.metrics, **names}

    def evaluate(self, parameters: list[Any], config: Any) -> tuple[float, int, dict[str, Any]]:
        """Evaluate; the loss is that on the validation images."""
        task, arrays = _task(parameters, config)
        answer = self._work(task, self._client.evaluate)(task, arrays)
        metrics = dict(answer.metrics)
        return metrics["val_loss"], answer.num_examples, metrics

    def _work(self, task: Task, otherwise: _Work) -> _Work:
        return self._client.as_it_is if task.extra.get(AS_IS) else otherwise


def answer_train(client: Client, message: Message) -> Message:
    """Have ``client`` train, or deploy, and return the reply."""
    start = time.perf_counter()
    parameters, config = _read(message)
    arrays, num_examples, metrics = FlowerClient(client).fit(parameters, config)
    record = to_record(dict(zip(metrics.pop("names"), arrays, strict=True)))
    return _reply(message, config, num_examples, metrics, start, record)


def answer_evaluate(client: Client, message: Message) -> Message:
    """Have ``client`` evaluate and return the reply."""
    start = time.perf_counter()
    parameters, config = _read(message)
    loss, num_examples, metrics = FlowerClient(client).evaluate(parameters, config)
    return _reply(message, config, num_examples, {**metrics, "loss": loss}, start, None)


def answer_query(client: Client, message: Message) -> Message:
    """Return what ``client`` says about itself."""
    properties = FlowerClient(client).get_properties({})
    return Message(RecordDict({"info": ConfigRecord(dict(properties))}), reply_to=message)


def answer_failure(kind: str, reason: str, message: Message) -> Message:
    """Return word of a task that cannot be done on this device: a kind of `corolla.tasks.FAILURE_KINDS`."""
    record = ConfigRecord({"kind": kind, "reason": reason})
    return Message(RecordDict({"failure": record}), reply_to=message)


def _task(parameters: list[Any], config: Mapping[str, Any]) -> tuple[Task, Arrays]:
    return Task.from_config(config), dict(zip(config["names"], parameters, strict=True))


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
