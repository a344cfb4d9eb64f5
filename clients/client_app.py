"""The ClientApp: messages in, answers of the method's NumPyClient out."""

from __future__ import annotations

import logging
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.adapter import NumPyClient, answer_evaluate, answer_query, answer_train
from clients.site import shared, site_of
from corolla.config.build import build_client
from corolla.errors import RefusedError

_LOG = logging.getLogger("corolla")

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
    try:
        site = site_of(context, task)
        client: NumPyClient = build_client(site.config, site=site)
    except RefusedError as error:
        if not shared(str(context.run_config["config"])).config.on_nodes:
            raise
        # The faults may name files and folders of the site: they stay in the site's own log.
        _LOG.error("this site cannot take part: %s", error)
        keys = ", ".join(sorted({fault.key for fault in error.faults}))
        raise SiteRefusedError(
            f"the site cannot take part ({keys}); its own log says why"
        ) from None
    return client


class SiteRefusedError(Exception):
    """A real node cannot take part, for a reason that only its own log holds."""
