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
)
from corolla.config.schema import RunConfig
from corolla.config.signatures import require_overrides
from corolla.errors import Fault, RefusedError, gathered, nearest, refuse
from corolla.settings import field_names, settings_class
from corolla.training.settings import LoopSettings

_CLIENT = ("fit", "evaluate", "deploy", "facts")
_STRATEGY = ("orders", "absorb", "deployed", "state", "load_state", "configure_train")


def check_unbuilt(config: RunConfig) -> None:
    """Refuse settings that the method does not read, or would refuse, and what is not a client class."""
    method = config.method
    checks: list[Callable[[], Any]] = [lambda: _check_method(config)]
    if method.new_clients is not None:
        stage = method.new_clients
        values = method.settings | stage.settings
        checks.append(lambda: check_settings(_strategy(stage.strategy), values, "method"))
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
    kinds = [class_of(method.client, "method.client"), _strategy(method.strategy)]
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
    known = {name for kind in kinds for name in field_names(settings_class(kind))}
    faults = _unknown("method", method.settings, known, f"{method.name} has no such setting")
    if hasattr(own, "step_faults"):
        found = own.step_faults(build_trainer_settings(config))
        faults += [replace(fault, key=f"method.{fault.key}") for fault in found]
    if method.new_clients is not None:
        known |= set(field_names(settings_class(_strategy(method.new_clients.strategy))))
        faults += _unknown(
            "method.new_clients", method.new_clients.settings, known, "is no setting"
        )
    refuse(faults)


def _unknown(
    above: str, values: Mapping[str, Any], known: Collection[str], problem: str
) -> list[Fault]:
    return [
        Fault(f"{above}.{key}", value, problem, nearest(key, sorted(known)))
        for key, value in values.items()
        if key not in known
    ]


def _strategy(target: str) -> type[Any]:
    return class_of(target, "method.strategy")
