"""From Hydra overrides to one resolved configuration, with every fault named at once.

Hydra stops at the first mistake and says nothing of the nearest name; so overrides are looked through
first, against the groups and keys that exist.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corolla.errors import Fault, RefusedError, nearest

_OLD_PREFIXES = ("method.strategy.", "method.client.")  # of older releases


def config_dir() -> Path:
    """Return the folder ``conf/``: beside the source in a checkout or bundle, else as installed."""
    source = Path(__file__).resolve().parents[3] / "conf"
    if (source / "config.yaml").is_file():
        return source
    import conf  # an installed copy: the namespace package that holds the YAML files

    return Path(next(iter(conf.__path__)))


def groups(folder: Path | None = None) -> dict[str, list[str]]:
    """Return config group -> names of its files; ``method/search`` is a group below ``method``."""
    folder = folder or config_dir()
    return {
        child.relative_to(folder).as_posix(): sorted(path.stem for path in child.glob("*.yaml"))
        for child in sorted(folder.glob("**/"))
        if child != folder and any(child.glob("*.yaml"))
    }


def methods() -> list[str]:
    """Return the methods; a file of conf/method without a name of its own is a method with other settings."""
    folder = config_dir() / "method"
    names = groups(folder.parent)["method"]
    return [name for name in names if f"\nname: {name}\n" in (folder / f"{name}.yaml").read_text()]


def compose_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved configuration as plain values.

    Raises:
        RefusedError: an override that cannot be read, an unknown group member or an unknown key.

    """
    parsed = _parse(overrides)
    known = groups()
    faults = [fault for override in parsed if (fault := _moved(override, known))]
    faults += [fault for override in parsed if (fault := _group_fault(override, known))]
    if faults:
        raise RefusedError(faults)
    chosen = [o.input_line or "" for o in parsed if o.key_or_group in known]
    base, keys = _chosen(config_dir(), tuple(chosen))
    for override in parsed:
        key = override.key_or_group
        if key in known or override.is_add() or override.is_force_add():
            continue
        if key not in keys:
            faults.append(Fault(key, override.value(), "unknown key", _nearest_key(key, keys)))
    if faults:
        raise RefusedError(faults)
    own = [override for override in parsed if override.key_or_group not in known]
    composed = _with_values(base, own)
    if composed is None:
        composed = _compose(list(overrides))
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:  # such as ${nothing}
        key = str(error.full_key or "config")
        remedy = "Refer to a key that exists, or give a value"
        raise RefusedError(Fault(key, _text(composed, key), _first_line(error), remedy)) from error
    if not isinstance(values, dict):
        raise RefusedError(Fault("config", type(values).__name__, "not a mapping", "Fix conf/"))
    values.pop("experiment", None)
    return {str(key): value for key, value in values.items()}


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Split ``a=1,2 b=3,4`` into the override lists of all combinations, as Hydra's basic sweeper does."""
    axes: list[list[str]] = []
    for override in _parse(overrides):
        key = override.get_key_element()
        if override.is_sweep_override():
            axes.append([f"{key}={value!s}" for value in override.sweep_string_iterator()])
        else:
            axes.append([override.input_line or ""])
    return [list(combination) for combination in itertools.product(*axes)]


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser, parsed, faults = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            faults.append(
                Fault("override", text, "cannot be read", "Write key=value, as in rounds=5")
            )
    if faults:
        raise RefusedError(faults)
    return parsed


def _group_fault(override: Override, known: dict[str, list[str]]) -> Fault | None:
    key = override.key_or_group
    if key not in known or (override.value() is None and key == "experiment"):
        return None
    name = "null" if override.value() is None else str(override.value())
    if name in known[key]:
        return None
    return Fault(key, name, f"no such {key}", nearest(name, known[key]))


def _moved(override: Override, known: Mapping[str, Any]) -> Fault | None:
    """Return where a key of older releases is now."""
    key, value = override.key_or_group, override.value()
    first, _, rest = key.partition(".")
    if key.startswith(_OLD_PREFIXES) and not rest.endswith("_target_"):
        new = "method." + rest.partition(".")[2]
    elif f"method/{first}" in known:
        new = f"method.{key}" if rest else f"method/{key}"
    else:
        return None
    return Fault(key, value, f"is now {new}", f"Write {new}={value}")


def _compose(overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        group = re.match(r"Could not override '(\w+/\w+)", str(error))
        if group:  # of a method that has no such choice
            key = group[1]
            given = next((text for text in overrides if text.startswith(f"{key}=")), key)
            problem, remedy = (
                "the method has no such choice",
                "Leave it out, or take another method",
            )
            raise RefusedError(Fault(key, given.partition("=")[2], problem, remedy)) from error
        remedy = "Correct the override or the file in conf/"
        raise RefusedError(Fault("config", list(overrides), _first_line(error), remedy)) from error


@lru_cache(maxsize=64)
def _chosen(folder: Path, members: tuple[str, ...]) -> tuple[DictConfig, frozenset[str]]:
    """Return what these group members compose to, and its keys; Hydra takes 0.1 s for it."""
    composed = _compose(members)
    return composed, frozenset(_flatten(composed))


def _with_values(composed: DictConfig, overrides: Sequence[Override]) -> DictConfig | None:
    """Return a copy with these values, set as Hydra does; None where that takes Hydra itself."""
    changed = copy.deepcopy(composed)
    for override in overrides:
        if override.type != OverrideType.CHANGE or override.package is not None:
            return None
        if override.is_sweep_override():
            return None
        try:
            OmegaConf.update(changed, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return None  # Hydra says what is wrong
    return changed


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _text(composed: DictConfig, key: str) -> Any:
    """Return what stands at ``key``, unresolved."""
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw


def _flatten(node: Any, prefix: str = "") -> set[str]:
    if not isinstance(node, DictConfig):
        return {prefix}
    keys = {prefix} if prefix else set()
    for key in node:
        child = ".".join(part for part in (prefix, str(key)) if part)
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        keys |= _flatten(value, child) if isinstance(value, DictConfig) else {child}
    return keys


def _nearest_key(key: str, keys: Collection[str]) -> str:
    above = key.rpartition(".")[0]
    beside = [known for known in keys if known.rpartition(".")[0] == above]
    level = [known for known in keys if known.count(".") == key.count(".")]
    for near in (beside, level):
        suggestion = nearest(key, near)
        if suggestion.startswith("Did"):
            return suggestion
    return nearest(key, beside or sorted(keys))
