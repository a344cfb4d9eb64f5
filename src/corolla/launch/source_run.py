"""What a stage for new clients starts from: a finished run whose clients they were not.

PerFedRLNAS, section "Generalization Ability": the supernet is frozen, only what is a new client's own
is searched, from evaluations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from corolla.config.build import header_of
from corolla.config.schema import RunConfig, parse_config
from corolla.errors import Fault, RefusedError, refuse
from corolla.records.run_directory import RunDirectory
from corolla.spaces.supernet import Supernet
from corolla.state import State
from corolla.types import ClientId, client_order


def source_state(config: RunConfig, space: Supernet) -> State:
    """Return the strategy's state after the last round of the run in ``config.from_run``.

    Its ``meta["trained_clients"]`` names the clients that took part in that run.

    Raises:
        RefusedError: no run there, an unfinished one, one of another method, space, classes or, in
            simulation, another division of the images (its clients' images could be in training).

    """
    path = Path(str(config.from_run))
    directory = RunDirectory.open(path)
    source, wrong = parse_config(yaml.safe_load(directory.config_text()))
    if source is None:
        problem = f"its config.yaml is not one of this release ({'; '.join(map(str, wrong))})"
        remedy = "Give a run that this release made"
        raise RefusedError(Fault("from", str(path), problem, remedy))
    faults = _differences(config, source, path)
    if not (path / "summary.json").is_file():
        remedy = f"Finish it first: corolla resume {path}"
        faults.append(Fault("from", str(path), "that run has not ended", remedy))
    refuse(faults)
    state = directory.final_state(expected=header_of(config, space))
    meta = {**state.meta["strategy"], "trained_clients": trained_clients(directory)}
    return State(state.part("strategy/"), meta)


def trained_clients(directory: RunDirectory) -> list[ClientId]:
    """Return the clients of a finished run: those of any round, and those that deployed at its end."""
    trained = {str(row["client"]) for row in directory.clients()}
    return sorted(trained | directory.summary()["per_client"].keys(), key=client_order)


def _differences(config: RunConfig, source: RunConfig, path: Path) -> list[Fault]:
    faults = []

    def compare(key: str, mine: Any, theirs: Any) -> None:
        if mine != theirs:
            problem = f"the run in {path} has {theirs!r}"
            faults.append(Fault(key, mine, problem, f"Give {key}={theirs}, or another run"))

    if source.stage != "train":
        remedy = "Give the training run that it started from"
        faults.append(
            Fault("from", str(path), f"that run is itself a stage={source.stage} run", remedy)
        )
    if config.engine.get("server_runs") and path.parent != Path(str(config.run_dir)).parent:
        remedy = f"Put it beside the new run, into {Path(str(config.run_dir)).parent}"
        faults.append(
            Fault(
                "from", str(path), "the ServerApp sees only the folder that holds run_dir", remedy
            )
        )
    compare("method", config.method.name, source.method.name)
    compare("space", config.space.name, source.space.name)
    if config.images and source.images and config.images.classes != source.images.classes:
        problem = f"its classes are not those of the run in {path}"
        remedy = "Use the same classes in the same order"
        faults.append(Fault("dataset", config.images.name, problem, remedy))
    compare("private", config.private, source.private)  # the server's own were never trained
    compare("seed", config.seed, source.seed)  # of the partition, and of each node's own splits
    if config.on_nodes or faults:
        return faults
    for key in ("clients", "new_clients"):
        compare(key, getattr(config, key), getattr(source, key))
    if not faults and _divided(config) != _divided(source):
        problem = f"divides the images differently from the run in {path}"
        remedy = "Give the same dataset.* and partition.* as there"
        faults.append(Fault("partition", json.dumps(config.partition), problem, remedy))
    return faults


def _divided(config: RunConfig) -> tuple[dict[str, Any], ...]:
    # Where decoded images are kept changes nothing; older runs do not say what was the only way then.
    own = {k: v for k, v in config.dataset.items() if not k.startswith(("cache", "memory"))}
    before = {"part": "all", "labelled": True}
    server = {k: v for k, v in config.server_set.items() if v != before.get(k)}
    own = {k: v for k, v in own.items() if (k, v) not in (("table", None), ("on_error", "refuse"))}
    parts = own.get("parts")
    if parts is None or sorted(parts) == ["test", "train"]:
        own.pop("parts", None)
    return own, config.partition, server
