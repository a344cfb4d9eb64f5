"""Checks of what a run's start does not build: the client, other stages and devices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from corolla.config.build import (
    build_trainer_settings,
    check_settings,
    class_of,
    group_settings,
    of_stage,
    setting_names,
)
from corolla.config.schema import MethodConfig, RunConfig, StageConfig
from corolla.config.signatures import require_overrides
from corolla.errors import Fault, RefusedError, gathered, nearest, refuse
from corolla.training.settings import LoopSettings

_CLIENT = ("fit", "evaluate", "deploy", "facts")
_STAGE = "method.new_clients.strategy"
_STRATEGY = ("orders", "absorb", "deployed", "state", "load_state", "configure_train")


def check_unbuilt(config: RunConfig) -> None:
    """Refuse settings that the method does not read, or would refuse, and what is not a client class."""
    method = config.method
    checks: list[Callable[[], Any]] = [lambda: _check_method(config)]
    if method.new_clients is not None:
        checks.append(partial(_check_stage, method, method.new_clients))
    name = config.space.supernet.get("name", config.space.name)
    faults: list[Fault] = []
    if name != config.space.name:
        problem = f"differs from space.name={config.space.name!r}"
        faults.append(Fault("space.supernet.name", name, problem, "Set space.name alone"))
    for device, loop in config.space.loop.items():
        checks.append(partial(group_settings, LoopSettings, loop, f"space.loop.{device}"))
    for check in checks:
        with gathered(faults):
            check()
    refuse(faults)


def _check_method(config: RunConfig) -> None:
    method = config.method
    kinds = [
        class_of(method.client, "method.client"),
        class_of(method.strategy, "method.strategy"),
    ]
    sorts = (("client", "clients.client.Client"), ("strategy", "strategies.base.CorollaStrategy"))
    for kind, names, (sort, base) in zip(kinds, (_CLIENT, _STRATEGY), sorts, strict=True):
        lacks = [name for name in names if not hasattr(kind, name)]
        if lacks:
            remedy = (
                f"Take the class that the method's file in conf/method names, or a child of {base}"
            )
            problem = f"is not a {sort}: it has no {lacks[0]}"
            raise RefusedError(Fault(f"method.{sort}", getattr(method, sort), problem, remedy))
        require_overrides(kind, f"method.{sort}")
    own = check_settings(kinds[0], method.settings, "method")
    known = {name for kind in kinds for name in setting_names(kind, "method")}
    faults = _unknown("method", method.settings, known, f"{method.name} has no such setting")
    if hasattr(own, "step_faults"):
        found = own.step_faults(build_trainer_settings(config))
        faults += [replace(fault, key=f"method.{fault.key}") for fault in found]
    if method.new_clients is not None:
        stage = method.new_clients
        kind = class_of(stage.strategy, _STAGE)
        known |= set(setting_names(kind, "method"))
        faults += _unknown("method.new_clients", stage.settings, known, "is no setting")
    refuse(faults)


def _check_stage(method: MethodConfig, stage: StageConfig) -> None:
    with of_stage(stage):
        check_settings(class_of(stage.strategy, _STAGE), method.settings | stage.settings, "method")


def _unknown(
    above: str, values: Mapping[str, Any], known: Collection[str], problem: str
) -> list[Fault]:
    return [
        Fault(f"{above}.{key}", value, problem, nearest(key, sorted(known)))
        for key, value in values.items()
        if key not in known
    ]
