"""The ClientApp: messages in, answers of the method's NumPyClient out."""

from __future__ import annotations

from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.adapter import NumPyClient, answer_evaluate, answer_query, answer_train
from clients.site import site_of
from corolla.config.build import build_client

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a training task."""
    return answer_train(_client(message, context), message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer an evaluation task."""
    return answer_evaluate(_client(message, context), message)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say who this node is."""
    return answer_query(_client(message, context), message)


def _client(message: Message, context: Context) -> NumPyClient:
    task: dict[str, Any] = dict(message.content["task"])
    site = site_of(context, task)
    client: NumPyClient = build_client(site.config, site=site)
    return client
