"""Checks of what a run's start does not build: the clients' class, and what only other runs need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class

from corolla.config.arguments import kind_faults, unknown_faults
from corolla.config.build import named, settings_of
from corolla.config.schema import RunConfig
from corolla.errors import Fault, RefusedError
from corolla.training.settings import LoopSettings

_GIVEN = {  # arguments that no YAML holds
    "method.client": ("site",),
    "method.new_clients": ("federation",),
    "supernet_training": ("federation",),
    "proposals": ("context",),
    "reward": ("budgets", "received"),
}
_CLIENT = ("fit", "evaluate", "deploy", "facts")


def check_unbuilt(config: RunConfig) -> None:
    """Refuse settings of a wrong kind, whoever would read them.

    The client is made only where clients are. What it shares with the strategy, the strategy checks; so
    both must have the same.
    """
    faults = _node_faults(config.method.client, "method.client")
    faults += _client_faults(config.method.client, config.method.strategy)
    if config.method.new_clients is not None:
        faults += _node_faults(config.method.new_clients, "method.new_clients")
    for group in ("search", "proposals", "reward", "supernet_training"):
        node = getattr(config, group)
        if node:
            faults += _node_faults(node, group)
    name = config.space.supernet.get("name", config.space.name)
    if name != config.space.name:
        problem = f"differs from space.name={config.space.name!r}"
        faults.append(Fault("space.supernet.name", name, problem, "Set space.name alone"))
    for device, loop in config.space.loop.items():
        try:
            settings_of(LoopSettings, loop, f"space.loop.{device}")
        except RefusedError as error:
            faults += error.faults
    if faults:
        raise RefusedError(faults)


def _node_faults(node: Mapping[str, Any], key: str) -> list[Fault]:
    settings = {name: value for name, value in node.items() if name != "_target_"}
    try:
        with named(key, node.get("_target_")):
            kind = get_class(str(node.get("_target_")))
            unknown = unknown_faults(kind, settings, key)
            return unknown + kind_faults(kind, settings, key, known=_GIVEN.get(key, ()))
    except RefusedError as error:
        return error.faults


def _client_faults(client: Mapping[str, Any], strategy: Mapping[str, Any]) -> list[Fault]:
    faults = [
        Fault(
            f"method.client.{name}",
            value,
            f"differs from method.strategy.{name}={strategy[name]!r}",
            f"Set method.strategy.{name}, or both",
        )
        for name, value in client.items()
        if name != "_target_" and name in strategy and strategy[name] != value
    ]
    target = client.get("_target_")
    try:
        kind = get_class(str(target))
    except (ImportError, AttributeError, ValueError):
        return faults  # said by `_node_faults`
    lacks = [name for name in _CLIENT if not hasattr(kind, name)]
    if lacks:
        remedy = "Take the class that the method's file in conf/method names"
        faults.append(Fault("method.client", target, f"is no client: it has no {lacks[0]}", remedy))
    return faults
