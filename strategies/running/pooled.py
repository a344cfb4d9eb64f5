"""Models that serve more than one client, on all clients' images together: never in a personalised column."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.robust import RobustRule
from corolla.aggregation.statistics import is_statistic, moments_of, statistics_of
from corolla.aggregation.updates import Update
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, shapes_of
from strategies.base import CorollaStrategy, Deployment
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

    An accuracy is over all images of all clients that can run the model and answered: the mean of theirs,
    weighted by their images of the split. Where parts are private to clients, nobody has a global model: the
    server's own arrays of these parts were never trained.
    """
    if strategy.federation.private:
        return {}
    found = {}
    for name, made in strategy.global_models().items():
        deployment = of_all_images(strategy, evaluator, made, server_round)
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


def of_all_images(
    strategy: CorollaStrategy, evaluator: Evaluator, deployment: Deployment, server_round: int
) -> Deployment:
    """Return the model with BatchNorm statistics of all clients' training images together.

    Those of a supernet are averages over subnets of all sizes, and true of none. Each client tells what its
    images make of them. Nobody's answer: they stay as they are.
    """
    sent = {name: array for name, array in deployment.arrays.items() if is_statistic(name)}
    if not sent or evaluator.keeps_statistics:
        return deployment
    replies, failures = evaluator.statistics(server_round, deployment)
    for failure in failures:
        _LOG.warning("BatchNorm statistics, client %s: %s", failure.client, failure.reason)
    together = statistics_together(sent, replies, rule=strategy.federation.robust)
    return replace(deployment, arrays={**deployment.arrays, **together})


def statistics_together(
    sent: Arrays, replies: Sequence[Reply], *, rule: RobustRule | None
) -> Arrays:
    """Return the statistics of all these clients' images; whose moments are not finite is left out."""
    regions = leading_regions(shapes_of(sent))
    updates = []
    for reply in replies:
        with np.errstate(over="ignore"):
            moments = moments_of(reply.arrays)
        if all(np.isfinite(array).all() for array in moments.values()):
            weight = reply.num_examples
            updates.append(
                Update(arrays=moments, regions=regions, weight=weight, client=reply.client)
            )
        else:
            _LOG.warning("BatchNorm statistics of client %s are beyond all bounds", reply.client)
    return statistics_of(coverage_average(moments_of(sent), updates, rule=rule))


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
