"""The few settings of the dummy app, read from the YAML that the launcher submits."""

from __future__ import annotations

from typing import Any

import yaml


def settings(run_config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, with a default for each."""
    given = yaml.safe_load(str(run_config["config"])) or {}
    return {"rounds": 2, "messages": 4, "payload_mib": 0.0, "sleep_s": 0.0, "fail": ""} | given
