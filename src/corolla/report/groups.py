"""Which runs differ in the seed only, and what else a reader must know before groups are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corolla.report.load import Run
from corolla.report.wording import DASH, listing, middle


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed only, as far as their configurations tell."""

    label: str
    runs: Sequence[Run]

    @property
    def seeds(self) -> str:
        """The seeds, in order."""
        seeds = sorted({run.seed for run in self.runs}, key=lambda s: (len(s), s))
        return ", ".join(seeds[:12]) + (f" and {len(seeds) - 12} more" if len(seeds) > 12 else "")


def grouped(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Group by method, space and data set, and by any other setting that differs inside such a family.

    The one grouping of terminal, report and files: averaging over runs with different settings would hide
    the difference, so seeds are pooled only where nothing else differs. Also returned: what else the reader
    must know before groups are compared, in sentences.
    """
    families: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        key = (run.name_of("method"), run.name_of("space"), run.name_of("dataset"))
        families.setdefault(key, []).append(run)
    spaces = {key[1] for key in families}
    datasets = {key[2] for key in families}
    groups: list[Group] = []
    split_by: list[str] = []
    for (method, space, dataset), members in sorted(families.items()):
        parts = [method]
        parts += [space] if len(spaces) > 1 else []
        parts += [dataset] if len(datasets) > 1 else []
        settings = _settings(members)
        differing = _differing(settings)
        split_by += [name for key in differing if (name := _name(key)) not in split_by]
        split: dict[tuple[str, ...], list[Run]] = {}
        for run, flat in zip(members, settings, strict=True):
            words = [f"{_name(key).rpartition('.')[2]} {_said(flat, key)}" for key in differing]
            split.setdefault(tuple(words), []).append(run)
        for differences, same in split.items():
            label = " · ".join([*parts, *(middle(w, 40) for w in differences)])
            taken = sum(group.label.startswith(label) for group in groups)  # cut to the same text
            groups.append(Group(f"{label} ({taken + 1})" if taken else label, same))
    return groups, _to_know(groups, split_by)


def _to_know(groups: Sequence[Group], split_by: Sequence[str]) -> list[str]:
    """Return a sentence for each thing in which groups differ that their labels do not say."""
    said = []
    if split_by:
        more = f" and {len(split_by) - 8} more" if len(split_by) > 8 else ""
        named = f"{', '.join(split_by[:8])}{more}"
        said.append(f"Runs of one method are separate groups where these settings differ: {named}.")
    settings = _settings([group.runs[0] for group in groups])
    apart = [  # settings of a method, or of a space, that others do not have are no difference
        f"{name}."
        for name in ("method", "space", "dataset")
        if len({group.runs[0].name_of(name) for group in groups}) > 1
    ]
    for key in _differing(settings):
        if _name(key) in split_by or key.startswith((*apart, "images.")):
            continue
        holders: dict[str, list[str]] = {}
        for group, flat in zip(groups, settings, strict=True):
            holders.setdefault(_said(flat, key), []).append(group.label)
        each = "; ".join(f"{value} ({listing(names, limit=3)})" for value, names in holders.items())
        said.append(f"The groups were not run with the same {_name(key)}: {each}.")
    for group in groups:
        seeds = [run.seed for run in group.runs]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            said.append(
                f"{group.label} has several runs of seed {', '.join(twice)}; "
                "every one of them counts in its means."
            )
    return said


_TARGET = "_target_"
_NO_EFFECT = frozenset(  # settings that change where or how a run is recorded, not what comes out
    {"device", "engine", "evaluation.every", "evaluation.latency", "evaluation.return_models"}
    | {"experiment", "hydra", "report", "round_timeout_s", "run_dir", "tensorboard", "tracker"}
    | {"from", "dataset.cache_dir", "dataset.cache_gib", "dataset.memory_mib"}
    | {"server_set.cache_dir", "server_set.cache_gib"}
)


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of what can change a result: no places of records, no engines."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in _NO_EFFECT or name == "seed":
            continue
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the runs' settings, without seeds that are everywhere the run's own."""
    settings = [flat_settings(run.config) for run in runs]
    for key in {key for flat in settings for key in flat if key.endswith(".seed")}:
        if all(str(flat.get(key)) == run.seed for flat, run in zip(settings, runs, strict=True)):
            for flat in settings:
                del flat[key]
    return settings


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that differ; of parts of another class, not those that the other class lacks."""
    keys = sorted(set().union(*settings))
    differing = [key for key in keys if len({repr(flat.get(key)) for flat in settings}) > 1]
    return [key for key in differing if not _told_by_class(key, differing, settings)]


def _told_by_class(
    key: str, differing: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> bool:
    target = f"{key.rpartition('.')[0]}.{_TARGET}"
    if target == key or target not in differing:
        return False
    classes = {str(flat.get(target)) for flat in settings}
    having = {(str(flat.get(target)), key in flat) for flat in settings}
    alike = len({repr(flat[key]) for flat in settings if key in flat}) == 1
    return alike and len(having) == len(classes)


def _name(key: str) -> str:
    return key.removesuffix(f".{_TARGET}")


def _said(flat: Mapping[str, Any], key: str) -> str:
    value = str(flat.get(key, DASH))
    return value.rpartition(".")[2] if key.endswith(f".{_TARGET}") else value
