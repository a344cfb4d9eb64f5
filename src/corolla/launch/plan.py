"""From overrides to a run that can start: everything is checked before anything is created."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corolla.config.build import (
    build_dataset,
    build_engine,
    build_partition,
    build_partitioner,
    build_space,
    build_tracker,
    build_trainer,
)
from corolla.config.compose import compose_values, mended
from corolla.config.schema import ImageConfig, RunConfig, parse_config
from corolla.config.unbuilt import check_unbuilt
from corolla.data.dataset import Dataset
from corolla.data.federation import FederationData
from corolla.data.image_folder import ImageFolder
from corolla.data.partition.partition import ClientIndices, Partition
from corolla.errors import Fault, RefusedError, refuse
from corolla.launch.checks import (
    Collector,
    check_batches,
    check_method,
    check_server_set,
    engine_faults,
    require_disk,
)
from corolla.launch.simulated_clients import simulated_facts
from corolla.launch.source_run import source_state
from corolla.spaces.supernet import Supernet

_TOGETHER = ("cap", "engine")
_TABLE, _ROOT = "dataset.table", "dataset.root"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that was checked and can start."""

    config: RunConfig
    run_dir: Path
    space: Supernet
    partition: Partition | None  # None: clients are real nodes with their own data
    facts: dict[str, dict[str, Any]]


def plan_run(overrides: Sequence[str], *, default_dir: Path | None = None) -> Plan:
    """Compose and check a run; RefusedError shows all faults that could be found."""
    values = compose_values(overrides)
    given = {text.partition("=")[0].lstrip("+") for text in overrides}
    faults: list[Fault] = []
    while True:  # what else is wrong shows once these have their defaults again
        try:
            plan = plan_of(values, default_dir=default_dir)
            break
        except RefusedError as error:
            new = [fault for fault in error.faults if not _invented(fault, faults, given)]
            faults += new
            if not new:
                raise RefusedError(faults) from error
            values = mended(values, overrides, new)
    refuse(faults)
    return plan


def _invented(fault: Fault, known: Sequence[Fault], given: Collection[str]) -> bool:
    """Tell whether ``fault`` may come of the defaults that the keys of ``known`` have again.

    Below such a key nothing was asked for, nor is the folder wrong where the table of its images was. An
    engine's keys say something together only (an address, or a name), and so do a cap's: of theirs, what was
    not given.
    """
    below = tuple(f"{_ROOT if one.key == _TABLE else one.key}." for one in known)
    if f"{fault.key}.".startswith(below):
        return True
    group = fault.key.partition(".")[0]
    beside = group in _TOGETHER and any(one.key.startswith(f"{group}.") for one in known)
    return beside and not ("." in fault.key and fault.key in given)


def plan_of(values: dict[str, Any], *, default_dir: Path | None = None) -> Plan:
    """Check a composed run; RefusedError shows all faults that could be found."""
    config, faults = parse_config(values)
    if config is None:
        raise RefusedError(faults)
    collector = Collector()
    for step in (build_trainer, build_engine, build_tracker, check_unbuilt):
        collector.run(step, config)
    config, partition, dataset = collector.run(_with_images, config) or _stand_in(config)
    run_dir = Path(config.run_dir) if config.run_dir else default_dir or _default_dir(config)
    config = config.model_copy(update={"run_dir": str(run_dir.absolute())})
    if dataset is not None:
        collector.run(check_server_set, config, dataset)
    space = collector.run(build_space, config)
    facts: dict[str, dict[str, Any]] = {}
    if space is not None and not faults:
        facts = collector.run(simulated_facts, config, space, partition) or {}
        collector.run(check_method, config, space, facts)
        collector.run(check_batches, config, space, facts)
        if config.stage == "new_clients" and dataset is not None:
            collector.run(source_state, config, space)
    collector.add(faults)
    if not collector.faults:
        collector.add(engine_faults(config))
    if collector.faults or space is None:
        raise RefusedError(collector.faults)
    require_disk(run_dir, space)
    return Plan(
        config=config, run_dir=run_dir.absolute(), space=space, partition=partition, facts=facts
    )


def _stand_in(config: RunConfig) -> tuple[RunConfig, Partition | None, None]:
    """Return made-up images in the place of refused ones: space and method are checked all the same."""
    classes = [str(label) for label in range(10)]
    clients = [str(client) for client in range(config.clients + config.new_clients)]
    indices = ClientIndices(np.arange(60), np.arange(20), np.arange(20))
    partition = Partition(
        dataset="",
        fingerprint="",
        seed=config.seed,
        partitioner={},
        class_names=tuple(classes),
        clients=dict.fromkeys(clients, indices),
        counts={
            one: {"train": [6] * 10, "validation": [2] * 10, "test": [2] * 10} for one in clients
        },
    )
    images = ImageConfig(name="images", classes=classes, channels=3)
    config = config.model_copy(update={"images": images})
    return config, None if config.on_nodes else partition, None


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Make paths mean the same in every process; clients run in other working directories."""
    changed: dict[str, Any] = {}
    if config.from_run is not None:
        changed["from_run"] = str(Path(config.from_run).expanduser().absolute())
    if config.prometheus:
        changed["prometheus"] = str(Path(config.prometheus).expanduser().absolute())
    for group, key in (
        ("dataset", "root"),
        ("dataset", "table"),
        ("partition", "path"),
        ("server_set", "root"),
    ):
        values = changed.get(group, getattr(config, group))
        if values.get(key):
            changed[group] = {**values, key: str(Path(str(values[key])).expanduser().absolute())}
    own = config.server_set.get("dataset")
    if own and own.get("root"):
        root = str(Path(str(own["root"])).expanduser().absolute())
        changed["server_set"] = {**config.server_set, "dataset": {**own, "root": root}}
    return config.model_copy(update=changed)


def _with_images(config: RunConfig) -> tuple[RunConfig, Partition | None, Dataset]:
    """Fill in the classes, and split the pool where there is one to split."""
    config = _with_absolute_paths(config)
    dataset = build_dataset(config)
    real = config.on_nodes
    partition = None
    missing = [key for key in ("validation", "test") if key not in config.partition]
    if real and missing:
        problem = (
            f"gives no {' and '.join(missing)} fraction; real nodes split their own images by them"
        )
        remedy = "Use partition=iid or another rule with fractions"
        raise RefusedError(Fault("partition", config.partition.get("_target_"), problem, remedy))
    if not (real and config.dataset.get("root", "") is None):
        collector = Collector()
        collector.run(build_partitioner, config)  # its settings, also where there is no pool
        collector.add(dataset.check([]))  # of the folder as a whole, before it is divided
        if collector.faults:
            raise RefusedError(collector.faults)
        partition = build_partition(config, dataset)
        faults = FederationData(dataset, partition).check()
        refuse(faults)
    images = ImageConfig(
        name=dataset.title if type(dataset) is ImageFolder else dataset.name,
        classes=list(dataset.class_names),
        channels=dataset.channels,
    )
    config = config.model_copy(update={"images": images})
    return config, None if real else partition, dataset


def _default_dir(config: RunConfig) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    dataset = (config.images.name if config.images else "data").partition(" (")[0]
    base = Path("runs") / f"{stamp}-{config.method.name}-{dataset}-s{config.seed}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
