"""SuperNodes without processes: threads that speak Flower's Fleet API and send back the arrays that came.

To a SuperLink they are nodes like others: they have keys, send heartbeats, fetch orders piece by
piece, upload replies piece by piece, and try again as Flower's own do. What is missing is a SuperNode's
own cost: a Python for each message, and training.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_connection import http_request_response

from clients.adapter import answer_evaluate, answer_query, answer_train
from clients.client import Client
from corolla.tasks import Answer, Task
from corolla.types import Arrays

Keys = tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]
_LOG = logging.getLogger(__name__)
_IMAGES = [80, 20, 20]
_SCORES = {
    "train_loss": 1.0,
    "val_loss": 1.0,
    "val_accuracy": 0.5,
    "test_accuracy": 0.5,
    "samples_processed": 80,
}


class Echo:
    """A client that returns what came, moved a little, with scores that it made up.

    Arrays that a SuperLink has already are not uploaded again: each node's must be its own.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._step = 1e-9 * zlib.crc32(name.encode())  # below 4.3

    def facts(self) -> dict[str, Any]:
        """Say who it is."""
        return {"client": self._name, "num_examples": _IMAGES}

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Return the arrays, moved towards this client's number."""
        moved = {name: array + 1e-3 * (self._step - array) for name, array in arrays.items()}
        return Answer(num_examples=_IMAGES[0], arrays=moved, metrics=dict(_SCORES))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Return no arrays: the site keeps its model."""
        return Answer(num_examples=_IMAGES[0], metrics=dict(_SCORES))

    evaluate = as_it_is = deploy


class LightNode(threading.Thread):
    """One node; it answers until `stop`."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        root_certificates: Path,
        keys: Keys,
        pause_s: float = 3.0,
    ) -> None:
        """``pause_s`` between two looks for an order: 3 as a SuperNode has."""
        super().__init__(name=name, daemon=True)
        self._client = cast(Client, Echo(name))
        self._address, self._pause_s = address, pause_s
        self._certificates, self._keys = str(root_certificates), keys
        self._stopped = threading.Event()
        self.connected = threading.Event()
        self.sent: set[int] = set()
        """Rounds whose order it has answered, and uploaded the whole answer."""

    def run(self) -> None:
        """Connect, and answer what comes."""
        with http_request_response(self._address, False, self._certificates, self._keys) as calls:
            self.connected.set()
            while not self._stopped.is_set():
                try:
                    answered = self._answer_next(calls)
                except Exception as error:  # as a SuperNode: this message is lost, others come
                    _LOG.warning("%s lost a message: %s", self.name, error)
                    answered = False
                if not answered:
                    self._stopped.wait(self._pause_s)

    def stop(self) -> None:
        """Have it say goodbye, and wait for that."""
        self._stopped.set()
        self.join(30)

    def _answer_next(self, calls: Sequence[Any]) -> bool:
        _, receive, send, _, _, pull_object, push_object, confirm = calls
        received: tuple[Message, ObjectTree] | None = receive()
        if received is None:
            return False
        order, tree = received
        run_id, identifier = order.metadata.run_id, order.metadata.message_id
        pieces = pull_objects(
            [one.object_id for one in iterate_object_tree(tree)], lambda i: pull_object(run_id, i)
        )
        confirm(run_id, identifier)
        order = cast(Message, inflate_object_from_contents(tree.object_id, pieces))
        order.metadata.__dict__["_message_id"] = identifier
        reply = self._reply(order)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            wanted, session = send(reply, get_object_tree(reply), 0.0)
            push_objects(
                get_all_nested_objects(reply),
                lambda i, content: push_object(run_id, session, i, content),
                object_ids_to_push=wanted,
            )
        self.sent |= {int(number) for key, number in _task_of(order).items() if key == "round"}
        return True

    def _reply(self, order: Message) -> Message:
        kind = order.metadata.message_type
        if kind == "query":
            return answer_query(self._client, order)
        return (answer_train if kind == "train" else answer_evaluate)(self._client, order)


def start_nodes(nodes: Sequence[LightNode], timeout_s: float = 60.0) -> None:
    """Start them and return when all are connected."""
    for node in nodes:
        node.start()
    for node in nodes:
        assert node.connected.wait(timeout_s), f"{node.name} did not connect"


def _task_of(order: Message) -> dict[str, Any]:
    return dict(order.content.config_records["task"]) if order.has_content() else {}


def keys_of(path: Path) -> Keys:
    """Return a key pair out of the file of its private half."""
    private = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private, private.public_key()


def registered(names: Sequence[str], address: str, root_certificates: Path) -> dict[str, Keys]:
    """Make a key pair for each and register it, as the operator does by a command for each."""
    with ControlHttpClient.from_server_address(
        address,
        False,
        root_certificates.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    ) as control:
        found = {}
        for name in names:
            found[name] = generate_key_pairs()
            public = public_key_to_bytes(found[name][1])
            answer = control.RegisterNode(RegisterNodeRequest(public_key=public, name=name))
            assert answer.node_id, f"{name} could not be registered"
        return found
