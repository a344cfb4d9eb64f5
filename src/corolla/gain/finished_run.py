"""A finished run, read back: each client's images and architecture, and the weights a cell starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from corolla.config import own_parts
from corolla.config.build import (
    build_dataset,
    build_space,
    build_strategy,
    build_trainer,
    build_trainer_settings,
    class_prior,
    header_of,
)
from corolla.config.schema import RunConfig, require_config
from corolla.data.client_data import ClientData
from corolla.data.federation import FederationData
from corolla.data.partition.partition import Partition
from corolla.errors import Fault, RefusedError, refuse
from corolla.federation import Federation
from corolla.gain.cells import Start
from corolla.limits.client_limits import limits_of
from corolla.records.client_facts import read_client_facts
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.state import State
from corolla.training.scoring import Scoring
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays, ClientId, client_order


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What the matrix needs of a run; ``open`` refuses runs that have no matrix."""

    directory: RunDirectory
    config: RunConfig
    space: Supernet
    trainer: LocalTrainer
    data: FederationData
    federation: Federation
    architectures: dict[ClientId, Architecture]  # in the order of the clients
    accuracies: dict[ClientId, float]  # of the clients' own final models, on their test images

    @classmethod
    def open(cls, path: Path, *, starts: Sequence[Start]) -> FinishedRun:
        """Read the run in ``path``.

        Raises:
            RefusedError: no run, an unfinished one, one on real nodes, fewer than 2 clients,
                architectures or weights that ``starts`` need and the run has not kept, or the same
                architecture everywhere.

        """
        directory = RunDirectory.open(path)
        own_parts.use_those_of(path)
        config = _config(directory)
        summary = directory.summary()
        accuracies = summary.get("test_accuracy", {}).get("per_client", {})
        clients = sorted(config.population, key=client_order)
        faults = _share_faults(config)
        if len(clients) < 2:
            remedy = "Take a run of 2 clients or more"
            faults.append(
                Fault("clients", len(clients), "there are no other clients to compare with", remedy)
            )
        faults += _model_faults(directory, clients, starts)
        missing = [client for client in clients if client not in accuracies]
        if missing and not faults:
            problem = f"summary.json has no final accuracy of {_listed(missing)}"
            remedy = "Take a run in which every client scored its final model"
            faults.append(Fault("run_dir", str(path), problem, remedy))
        refuse(faults)
        architectures = {
            client: Architecture.of(directory.client_model(client)[0]["choices"])
            for client in clients
        }
        if len(set(architectures.values())) == 1:
            problem = f"all {len(clients)} clients have the same architecture: nothing to compare"
            remedy = "Take a finished run of a method that searches, such as spider or perfedrlnas"
            raise RefusedError(Fault("method", config.method.name, problem, remedy))
        space = build_space(config)
        limits = limits_of(read_client_facts(directory.path))
        return cls(
            directory=directory,
            config=config,
            space=space,
            trainer=build_trainer(config),
            data=federation_data(directory, config),
            federation=Federation.of(
                config,
                space=space,
                trainer=build_trainer_settings(config),
                budgets=limits.budgets,
                caps=limits.caps,
            ),
            architectures=architectures,
            accuracies=accuracies,
        )

    @property
    def clients(self) -> list[ClientId]:
        """Ids of all clients: the order of rows and columns."""
        return list(self.architectures)

    def training_data(self, client: ClientId) -> ClientData:
        """Return a client's images; those of validation are to be trained on too (nothing is chosen)."""
        return self.data.client(client).train_on_validation()

    def scoring(self, data: ClientData) -> Scoring:
        """Return how the run scores models on these images."""
        return Scoring(
            trainer=self.trainer,
            train=data.train,
            batch_size=self.config.batch_size,
            classes=self.space.num_classes,
            statistics=self.config.evaluation.statistics,
            prior=class_prior(self.config, self.space),
            keep=self.space.names_in(self.config.private),
        )

    def own_weights(self, client: ClientId) -> Arrays:
        """Return a fresh copy of the client's own final model."""
        return self.directory.client_model(client)[1]

    def supernet(self) -> SharedWeights:
        """Return the run's shared weights after its last round."""
        return SharedWeights(self)


