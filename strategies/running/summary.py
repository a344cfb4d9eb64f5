"""What is left of a run at its end: summary.json and the clients' models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corolla.config.schema import RunConfig
from corolla.records.client_models import model_directory
from corolla.records.run_directory import RunDirectory
from corolla.tasks import Failure, Reply
from corolla.types import ClientId
from strategies.base import CorollaStrategy
from strategies.running.progress import Totals
from strategies.running.records import added
from strategies.running.scores import global_scores, scores_of


def summarise(
    config: RunConfig,
    strategy: CorollaStrategy,
    replies: Sequence[Reply],
    failures: Sequence[Failure],
    *,
    best: Mapping[str, Any] | None,
    totals: Totals,
    facts: Mapping[ClientId, Mapping[str, Any]],
    known: int,
) -> dict[str, Any]:
    """Return summary.json; without accuracies where nobody was asked (``evaluation.final=none``).

    Args:
        config: the run's.
        strategy: as it is at the end.
        replies: of the clients that were asked, to their deployment.
        failures: of those that gave none.
        best: scores of the round that validation chose.
        totals: costs of all rounds.
        facts: what is known of each client.
        known: how many clients there are, asked or not.

    """
    images = {c: int(f["num_examples"]["test"]) for c, f in facts.items() if "num_examples" in f}
    as_trained = scores_of(replies, "", test_images=images) if replies else {}
    epochs = config.evaluation.fine_tune_epochs if replies else 0
    tuned = scores_of(replies, "fine_tuned_", test_images=images) if epochs else as_trained
    per_client = {reply.client: _client_entry(strategy, reply, facts) for reply in replies}
    summary: dict[str, Any] = {
        "method": config.method.name,
        "space": config.space.name,
        "dataset": config.images.name if config.images else "",
        "stage": config.stage,
        "seed": config.seed,
        "rounds": config.rounds,
        "clients": len(replies),
        "known_clients": known,
        "final": config.evaluation.final,
        "failures": [failure.to_dict() for failure in failures],
        "deploy": config.evaluation.deploy,
        **(tuned if config.evaluation.deploy == "fine_tuned" else as_trained),
        "best": _chosen(best),
        "costs": totals.to_dict(),
        "per_client": per_client,
        "beyond_limits": sum(not entry["within_limits"] for entry in per_client.values()),
        "class_names": list(config.images.classes) if config.images else [],
        "dimensions": strategy.space.describe(),
    }
    if replies:
        shared = global_scores(strategy, replies, as_trained, test_images=images)
        summary |= {"global": shared} if shared else {}
    if epochs:
        summary["as_trained"] = as_trained
        summary["fine_tuned"] = {"epochs": epochs, **tuned}
    return summary


def _chosen(best: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the round that validation chose; None where it was the latest because nothing chose."""
    if not best or not best.get("chosen", True):
        return None
    return {key: value for key, value in best.items() if key != "chosen"}


def _client_entry(
    strategy: CorollaStrategy, reply: Reply, facts: Mapping[ClientId, Mapping[str, Any]]
) -> dict[str, Any]:
    architecture = reply.architecture
    costs = strategy.space.costs(architecture, batch_size=strategy.federation.batch_size)
    entry: dict[str, Any] = {
        "architecture": strategy.space.values(architecture),
        "choices": architecture.to_list(),
        **costs.to_dict(),
        # What is the same for everybody may be too much for some: such arms are marked.
        "within_limits": strategy.federation.fits(reply.client, architecture),
        **strategy.describe(reply.client),
    }
    told = strategy.told_in_summary(reply)
    return added(entry, {**facts.get(reply.client, {}), **told})


def save_model(directory: RunDirectory, strategy: CorollaStrategy, reply: Reply) -> None:
    """Write the client's model: what it returned, else the server's slice for it."""
    kept = model_directory(directory.path, reply.client)
    if not strategy.returns_models and kept.is_dir():
        return  # a simulated client put it there itself
    arrays = reply.arrays
    if not arrays and not strategy.clients_keep_models:
        arrays = strategy.deployed(reply.client).arrays
    description = {
        "space": strategy.space.name,
        "choices": reply.architecture.to_list(),
        "architecture": strategy.space.values(reply.architecture),
        "weights": "client" if reply.arrays else ("server" if arrays else "kept by the client"),
    }
    directory.save_client_model(reply.client, description, arrays)
