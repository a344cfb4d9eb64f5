"""From Hydra overrides to one resolved configuration, with every fault named at once.

Hydra stops at the first mistake and says nothing of the nearest name; so overrides are looked through
first, against the groups and keys that exist.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corolla.config import own_parts
from corolla.config.groups import config_dir, groups, method_defaults
from corolla.config.overrides import (
    NOW,
    dotted_group,
    group_fault,
    moved,
    nearest_key,
    read,
    sweep_fault,
)
from corolla.config.schema import parse_config
from corolla.errors import Fault, RefusedError, nearest, refuse


def compose_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved configuration as plain values; what is not given, the method may suggest.

    Raises:
        RefusedError: an override that cannot be read, an unknown group member or an unknown key.

    """
    overrides = [*suggested(overrides), *overrides]
    parsed, faults = _looked_through(overrides)
    if faults:
        wrong = {fault.key for fault in faults} | {
            fault.value for fault in faults if fault.key == "override"
        }
        rest = [o.input_line or "" for o in parsed if not wrong & {o.key_or_group, o.input_line}]
        with suppress(RefusedError):  # what is left goes together no better
            faults += [f for f in parse_config(_values(rest))[1] if f.key not in wrong]
        raise RefusedError(faults)
    return _values(overrides)


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what overrides compose to that were looked through."""
    parsed, known = read(overrides)[0], groups()
    base = _base(parsed, known)
    own = [override for override in parsed if override.key_or_group not in known]
    composed = _with_values(base, own)
    if composed is None:
        composed = _compose(list(overrides))
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:  # such as ${nothing}
        key = str(error.full_key or "config")
        remedy = "Refer to a key that exists, or give a value"
        written = _at(OmegaConf.to_container(composed, resolve=False), key)
        raise RefusedError(Fault(key, written, _first_line(error), remedy)) from error
    if not isinstance(values, dict):
        problem = "conf/config.yaml holds no keys"
        raise RefusedError(Fault("config", type(values).__name__, problem, "Restore the file"))
    values.pop("experiment", None)
    _require_read(values.pop("method_defaults", None) or {})
    return {str(key): value for key, value in values.items()}


def _require_read(defaults: Mapping[str, Any]) -> None:
    """Refuse what an experiment sets at ``method_defaults`` and no method's file takes from there."""
    known = sorted(method_defaults()) if defaults else []
    faults = [
        Fault(f"method_defaults.{key}", value, "no method takes this default", nearest(key, known))
        for key, value in defaults.items()
        if key not in known
    ]
    refuse(faults)


def mended(
    values: Mapping[str, Any], overrides: Sequence[str], faults: Sequence[Fault]
) -> dict[str, Any]:
    """Return ``values`` with what `conf/` says wherever a fault is, so that further ones can be found.

    What takes its value from there (``cap.seed: ${seed}``) takes the new one: it is not wrong, too.
    """
    parsed, _ = read([*suggested(overrides), *overrides])
    base = _base(parsed, groups())
    plain = OmegaConf.to_container(base)
    changed = OmegaConf.create(dict(values))
    given = {override.key_or_group for override in parsed}
    taken = {f"${{{fault.key}}}" for fault in faults}
    follow = [key for key, value in leaves(base) if str(value) in taken and key not in given]
    for key in dict.fromkeys([*(fault.key for fault in faults), *follow]):
        above, _, last = key.rpartition(".")
        node = OmegaConf.select(changed, above) if above else changed
        if isinstance(node, DictConfig) and last in node:
            node[last] = _at(plain, key)
    container = OmegaConf.to_container(changed, resolve=True)
    return {str(key): value for key, value in cast("dict[Any, Any]", container).items()}


