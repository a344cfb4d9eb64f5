"""What a message asks reaches the right method of a client, and its answer's arrays keep their names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.client import NumPyClient
from flwr.supercore.task_identity import TaskIdentity

from clients.adapter import FlowerClient, answer_evaluate, answer_query, answer_train
from clients.client import Client
from clients.wire import from_record, to_record
from corolla.spaces.architecture import Architecture
from corolla.tasks import Answer, Task
from corolla.types import Arrays

SENT = {"b": np.array([1.0, 2.0], np.float32), "a": np.array([3.0], np.float32)}


class _Echo(Client):
    """Sends back what it received in another order, and which method was asked."""

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        turned = {name: 2 * arrays[name] for name in sorted(arrays)}
        said = {"phase": 1, "decisions": "fit", "share": True, "classes": [0, 2]}
        return Answer(num_examples=7, arrays=turned, metrics=said)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        return Answer(num_examples=7, metrics={"val_loss": np.float32(0.5)})

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        return Answer(num_examples=7, metrics={"decisions": "deploy"})

    def facts(self) -> dict[str, Any]:
        return {"client": "3"}


def _message(**extra: Any) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    task = Task(client="3", round=2, architecture=Architecture((1, 0)), extra=extra)
    content = RecordDict({"arrays": to_record(SENT), "task": ConfigRecord(task.to_config())})
    return Message(content, dst_node_id=1, message_type="train")


@pytest.fixture
def client() -> Client:
    site: Any = SimpleNamespace()
    return _Echo(site=site)


def test_arrays_keep_their_names_in_any_order(client: Client) -> None:
    reply = answer_train(client, _message()).content
    came = from_record(reply.array_records["arrays"])
    assert {name: array.tolist() for name, array in came.items()} == {"a": [6.0], "b": [2.0, 4.0]}
    info = dict(reply.config_records["info"])
    assert info == {
        "client": "3", "round": 2, "architecture": [1, 0],
        "decisions": "fit", "share": True, "classes": [0, 2],
    }  # fmt: skip
    numbers = dict(reply.metric_records["metrics"])
    assert (numbers["phase"], numbers["num_examples"]) == (1, 7)
    assert "names" not in info


def test_deploying_is_a_method_of_its_own(client: Client) -> None:
    reply = answer_train(client, _message(deploy=True, keep=False)).content
    assert reply.config_records["info"]["decisions"] == "deploy"
    assert not reply.array_records["arrays"]


def test_an_evaluation_tells_its_loss(client: Client) -> None:
    reply = answer_evaluate(client, _message()).content
    numbers = dict(reply.metric_records["metrics"])
    assert numbers["loss"] == numbers["val_loss"] == 0.5
    assert "arrays" not in reply


def test_flower_sees_a_numpy_client(client: Client) -> None:
    assert isinstance(FlowerClient(client), NumPyClient)
    info = answer_query(client, _message()).content.config_records["info"]
    assert dict(info) == {"client": "3"}
