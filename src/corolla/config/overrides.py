"""What is given on a command line, ``key=value``, word by word: read, and told what is wrong with it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from corolla.config.schema import MOVED
from corolla.errors import Fault, nearest, refuse

NOW = "is now "
_OLD_PREFIXES = ("method.strategy.", "method.client.")  # of older releases


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Split ``a=1,2 b=3,4`` into the override lists of all combinations, as Hydra's basic sweeper does.

    Raises: RefusedError where an override cannot be read, or names a value twice.
    """
    axes: list[list[str]] = []
    parsed, faults = read(overrides)
    refuse(faults)
    for override in parsed:
        key = override.get_key_element()
        if override.is_sweep_override():
            values = [str(value) for value in override.sweep_string_iterator()]
            if len(set(values)) < len(values):
                remedy = "Give each value once: the same run twice tells nothing of its spread"
                faults.append(Fault(key, ",".join(values), "names a value twice", remedy))
            axes.append([f"{key}={value}" for value in values])
        else:
            axes.append([override.input_line or ""])
    refuse(faults)
    return [list(combination) for combination in itertools.product(*axes)]


def read(overrides: Sequence[str]) -> tuple[list[Override], list[Fault]]:
    """Return the overrides that can be read, and faults of the others."""
    parser, parsed, faults = OverridesParser.create(), [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if override.key_or_group != "experiment" or override.value() is not None:
                parsed.append(override)  # experiment=null is what there is anyway
        except HydraException:
            remedy = "Write key=value, as in rounds=5"
            faults.append(Fault("override", text, "cannot be read", remedy))
    return parsed, faults


def group_fault(override: Override, known: dict[str, list[str]]) -> Fault | None:
    """Return what is wrong with the choice of a group's member."""
    key = override.key_or_group
    if override.is_sweep_override():
        return None
    if key not in known or (override.value() is None and key == "experiment"):
        return None
    name = "null" if override.value() is None else str(override.value())
    if name in known[key]:
        return None
    return Fault(key, name, f"no such {key}", nearest(name, known[key]))


def dotted_group(override: Override, known: Mapping[str, list[str]]) -> Fault | None:
    """Return a fault where a file of a method's own group is chosen with a dot, as a value is set."""
    key, value = override.key_or_group, override.value()
    group = key.replace(".", "/")
    if "." not in key or group not in known or isinstance(value, dict) or override.is_delete():
        return None
    names = known[group]
    remedy = f"Write {group}={value}"
    if value not in names:
        remedy = (
            f"Write {group}=NAME, or set its keys: {key}.KEY=VALUE. {nearest(str(value), names)}"
        )
    return Fault(key, value, "is a group of settings", remedy)


def sweep_fault(override: Override) -> Fault | None:
    """Return a fault where several values are given to a single run, or what only a sweep takes."""
    if override.key_or_group == "jobs":
        remedy = "Add -m, as in corolla run -m jobs=2 seed=0,1, or leave it out"
        problem = "is for sweeps alone: how many of their runs go at once"
        return Fault("jobs", override.value(), problem, remedy)
    if not override.is_sweep_override():
        return None
    key, text = override.key_or_group, (override.input_line or "").partition("=")[2]
    remedy = f"Add -m for a run of each: corolla run -m {key}={text}; a list is in brackets"
    return Fault(key, text, "are several values, and one run takes one", remedy)


def moved(override: Override, known: Mapping[str, Any]) -> Fault | None:
    """Return where a key of older releases is now."""
    key, value = override.key_or_group, override.value()
    first, _, rest = key.partition(".")
    if key in MOVED:
        new = MOVED[key]
    elif key.startswith(_OLD_PREFIXES) and not rest.endswith("_target_"):
        new = "method." + rest.partition(".")[2]
    elif f"method/{first}" in known:
        new = f"method.{key}" if rest else f"method/{key}"
    else:
        return None
    return Fault(key, value, f"{NOW}{new}", f"Write {new}={value}")


def nearest_key(key: str, keys: Collection[str]) -> str:
    """Return what could have been meant by an unknown key."""
    above = key.rpartition(".")[0]
    beside = [known for known in keys if known.rpartition(".")[0] == above]
    level = [known for known in keys if known.count(".") == key.count(".")]
    for near in (beside, level):
        suggestion = nearest(key, near)
        if suggestion.startswith("Did"):
            return suggestion
    while above and not beside:  # the group does not exist either
        above = above.rpartition(".")[0]
        beside = [known for known in keys if known.rpartition(".")[0] == above]
    return f"Known: {', '.join(sorted(beside))}"