def _looked_through(overrides: Sequence[str]) -> tuple[list[Override], list[Fault]]:
    """Return the overrides and all that is wrong with their words; nothing is composed of wrong groups."""
    parsed, faults = read(overrides)
    known = groups()
    renamed = [fault for override in parsed if (fault := moved(override, known))]
    faults += [fault for override in parsed if (fault := group_fault(override, known))]
    faults += [fault for override in parsed if (fault := sweep_fault(override))]
    faults += renamed
    wrong = {fault.key for fault in faults}
    try:
        base = _base([o for o in parsed if o.key_or_group not in wrong], known)
        keys = frozenset(key for key, _ in _nodes(base, ""))
    except RefusedError as error:
        return parsed, [*faults, *error.faults]
    for fault in renamed:
        new = fault.problem.removeprefix(NOW).replace("/", ".")
        if new not in keys:
            problem = f"belongs to another method ({fault.problem})"
            remedy = "Leave it out, or take a method that has it"
            faults[faults.index(fault)] = Fault(fault.key, fault.value, problem, remedy)
    for override in parsed:
        key = override.key_or_group
        if key in known or key in wrong:
            continue
        if key in keys and (dotted := dotted_group(override, known)):
            faults.append(dotted)
        if override.is_add() or override.is_force_add():
            continue
        if key not in keys:
            faults.append(Fault(key, override.value(), "unknown key", nearest_key(key, keys)))
    return parsed, faults


def _base(parsed: Sequence[Override], known: Collection[str]) -> DictConfig:
    """Return what the chosen groups compose to, without single values."""
    members = tuple(o.input_line or "" for o in parsed if o.key_or_group in known)
    return _chosen(config_dir(), members)


def choices(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the unresolved configuration, and which file was chosen of each group."""
    parsed, _ = read([*suggested(overrides), *overrides])
    composed = _compose([o.input_line or "" for o in parsed], with_choices=True)
    chosen = {str(group): str(name) for group, name in composed.hydra.runtime.choices.items()}
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    return composed, {
        group: name for group, name in chosen.items() if not group.startswith("hydra")
    }


def known_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Return the keys that a run with these groups has; those of the main job where they are wrong."""
    parsed, _ = _looked_through([text for text in overrides if "=" in text])
    with suppress(RefusedError):
        return frozenset(key for key, _ in leaves(_base(parsed, groups())))
    return frozenset(key for key, _ in leaves(_chosen(config_dir(), ())))


def suggested(overrides: Sequence[str]) -> list[str]:
    """Return what the method's file suggests (`suggests` in conf/method) and ``overrides`` leave open.

    What an experiment says is wanted as it is, and nothing is added to it. A group that is given, such as a
    space, is not changed by what was suggested within it.
    """
    parsed, _ = read(overrides)
    given = {override.key_or_group: override for override in parsed}
    method = given.get("method")
    if method is None or "experiment" in given:
        return []
    if group_fault(method, groups()) or method.is_sweep_override():
        return []  # it is refused, or not yet one
    base = _chosen(config_dir(), (f"method={method.value()}",))
    lists = OmegaConf.to_container(base.method.get("suggests") or OmegaConf.create({}))
    if not isinstance(lists, dict):
        return []
    dataset = given["dataset"].value() if "dataset" in given else "digits"
    own = [] if "space" in given else lists.get("digits" if dataset == "digits" else "others", [])
    return [text for text in [*own, *lists.get("all", [])] if not _decided(text, given)]


def _decided(text: str, given: Collection[str]) -> bool:
    """Tell whether what ``text`` sets, or the group that it is in, was given."""
    key = text.partition("=")[0].replace("/", ".")
    names = {name.replace("/", ".") for name in given} - {"method"}
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _compose(overrides: Sequence[str], *, with_choices: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            every = [*_search_path(), *overrides]
            return compose("config", overrides=every, return_hydra_config=with_choices)
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


def _search_path() -> list[str]:
    own = [f"'file://{folder}'" for folder in own_parts.folders()]
    return [f"hydra.searchpath=[{','.join(own)}]"] if own else []


def _chosen(folder: Path, members: tuple[str, ...]) -> DictConfig:
    """Return what these group members compose to; Hydra takes 0.1 s for it."""
    return _chosen_from((folder, *own_parts.folders()), members)


@lru_cache(maxsize=64)
def _chosen_from(folders: tuple[Path, ...], members: tuple[str, ...]) -> DictConfig:
    return _compose(members)


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


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value as it is written) of all that is no group of others."""
    for key, child in _nodes(node, prefix):
        if not isinstance(child, DictConfig) or not len(child):
            yield key, OmegaConf.to_container(child) if OmegaConf.is_config(child) else child


def _nodes(node: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in node:
        key = f"{prefix}.{name!s}" if prefix else str(name)
        child = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        value = child if isinstance(child, DictConfig | ListConfig) else _value_of(child)
        yield key, value
        if isinstance(child, DictConfig):
            yield from _nodes(child, key)


def _value_of(child: Any) -> Any:
    return child._value() if child is not None else None
