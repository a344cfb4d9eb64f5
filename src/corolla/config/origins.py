"""Where each value of a configuration comes from: the command line, a suggestion, a file of conf/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from corolla.config.compose import choices, leaves, suggested
from corolla.config.groups import config_dir, file_of

GIVEN = "command line"


def origins(overrides: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Return dotted key -> (value, where it was set), the last word of each."""
    composed, chosen = choices(overrides)
    given, proposed = _keys(overrides), _keys(suggested(overrides))
    method = f"suggested by conf/method/{chosen.get('method')}.yaml"
    found: dict[str, tuple[Any, str]] = {}
    for key, value in leaves(composed):
        if _covered(key, given):
            source = GIVEN
        elif _covered(key, proposed):
            source = method
        else:
            source = _file_of(key, chosen)
        if key != "experiment" and not key.startswith("method_defaults."):
            found[key] = (value, source)
    return found


def _keys(overrides: Sequence[str]) -> list[str]:
    return [text.partition("=")[0].lstrip("+") for text in overrides]


def _covered(key: str, keys: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in keys if one not in _groups())


@cache
def _groups() -> frozenset[str]:
    folder = config_dir()
    return frozenset(p.relative_to(folder).as_posix() for p in folder.glob("**/") if p != folder)


def _file_of(key: str, chosen: Mapping[str, str]) -> str:
    """Return the file that has the last word on ``key``, in Hydra's order."""
    for group in ("experiment", "method_trainer", ""):
        name = chosen.get(group, "config") if group else "config"
        at = key.removeprefix("trainer.") if group == "method_trainer" else key
        if (group != "method_trainer" or at != key) and (file := _setter(group, name, at)):
            return file
    places = {group.rpartition("@")[2].replace("/", "."): group for group in chosen}
    for place in sorted(places, key=len, reverse=True):
        if key.startswith(f"{place}."):
            group = places[place]
            file = _setter(group.partition("@")[0], chosen[group], key.removeprefix(f"{place}."))
            if file:
                return file
    return "conf/config.yaml"


def _setter(group: str, name: str, key: str) -> str | None:
    """Return which of a file and those that it builds on sets ``key``, None where none does."""
    try:
        path = file_of(group, name) if group else config_dir() / f"{name}.yaml"
    except KeyError:
        return None
    content = yaml.safe_load(path.read_text()) or {}
    node: Any = content
    for part in key.split("."):
        node = node.get(part, _setter) if isinstance(node, dict) else _setter
    if node is not _setter:
        ours = path.is_relative_to(config_dir())
        return f"conf/{path.relative_to(config_dir()).as_posix()}" if ours else str(path)
    above = [one for one in content.get("defaults", []) if isinstance(one, str) and one != "_self_"]
    below = [_setter(group, one, key) for one in reversed(above)] if group else []
    return next((file for file in below if file), None)
