"""What a client works with: its data, its disk, its memory; from the partition or from its own node."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from flwr.app import Context
from torch import nn

from corolla.config.build import (
    build_dataset,
    build_partition,
    build_space,
    build_trainer,
    class_prior,
    header_of,
)
from corolla.config.schema import RunConfig, require_config
from corolla.data.client_data import ClientData
from corolla.data.federation import FederationData
from corolla.data.images import Images
from corolla.data.node import node_data
from corolla.errors import Fault, RefusedError
from corolla.limits.client_limits import Limits
from corolla.limits.node import node_limits
from corolla.records.client_models import model_directory
from corolla.records.client_store import ClientStore
from corolla.spaces.supernet import Supernet
from corolla.tasks import Task
from corolla.training.batch_loader import Passes
from corolla.training.learner import Hook
from corolla.training.results import OptimizerState, TrainResult
from corolla.training.scoring import Scoring
from corolla.training.subnet_draws import Fits
from corolla.training.trainer import LocalTrainer
from corolla.types import ClientId, client_seed


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything one client trains with. ``store`` is None where it has no place to keep anything."""

    client: ClientId
    config: RunConfig
    space: Supernet
    trainer: LocalTrainer
    data: ClientData
    store: ClientStore | None
    model_dir: Path | None  # where the client's deployed model is kept on its own disk
    own_model_dir: (
        Path | None
    )  # the same for a model that is not sent; in simulation part of the run
    shares_architecture: bool | None  # a real node's own word on that; None: in simulation
    limits: Limits  # that a real node gives itself; none in simulation

    @property
    def scoring(self) -> Scoring:
        """How this client's models are scored and deployed."""
        data, evaluation = self.data, self.config.evaluation
        return Scoring(
            trainer=self.trainer,
            train=data.train,
            batch_size=self.config.batch_size,
            classes=self.space.num_classes,
            statistics=evaluation.statistics,
            prior=class_prior(self.config, self.space),
            keep=self.space.names_in(self.config.private),
        )

    def seed(self, task: Task, *purpose: int) -> tuple[int, ...]:
        """Return the seed of this client in the task's round; ``purpose`` keeps further draws apart."""
        return (self.config.seed, task.round, client_seed(self.client), *purpose)

    def fits(self, task: Task) -> Fits:
        """Return the test whether an architecture stays within the limits that a task names."""
        limits, size = Limits.from_extra(task.extra), self.config.batch_size
        return lambda architecture: limits.fit(self.space, architecture, batch_size=size)

    def passes(self, task: Task, *purpose: int) -> Passes:
        """Return the task's epochs, in batches of the run's size."""
        seed = self.seed(task, *purpose)
        return {"epochs": task.epochs, "batch_size": self.config.batch_size, "seed": seed}

    def train(
        self,
        model: nn.Module,
        task: Task,
        *purpose: int,
        images: Images | None = None,
        epochs: int | None = None,
        loss: str | None = None,
        optimizer_state: OptimizerState | None = None,
        keep_optimizer_state: bool = False,
        hook: Hook | None = None,
        sparse: bool = False,
    ) -> TrainResult:
        """Train ``model`` in place as the task says; see `LocalTrainer.train`.

        Args:
            model: moved to the trainer's device.
            task: of the round, its epochs and step.
            purpose: numbers that keep the batch order apart from the round's own; none: it is the round's.
            images: None: the client's training images.
            epochs: None: the task's.
            loss: None: the run's.
            optimizer_state: to carry on from.
            keep_optimizer_state: return the state at the end.
            hook: called after each backward pass.
            sparse: a step may leave parameters without gradients, which then rest.

        """
        trainer = self.trainer if loss is None else self.trainer.replaced(loss=loss)
        passes = self.passes(task, *purpose)
        if epochs is not None:
            passes["epochs"] = epochs
        return trainer.train(
            model,
            self.data.train if images is None else images,
            lr=task.lr,
            optimizer_state=optimizer_state,
            keep_optimizer_state=keep_optimizer_state,
            after_backward=hook,
            sparse=sparse,
            **passes,
        )


class Shared:
    """What all clients of one process share: built once per configuration, kept between messages."""

    def __init__(self, text: str) -> None:
        self.config = require_config(yaml.safe_load(text))
        self.space = build_space(self.config)
        self.trainer = build_trainer(self.config)
        self._data: FederationData | None = None

    def partitioned(self, client: ClientId) -> ClientData:
        """Return the images of a simulated client."""
        if self._data is None:
            dataset = build_dataset(self.config)
            self._data = FederationData(dataset, build_partition(self.config, dataset))
        return self._data.client(client)


