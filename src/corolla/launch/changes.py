"""What a resumed run may do otherwise: where and how it runs, never what its rounds compute."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from corolla.config.compose import compose_values
from corolla.config.schema import RunConfig, parse_config
from corolla.errors import Fault, RefusedError, refuse

MAY_CHANGE = ("engine", "prometheus", "report", "round_timeout_s", "tensorboard")


def changed(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return ``config`` with what ``overrides`` (``report=false``, ``engine=inline``) change.

    Raises:
        RefusedError: each override of something else by name, unknown keys and values, and an engine
            whose clients are other ones.

    """
    faults = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key.partition(".")[0] not in MAY_CHANGE:
            problem = "cannot change in a run that goes on: its rounds would be of two experiments"
            remedy = f"Start a new run for it; resume takes {', '.join(MAY_CHANGE)}"
            faults.append(Fault(key, value, problem, remedy))
    refuse(faults)
    values = config.model_dump(mode="json", by_alias=True)
    keys = [text.partition("=")[0] for text in overrides]
    same = [f"clients={config.clients}"]
    if "engine" not in keys:
        same.append(f"engine={config.engine['kind']}")
    composed = compose_values([*same, *overrides])
    if "engine" in keys:
        values["engine"] = composed["engine"]
        keys = [key for key in keys if not key.startswith("engine.")]
    for key in keys:
        _take_over(values, composed, key.split("."))
    new, faults = parse_config(values)
    if new is None or faults:
        raise RefusedError(faults)
    if new.on_nodes != config.on_nodes:
        theirs = "real nodes" if config.on_nodes else "simulated"
        remedy = "Take an engine of the same kind, or start a new run"
        raise RefusedError(Fault("engine", new.engine["kind"], f"its clients are {theirs}", remedy))
    return new


def _take_over(values: dict[str, Any], composed: dict[str, Any], path: list[str]) -> None:
    *folders, name = path
    for folder in folders:
        values, composed = values[folder], composed[folder]
    values[name] = copy.deepcopy(composed[name])
