"""Whether a SuperLink in a container can write into a run directory that the submitter makes."""

from __future__ import annotations

import os
from pathlib import Path

from corolla.config.schema import RunConfig
from corolla.errors import Fault

MARKER = ".superlink-uid"
"""``scripts/superlink.sh`` leaves it in the runs' folder: its owner is who the SuperLink runs as."""


def shared_runs_faults(config: RunConfig) -> list[Fault]:
    """Return a fault where the SuperLink that shares the runs' folder runs as another user.

    What counts is the owner of its marker as seen from here, also where user namespaces lie between. Without
    a marker (a SuperLink started otherwise) nothing is known, and nothing is said.
    """
    server_runs = config.engine.get("server_runs")
    if not server_runs or config.run_dir is None:
        return []
    marker = Path(config.run_dir).expanduser().absolute().parent / MARKER
    try:
        theirs = marker.stat().st_uid
    except OSError:
        return []
    mine = os.getuid()
    if theirs == mine:
        return []
    problem = (
        f"the SuperLink there runs as uid {theirs}, you are uid {mine}: it could not write into "
    )
    problem += "the run directory that you make"
    remedy = (
        f"Submit as uid {theirs}, or build its container with COROLLA_UID={mine} and start it anew"
    )
    return [Fault("engine.server_runs", str(server_runs), problem, remedy)]
