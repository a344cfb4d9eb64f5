"""What is known of simulated clients before a run: sizes, label counts, limits, perhaps speed."""

from __future__ import annotations

from typing import Any

from corolla.config.build import (
    build_cap,
    device_of,
)
from corolla.config.schema import RunConfig
from corolla.data.partition.partition import Partition
from corolla.limits.budgets import draw_budgets
from corolla.limits.client_limits import BUDGET
from corolla.limits.learning import learn_limits
from corolla.spaces.supernet import Supernet


def simulated_facts(
    config: RunConfig, space: Supernet, partition: Partition | None
) -> dict[str, dict[str, Any]]:
    """Return what is known of simulated clients before the start.

    Raises:
        RefusedError: settings of the caps, or a client with less than the smallest architecture needs.

    """
    rule = build_cap(config)
    if partition is None:
        return {}
    budgets = draw_budgets(
        config.memory_budget_mib,
        list(partition.clients),  # all: a client's budget does not depend on the stage
        space,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    speed = {} if rule is None else rule.measured(space, device=device_of(config))
    facts: dict[str, dict[str, Any]] = {}
    for client in config.population:
        splits = partition.clients[client]
        facts[client] = {
            "num_examples": {
                "train": len(splits.train),
                "validation": len(splits.validation),
                "test": len(splits.test),
            },
            "label_counts": [int(n) for n in partition.counts[client]["train"]],
            **speed,
        }
        if partition.sites is not None:
            facts[client]["site"] = partition.sites[client]
        if client in budgets:
            facts[client][BUDGET] = budgets[client]
    # All: neither does a client's cap depend on the stage.
    sizes = {client: len(splits.train) for client, splits in partition.clients.items()}
    learned = learn_limits(facts, rule=rule, space=space, sizes=sizes, batch_size=config.batch_size)
    learned.require_room()
    return learned.facts
