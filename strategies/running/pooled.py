"""Models that serve more than one client, on all clients' images together: never in a personalised column."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from corolla.tasks import Reply
from corolla.types import ClientId
from strategies.base import CorollaStrategy
from strategies.evaluation import Evaluator

_LOG = logging.getLogger("corolla")
_SPLITS = {"test_accuracy": "test", "val_accuracy": "validation"}


def pooled_scores(
    strategy: CorollaStrategy,
    evaluator: Evaluator,
    facts: Mapping[ClientId, Mapping[str, Any]],
    server_round: int,
) -> dict[str, dict[str, Any]]:
    """Return name -> accuracies and costs of each of the method's global models; empty where it has none.

    An accuracy is over all images of all clients that answered: the mean of theirs, weighted by their images
    of the split.
    """
    found = {}
    for name, deployment in strategy.global_models().items():
        replies, failures = evaluator.as_it_is(server_round, deployment)
        for failure in failures:
            _LOG.warning("%s model, client %s: %s", name, failure.client, failure.reason)
        costs = strategy.space.costs(deployment.architecture)
        found[name] = {
            "choices": deployment.architecture.to_list(),
            "params": costs.params,
            "macs": costs.macs,
            "clients": len(replies),
            **pooled(replies, facts),
        }
    return found


def pooled(
    replies: list[Reply], facts: Mapping[ClientId, Mapping[str, Any]]
) -> dict[str, float | int]:
    """Return both accuracies over all images together, and how many of them are test images."""
    scores: dict[str, float | int] = {}
    for key, split in _SPLITS.items():
        images = {r.client: _images(facts.get(r.client, {}), split) for r in replies}
        total = sum(images.values())
        if total:
            right = sum(reply.metrics[key] * images[reply.client] for reply in replies)
            scores[key] = right / total
        if split == "test":
            scores["test_images"] = total
    return scores


def _images(known: Mapping[str, Any], split: str) -> int:
    return int(known.get("num_examples", {}).get(split, 0))
