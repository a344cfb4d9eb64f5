"""The ClientApp: messages in, answers of the method's client out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.adapter import answer_evaluate, answer_failure, answer_query, answer_train
from clients.client import Client
from clients.failures import kind_of
from clients.private_parts import PrivatePartsClient
from clients.site import own_data, shared, site_of
from corolla.config.build import build_client
from corolla.errors import RefusedError
from corolla.records.errors import CorruptStateError

_LOG = logging.getLogger("corolla")
CONFIG_RECORD = "run"
"""Holds the configuration in a message of a run that `flwr run .` started: its run-config has none."""
KIND = "kind"
"""The question whether a node is a simulated one."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a training task."""
    context = _configured(message, context)
    with _kept_to_the_site(context):
        return _told(answer_train, message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer an evaluation task."""
    context = _configured(message, context)
    with _kept_to_the_site(context):
        return _told(answer_evaluate, message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say who this node is, or only of what kind."""
    if dict(message.content["task"]).get("question") == KIND:
        node = context.node_config
        simulated = "partition-id" in node and own_data(node) is None
        return Message(
            RecordDict({"info": ConfigRecord({"simulated": simulated})}), reply_to=message
        )
    context = _configured(message, context)
    with _kept_to_the_site(context):
        return answer_query(_client(message, context), message)


def _told(
    answer: Callable[[Client, Message], Message], message: Message, context: Context
) -> Message:
    """Answer the task, or tell in a word that the server understands why this device cannot do it."""
    try:
        return answer(_client(message, context), message)
    except Exception as error:
        kind = kind_of(error)
        if kind is None:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Outside the handler: the traceback, and with it what the task allocated, is gone.
    torch.cuda.empty_cache()  # clients of a simulation share the device; does nothing without one
    _LOG.warning("this site could not carry out a task (%s): %s", kind, reason)
    return answer_failure(kind, reason, message)


def _configured(message: Message, context: Context) -> Context:
    """Return the context with the configuration that the message brings, where its run has none."""
    if context.run_config.get("config") or CONFIG_RECORD not in message.content:
        return context
    told = copy.copy(context)  # Flower refuses a context whose run_config was written to
    config = str(message.content[CONFIG_RECORD]["config"])
    told.run_config = {**context.run_config, "config": config}
    return told


def _client(message: Message, context: Context) -> Client:
    site = site_of(context, dict(message.content["task"]))
    client: Client = build_client(site.config, site=site)
    return PrivatePartsClient(site=site, client=client) if site.config.private else client


@contextmanager
def _kept_to_the_site(context: Context) -> Iterator[None]:
    """On a real node, keep what names its files and folders out of the reason that the server gets."""
    try:
        yield
    except (RefusedError, CorruptStateError, OSError) as error:
        if not shared(str(context.run_config["config"])).config.on_nodes:
            raise
        _LOG.error("this site cannot take part: %s", error)
        keys = type(error).__name__
        if isinstance(error, RefusedError):
            keys = ", ".join(sorted({fault.key for fault in error.faults}))
        raise SiteRefusedError(
            f"the site cannot take part ({keys}); its own log says why"
        ) from None


class SiteRefusedError(Exception):
    """A real node cannot take part, for a reason that only its own log holds."""
