"""What replies say of models, over all clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corolla.records.summary import spread
from corolla.tasks import Reply
from corolla.types import ClientId
from strategies.base import CorollaStrategy


def scores_of(
    replies: Sequence[Reply], prefix: str, *, test_images: Mapping[ClientId, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Return spread and values per client of both accuracies under their plain names.

    With ``test_images`` of each client the test accuracy has a ``weighted_mean`` as well.
    """
    return {
        key: spread(
            {r.client: r.metrics[prefix + key] for r in replies if prefix + key in r.metrics},
            images=images,
        )
        for key, images in (("test_accuracy", test_images), ("val_accuracy", None))
    }


def global_scores(
    strategy: CorollaStrategy,
    replies: Sequence[Reply],
    scores: dict[str, dict[str, Any]],
    *,
    test_images: Mapping[ClientId, int] | None = None,
) -> dict[str, dict[str, Any]] | None:
    """Return the global model's scores; None where there is no global model.

    Where clients report them apart from their own model's, those; else the plain ones are the global model's.
    With parts that clients train for themselves there is no model for all, whatever they report.
    """
    if strategy.federation.private and not strategy.private_is_common:
        return None
    if any("global_val_accuracy" in reply.metrics for reply in replies):
        return scores_of(replies, "global_", test_images=test_images)
    return scores if strategy.has_global else None


def without_clients(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the spreads without the values of single clients."""
    return {
        key: {k: v for k, v in value.items() if k != "per_client"} for key, value in scores.items()
    }
