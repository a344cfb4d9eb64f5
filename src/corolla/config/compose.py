"""From Hydra overrides to one resolved configuration, with every fault named at once.

Hydra stops at the first mistake and says nothing of the nearest name; so overrides are looked through
first, against the groups and keys that exist.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corolla.config import own_parts
from corolla.config.schema import parse_config
from corolla.errors import Fault, RefusedError, nearest

_NOW = "is now "
_OLD_PREFIXES = ("method.strategy.", "method.client.")  # of older releases


def config_dir() -> Path:
    """Return the folder ``conf/``: beside the source in a checkout or bundle, else as installed."""
    source = Path(__file__).resolve().parents[3] / "conf"
    if (source / "config.yaml").is_file():
        return source
    import conf  # an installed copy: the namespace package that holds the YAML files

    return Path(next(iter(conf.__path__)))


def groups() -> dict[str, list[str]]:
    """Return config group -> names of its files; ``method/search`` is a group below ``method``.

    Those of the user's own folders are among them (`corolla.config.own_parts`).
    Raises: RefusedError where two folders have files of the same name.
    """
    return {group: sorted(files) for group, files in _files(tuple(own_parts.folders())).items()}


def file_of(group: str, name: str) -> Path:
    """Return the YAML file of a group's member."""
    return _files(tuple(own_parts.folders()))[group][name]


def _files(own: tuple[Path, ...]) -> dict[str, dict[str, Path]]:
    """Return config group -> name -> file, ours first."""
    found: dict[str, dict[str, Path]] = {}
    faults = []
    for folder in (config_dir(), *own):
        known = set(found)
        for child in sorted(folder.glob("**/")) if folder not in own else _groups_in(folder, known):
            for path in sorted(child.glob("*.yaml")) if child != folder else ():
                members = found.setdefault(child.relative_to(folder).as_posix(), {})
                if path.stem in members:
                    problem, remedy = f"is also {members[path.stem]}", "Give yours another name"
                    faults.append(Fault("config-dir", str(path), problem, remedy))
                members[path.stem] = path
    if faults:
        raise RefusedError(faults)
    return {group: found[group] for group in sorted(found)}


def _groups_in(folder: Path, known: Collection[str]) -> list[Path]:
    """Return the groups in a folder of the user's, whose other folders are none of ours to read."""
    tops = sorted({group.partition("/")[0] for group in known})
    return [child for top in tops for child in sorted((folder / top).glob("**/"))]


def methods() -> list[str]:
    """Return the methods; a file of conf/method without a name of its own is a method with other settings."""
    files = _files(tuple(own_parts.folders()))["method"]
    return [n for n, path in sorted(files.items()) if f"\nname: {n}\n" in f"\n{path.read_text()}\n"]


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
    parsed, known = _parsed(overrides)[0], groups()
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
        raise RefusedError(Fault(key, _text(composed, key), _first_line(error), remedy)) from error
    if not isinstance(values, dict):
        raise RefusedError(Fault("config", type(values).__name__, "not a mapping", "Fix conf/"))
    values.pop("experiment", None)
    return {str(key): value for key, value in values.items()}


def mended(
    values: Mapping[str, Any], overrides: Sequence[str], faults: Sequence[Fault]
) -> dict[str, Any]:
    """Return ``values`` with what `conf/` says wherever a fault is, so that further ones can be found.

    What takes its value from there (``method.damping: ${damping}``) takes the new one: it is not wrong, too.
    """
    parsed, _ = _parsed([*suggested(overrides), *overrides])
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
    parsed, faults = _parsed(overrides)
    known = groups()
    moved = [fault for override in parsed if (fault := _moved(override, known))]
    faults += [fault for override in parsed if (fault := _group_fault(override, known))]
    faults += [fault for override in parsed if (fault := _sweep_fault(override))]
    faults += moved
    wrong = {fault.key for fault in faults}
    try:
        keys = frozenset(_flatten(_base([o for o in parsed if o.key_or_group not in wrong], known)))
    except RefusedError as error:
        return parsed, [*faults, *error.faults]
    for fault in moved:
        new = fault.problem.removeprefix(_NOW).replace("/", ".")
        if new not in keys:
            problem = f"belongs to another method ({fault.problem})"
            remedy = "Leave it out, or take a method that has it"
            faults[faults.index(fault)] = Fault(fault.key, fault.value, problem, remedy)
    for override in parsed:
        key = override.key_or_group
        if key in known or key in wrong or override.is_add() or override.is_force_add():
            continue
        if key not in keys:
            faults.append(Fault(key, override.value(), "unknown key", _nearest_key(key, keys)))
    return parsed, faults


def _base(parsed: Sequence[Override], known: Collection[str]) -> DictConfig:
    """Return what the chosen groups compose to, without single values."""
    members = tuple(o.input_line or "" for o in parsed if o.key_or_group in known)
    return _chosen(config_dir(), members)


def choices(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the unresolved configuration, and which file was chosen of each group."""
    parsed, _ = _parsed([*suggested(overrides), *overrides])
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
    parsed, _ = _parsed(overrides)
    given = {override.key_or_group: override for override in parsed}
    method = given.get("method")
    if method is None or "experiment" in given:
        return []
    if _group_fault(method, groups()) or method.is_sweep_override():
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


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Split ``a=1,2 b=3,4`` into the override lists of all combinations, as Hydra's basic sweeper does."""
    axes: list[list[str]] = []
    parsed, faults = _parsed(overrides)
    if faults:
        raise RefusedError(faults)
    for override in parsed:
        key = override.get_key_element()
        if override.is_sweep_override():
            axes.append([f"{key}={value!s}" for value in override.sweep_string_iterator()])
        else:
            axes.append([override.input_line or ""])
    return [list(combination) for combination in itertools.product(*axes)]


def _parsed(overrides: Sequence[str]) -> tuple[list[Override], list[Fault]]:
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


def _group_fault(override: Override, known: dict[str, list[str]]) -> Fault | None:
    key = override.key_or_group
    if override.is_sweep_override():
        return None
    if key not in known or (override.value() is None and key == "experiment"):
        return None
    name = "null" if override.value() is None else str(override.value())
    if name in known[key]:
        return None
    return Fault(key, name, f"no such {key}", nearest(name, known[key]))


def _sweep_fault(override: Override) -> Fault | None:
    if not override.is_sweep_override():
        return None
    key, text = override.key_or_group, (override.input_line or "").partition("=")[2]
    remedy = f"Add -m for a run of each: corolla run -m {key}={text}; a list is in brackets"
    return Fault(key, text, "are several values", remedy)


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
    return Fault(key, value, f"{_NOW}{new}", f"Write {new}={value}")


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


def _text(composed: DictConfig, key: str) -> Any:
    """Return what stands at ``key``, unresolved."""
    return _at(OmegaConf.to_container(composed, resolve=False), key)


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value as it is written) of all that is no group of others."""
    for key, child in _nodes(node, prefix):
        if not isinstance(child, DictConfig) or not len(child):
            yield key, OmegaConf.to_container(child) if OmegaConf.is_config(child) else child


def _flatten(node: DictConfig) -> set[str]:
    return {key for key, _ in _nodes(node, "")}


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


def _nearest_key(key: str, keys: Collection[str]) -> str:
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
