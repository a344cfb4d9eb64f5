"""Starting a checked run, and carrying on an interrupted one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from corolla.config import own_parts
from corolla.config.build import (
    build_engine,
    build_space,
    device_of,
    header_of,
)
from corolla.config.schema import RunConfig, require_config
from corolla.data.partition.partition import Partition
from corolla.errors import RefusedError
from corolla.launch.changes import changed
from corolla.launch.checks import Collector, engine_faults, require_disk
from corolla.launch.plan import Plan
from corolla.records.atomic import write_text
from corolla.records.client_facts import write_client_facts
from corolla.records.environment import collect_environment
from corolla.records.errors import RESTORE, CorruptStateError
from corolla.records.phases import phase
from corolla.records.resumable import require_resumable
from corolla.records.run_directory import RunDirectory
from corolla.records.run_lock import LAUNCHING, RunLock
from corolla.records.seals import sealed_config
from corolla.spaces.supernet import Supernet

_LOG = logging.getLogger(__name__)
_TOKEN = ".launch"


def start(plan: Plan) -> RunDirectory:
    """Create the run directory and run the federation in it to the end."""
    directory = create(plan)
    _launch(plan.config, directory, directory.config_text())
    return directory


def create(plan: Plan) -> RunDirectory:
    """Create the run directory with everything a run starts from."""

    def fill(path: Path) -> None:
        if plan.partition is not None:
            plan.partition.save(path / "partition.json")
        write_client_facts(path, plan.facts)

    return RunDirectory.create(
        plan.run_dir,
        config_yaml=plan.config.to_yaml(),
        environment=_environment(plan.config, plan.space),
        fill=fill,
    )


def resume(path: Path, overrides: Sequence[str] = ()) -> RunDirectory:
    """Carry on an interrupted run after its last finished round.

    ``overrides`` change what `corolla.launch.changes.MAY_CHANGE` lists, from now on.

    Raises:
        RefusedError: no run directory, in use by another process, damaged files, or a checkpoint of
            something else.

    """
    directory = RunDirectory.open(path)
    own_parts.use_those_of(path)
    text = directory.config_text()
    config = require_config(yaml.safe_load(text))
    if config.run_dir != str(path.absolute()):  # the folder was moved
        config = config.model_copy(update={"run_dir": str(path.absolute())})
        text = config.to_yaml()
    if overrides:
        config = changed(config, overrides)
        text = config.to_yaml()
    with directory.lock():
        directory.sweep()
        if directory.finished:
            directory.summary()
            return directory
        space = build_space(config)
        collector = Collector()
        collector.run(require_resumable, directory, header_of(config, space))
        if not config.on_nodes:
            collector.run(_require_partition, directory.path / "partition.json")
        collector.add(engine_faults(config))
        if collector.faults:
            raise RefusedError(collector.faults)
        require_disk(path, space)
        try:
            directory.environment()
        except CorruptStateError as error:
            _LOG.warning("%s Written anew, of this installation.", error.faults[0].problem)
            directory.write_environment(_environment(config, space))
        if overrides:
            write_text(path / "config.yaml", sealed_config(text))
    _launch(config, directory, text)
    return directory


def _require_partition(path: Path) -> None:
    """Raise RefusedError unless the run's own partition is whole; it says who trained on what."""
    try:
        Partition.load(path, key="file")
    except RefusedError as error:
        raise RefusedError([replace(fault, remedy=RESTORE) for fault in error.faults]) from error


def _environment(config: RunConfig, space: Supernet) -> dict[str, Any]:
    """Return what the run is made with, and what choice indices mean, for reports of all rounds."""
    environment = collect_environment(seed=config.seed, device=device_of(config))
    return environment | {"dimensions": space.describe()} | own_parts.record()


def _launch(config: RunConfig, directory: RunDirectory, text: str) -> None:
    """Hand the run to its engine. The token proves to the ServerApp that it sees the same folder."""
    token = secrets.token_hex(8)
    write_text(directory.path / _TOKEN, token)
    server_runs = config.engine.get("server_runs")
    if server_runs:
        there = {"run_dir": str(Path(str(server_runs)) / directory.path.name)}
        if config.from_run is not None:
            there["from_run"] = str(Path(str(server_runs)) / Path(config.from_run).name)
        text = config.model_copy(update=there).to_yaml()
    engine = build_engine(config)
    words = f"starting engine {config.engine.get('kind')}"
    # The phase lasts until the ServerApp says what it does.
    with RunLock(directory.path, LAUNCHING), phase(words, run_dir=directory.path):
        engine.run(config_yaml=text, run_dir=directory.path, launch=token)
