"""The lines of metrics.jsonl and clients.jsonl."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from corolla.errors import RunFailedError
from corolla.spaces.supernet import Supernet
from corolla.tasks import Reply
from corolla.types import ClientId
from strategies.base import RoundReport
from strategies.waiting import LOST, NOT_SENT, RESTARTED, UNFINISHED

_ENOUGH = 5  # clients that fail alike


def added(row: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` with what else is known; nothing that it says already is said otherwise."""
    return row | {key: value for key, value in more.items() if key not in row}


def round_metrics(
    server_round: int,
    report: RoundReport,
    elapsed: float,
    unusable: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the line of a round that took ``elapsed`` seconds; ``unusable``: nodes, and why."""
    replies = report.replies
    metrics: dict[str, Any] = {
        "round": server_round,
        "participants": [reply.client for reply in replies],
        "failures": len(report.failures),
        "failed": [failure.to_dict() for failure in report.failures],
    }
    if unusable:
        metrics["unusable"] = dict(unusable)
    for key in (
        "train_loss",
        "val_accuracy",
        "test_accuracy",
        "received_val_accuracy",
        "received_test_accuracy",
    ):
        values = [reply.metrics[key] for reply in replies if key in reply.metrics]
        metrics[key] = sum(values) / len(values) if values else None
    metrics |= {
        "round_s": elapsed,
        "bytes_down": sum(reply.bytes_down for reply in replies),
        "bytes_up": sum(reply.bytes_up for reply in replies),
    }
    return added(metrics, report.outcome.metrics)


def client_row(
    server_round: int, reply: Reply, report: RoundReport, *, space: Supernet, batch_size: int
) -> dict[str, Any]:
    """Return the line of one participant of a round."""
    costs = space.costs(reply.architecture, batch_size=batch_size)
    row: dict[str, Any] = {
        "round": server_round,
        "client": reply.client,
        "architecture": reply.architecture.to_list(),
        "num_examples": reply.num_examples,
        "params": costs.params,
        "macs": costs.macs,
        "bytes_down": reply.bytes_down,
        "bytes_up": reply.bytes_up,
        "round_s": reply.round_s,
    }
    return added(row, {**reply.metrics, **report.outcome.columns.get(reply.client, {})})


class FirstReplies:
    """Ends a run where everybody fails for one reason before there is a first reply.

    Later rounds would lose the others too. A few clients that lie are no reason: so many must have been
    asked, in as many rounds as that takes. Reasons that differ in numbers alone (images, batches, seconds)
    are one.
    """

    def __init__(self) -> None:
        self._failed: dict[ClientId, str] = {}

    def check(self, report: RoundReport, clients: int) -> None:
        """Raise RunFailedError after a round without a reply; ``clients``: of the federation."""
        self._failed |= {one.client: re.sub(r"\d+", "#", one.reason) for one in report.failures}
        reasons = set(self._failed.values())
        if len(reasons) != 1 or len(self._failed) < min(_ENOUGH, clients):
            return
        if any(
            text in reason for reason in reasons for text in (NOT_SENT, UNFINISHED, LOST, RESTARTED)
        ):
            return  # nothing of the configuration's: later rounds may do better
        raise RunFailedError(
            f"all {len(self._failed)} clients that were asked failed in the same way: "
            f"{report.failures[0].reason}\n"
            "Nothing was learned. If a setting is the cause, correct it and start a new run; "
            "if not, remove the cause and resume this run"
        )
