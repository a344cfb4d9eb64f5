"""What must hold before a run starts. All faults are collected, so that they are shown at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corolla.config.build import (
    build_engine,
    build_server_set,
    build_strategy,
    build_trainer_settings,
)
from corolla.config.schema import RunConfig
from corolla.data.dataset import Dataset
from corolla.errors import Fault, RefusedError, refuse
from corolla.federation import Federation
from corolla.launch.shared_runs import shared_runs_faults
from corolla.limits.client_limits import limits_of
from corolla.records.disk import require_free_disk
from corolla.spaces.supernet import Supernet
from corolla.training.batches import has_batch_norm
from corolla.training.scoring import require_bias


class Collector:
    """Runs checks one after another and keeps every fault, so that all are shown at once."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def run(self, step: Any, *arguments: Any, **settings: Any) -> Any:
        """Return what ``step`` returns; None where it refused, which is kept."""
        try:
            return step(*arguments, **settings)
        except RefusedError as error:
            self.add(error.faults)
            return None

    def add(self, faults: Sequence[Fault]) -> None:
        """Keep faults."""
        self.faults += faults


def check_server_set(config: RunConfig, dataset: Dataset) -> None:
    """Decode the server's own images once; RefusedError where they are not there or do not fit."""
    server_set = build_server_set(config)
    faults = [] if server_set is None else server_set.check(dataset, pool=not config.on_nodes)
    refuse(faults)


def check_method(config: RunConfig, space: Supernet, facts: dict[str, dict[str, Any]]) -> None:
    """Build the strategy once, so that whatever it refuses is refused before the start."""
    limits, trainer = limits_of(facts), build_trainer_settings(config)
    require_bias(
        space.blank(space.smallest()),
        prior=config.evaluation.prior,
        loss=trainer.loss,
        classes=space.num_classes,
    )
    federation = Federation.of(
        config,
        space=space,
        trainer=trainer,
        budgets=limits.budgets,
        caps=limits.caps,
        examples={client: int(fact["num_examples"]["train"]) for client, fact in facts.items()},
    )
    build_strategy(config, federation=federation)


def check_batches(config: RunConfig, space: Supernet, facts: dict[str, dict[str, Any]]) -> None:
    """RefusedError where no batch could be trained on, at no client, in no round."""
    alone = bool(facts) and all(fact["num_examples"]["train"] < 2 for fact in facts.values())
    if not (alone or config.batch_size == 1) or not has_batch_norm(space.blank(space.smallest())):
        return  # most runs need not build the network for this
    problem = "the network has BatchNorm, which needs two or more images a batch to train"
    if config.batch_size == 1:
        raise RefusedError(Fault("batch_size", 1, problem, "Use batch_size=2 or more"))
    problem = f"leaves one image to train on at each client; {problem}"
    remedy = "Use fewer clients or more images for each, or space=elastic_cnn, which has none"
    raise RefusedError(Fault("clients", config.clients, problem, remedy))


def engine_faults(config: RunConfig) -> list[Fault]:
    """Return what keeps the engine from starting."""
    faults: list[Fault] = build_engine(config).check()
    return faults + shared_runs_faults(config)


def require_disk(run_dir: Path, space: Supernet) -> None:
    """Ask for room for one checkpoint being written and four kept, plus the clients' models."""
    payload = space.costs(space.largest()).payload_bytes
    existing = run_dir
    while not existing.exists():
        existing = existing.parent
    require_free_disk(existing, 5 * payload + 64 * 2**20)