@lru_cache(maxsize=2)
def shared(text: str) -> Shared:
    """Return the shared objects of a configuration; processes that live on find them again."""
    return Shared(text)


def site_of(context: Context, task: Mapping[str, Any]) -> Site:
    """Return the site that answers: the client that the task names, or this node's own."""
    common = shared(str(context.run_config["config"]))
    config, node = common.config, context.node_config
    real = config.on_nodes
    client = _identity(node, task) if real else str(task["client"])
    state_dir = _state_dir(config, node)
    data_dir = own_data(node) if real else None
    if data_dir:
        data = node_data(
            Path(str(data_dir)),
            build_dataset(config),
            client=client,
            seed=config.seed,
            validation=float(config.partition["validation"]),
            test=float(config.partition["test"]),
            state_dir=state_dir,
            class_names=config.images.classes if config.images else None,
        )
    elif real and "partition-id" not in node:
        raise RefusedError(
            Fault(
                "data-dir",
                None,
                "this node says neither where its images are nor which part of a data set it holds",
                'Start its SuperNode with --node-config \'data-dir="/path" state-dir="/path"\'',
            )
        )
    else:
        data = common.partitioned(str(node["partition-id"]) if real else client)
    if config.train_on_validation:
        data = data.train_on_validation()
    own = _own_model_dir(state_dir, config, client)
    return Site(
        client=client,
        config=config,
        space=common.space,
        trainer=common.trainer,
        data=data,
        store=_store(state_dir, config, common.space) if state_dir else None,
        # Where some of its arrays are private, a deployed model is not sent.
        model_dir=state_dir / "model" if state_dir and real else own if config.private else None,
        own_model_dir=own,
        shares_architecture=_shares(node) if real else None,
        limits=node_limits(node, device=common.trainer.device.type) if real else Limits(),
    )


def own_data(node: Mapping[str, Any]) -> Any:
    """Return where a real node's images are: ``data-dir``, or Flower's own word ``data-path``; else None."""
    return node.get("data-dir") or node.get("data-path")


def _shares(node: Mapping[str, Any]) -> bool:
    """Return whether this node lets the server know its own architecture: its word, and no by default."""
    given = node.get("share-architecture", False)
    if isinstance(given, bool):
        return given
    remedy = "Write share-architecture=true or =false, without quotes"
    raise RefusedError(Fault("share-architecture", given, "is neither true nor false", remedy))


def _identity(node: Mapping[str, Any], task: Mapping[str, Any]) -> ClientId:
    own, asked = node_name(node), str(task.get("client", ""))
    if own and asked and own != asked:
        raise ValueError(f"a task for client {asked!r} reached the node of {own!r}")
    return own or asked


def node_name(node: Mapping[str, Any]) -> ClientId:
    """Return what a real node calls itself: ``client``, else its partition id, else nothing."""
    return str(node.get("client", node.get("partition-id", "")))


def _run_folder(state_dir: Path, config: RunConfig) -> Path:
    """Return where the state of this run lies: a node keeps its disk over many runs.

    The run directory's path tells runs apart, and stays the same when one is resumed.
    """
    if not config.on_nodes:
        return state_dir
    name = hashlib.sha256(str(config.run_dir).encode()).hexdigest()[:12]
    return state_dir / "runs" / name


def _store(state_dir: Path, config: RunConfig, space: Supernet) -> ClientStore:
    """Return the client's disk; a state that another experiment left in the same place is refused."""
    header = header_of(config, space)
    images = config.images.name if config.images else ""
    experiment = {
        "method": header.method,
        "space": header.space,
        "space_fingerprint": header.space_fingerprint,
        "dataset": images,
        "seed": str(config.seed),
    }
    return ClientStore(_run_folder(state_dir, config), experiment=experiment)


def _own_model_dir(state_dir: Path | None, config: RunConfig, client: ClientId) -> Path | None:
    if config.on_nodes or config.run_dir is None:
        return state_dir / "model" if state_dir else None
    if config.evaluation.return_models is False:
        return None
    return model_directory(Path(config.run_dir), client)


def _state_dir(config: RunConfig, node: Mapping[str, Any]) -> Path | None:
    if "state-dir" in node:
        return Path(str(node["state-dir"]))
    if config.on_nodes or config.run_dir is None:
        return None
    return Path(config.run_dir) / "state"


def require_store(site: Site) -> ClientStore:
    """Return the client's store; RefusedError where the node was started without a place for it."""
    if site.store is None:
        raise RefusedError(
            Fault(
                "state-dir",
                None,
                f"client {site.client} has no place to keep its own model",
                "Start its SuperNode with --node-config 'state-dir=\"/path\"'",
            )
        )
    return site.store
