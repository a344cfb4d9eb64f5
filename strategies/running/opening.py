"""What a run opens before its first round: its directory, and the list of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.config.schema import RunConfig
from corolla.errors import RunFailedError
from corolla.records.run_directory import RunDirectory
from corolla.types import ClientId
from strategies.node_roster import NodeRoster
from strategies.roster import Roster, SimulatedRoster


def open_run(path: Path, launch: str) -> RunDirectory:
    """Open the run directory that the launcher made, which must be the same one that it sees."""
    token = path / ".launch"
    if not token.is_file() or token.read_bytes() != launch.encode():
        raise RunFailedError(
            f"the ServerApp does not find this launch in run_dir={str(path)!r}: it runs on another "
            "machine or in a container. Share the folder and set engine.server_runs to its path there"
        )
    return RunDirectory.open(path)


def roster_of(config: RunConfig, facts: Mapping[ClientId, Mapping[str, Any]]) -> Roster:
    """Return who takes part: simulated clients with these facts, or the nodes that connect."""
    if config.on_nodes:
        return NodeRoster(
            expected=config.clients, deadline_s=float(config.engine["node_timeout_s"])
        )
    return SimulatedRoster(clients=config.population, facts=facts)
