"""The few settings of the dummy app, read from the YAML that the launcher submits."""

from __future__ import annotations

from typing import Any

import yaml

DEFAULTS: dict[str, Any] = {
    "rounds": 2,
    "nodes": 1,  # to wait for before the first round
    "messages": 4,  # per round
    "payload_mib": 0.0,  # MiB in each direction
    "sleep_s": 0.0,  # seconds, in the client
    "pause_s": 0.0,  # seconds, after a round
    "fail": "",  # server: in round 2; client, exit: partition 0
}


def settings(run_config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, with a default for each."""
    given = yaml.safe_load(str(run_config["config"])) or {}
    return DEFAULTS | given