class SharedWeights:
    """The server's weights after the last round, as the method's strategy holds them.

    Raises:
        RefusedError: a method whose server has none.

    """

    def __init__(self, run: FinishedRun) -> None:
        if run.config.private:
            problem = f"the server never had the clients' {', '.join(run.config.private)}"
            raise RefusedError(Fault("start", "supernet", problem, "Give --start own"))
        self._run = run
        self._strategy = build_strategy(run.config, federation=run.federation)
        header = header_of(run.config, run.space)
        state = run.directory.final_state(expected=header)
        self._strategy.load_state(State(state.part("strategy/"), state.meta["strategy"]))
        for client in run.clients:
            self.slice_of(client)

    def slice_of(self, client: ClientId) -> Arrays:
        """Return a fresh copy of the shared weights that the client's architecture has.

        A strategy deploys either that slice itself or the whole supernet, out of which it is cut.
        """
        run, architecture = self._run, self._run.architectures[client]
        deployment = self._strategy.deployed(client)
        arrays: Arrays = deployment.arrays
        if {name: array.shape for name, array in arrays.items()} == dict(run.space.supernet_shapes):
            return run.space.cut(arrays, architecture)
        if not arrays or deployment.architecture != architecture:
            problem = f"the server of method {run.config.method.name!r} has no weights for it"
            raise RefusedError(Fault("start", "supernet", problem, "Give --start own"))
        return {name: array.copy() for name, array in arrays.items()}


def _config(directory: RunDirectory) -> RunConfig:
    config = require_config(yaml.safe_load(directory.config_text()))
    if config.on_nodes:
        problem = "its clients are real nodes, whose images are not here"
        raise RefusedError(
            Fault("run_dir", str(directory.path), problem, "Take a run in simulation")
        )
    return config


def _share_faults(config: RunConfig) -> list[Fault]:
    settings = config.method.settings
    if settings.get("search") is None or settings.get("share") is not False:
        return []
    problem = "the clients kept their architectures to themselves"
    remedy = "Take a run with method.share=auto"
    return [Fault("method.share", False, problem, remedy)]


def _model_faults(
    directory: RunDirectory, clients: Sequence[ClientId], starts: Sequence[Start]
) -> list[Fault]:
    """Return a fault for what clients have not left behind."""
    saved = set(directory.saved_clients())
    absent = [client for client in clients if client not in saved]
    if absent:
        problem = f"holds no architecture of {_listed(absent)}"
        remedy = "Take a run in which every client finished"
        return [Fault("run_dir", str(directory.path), problem, remedy)]
    if "own" not in starts:
        return []
    bare = [client for client in clients if not directory.client_model(client)[1]]
    if not bare:
        return []
    problem = f"{directory.path} holds no weights of {_listed(bare)}"
    remedy = "Give --start supernet, or take a run with evaluation.return_models=true"
    return [Fault("start", "own", problem, remedy)]


def federation_data(directory: RunDirectory, config: RunConfig) -> FederationData:
    """Return the images of a run's clients. RefusedError: they are gone, or not what they were."""
    dataset = build_dataset(config)
    faults = dataset.check(
        []
    )  # of the folder as a whole; the partition tells whether it is the same
    refuse(faults)
    partition = Partition.load(directory.path / "partition.json", key="run_dir")
    return FederationData(dataset, partition)


def _listed(clients: Sequence[ClientId], most: int = 5) -> str:
    names = ", ".join(clients[:most])
    more = f" and {len(clients) - most} more" if len(clients) > most else ""
    return f"client{'' if len(clients) == 1 else 's'} {names}{more}"
