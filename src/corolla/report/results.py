"""The accuracies a run is judged by, and the same over the seeds of a group of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corolla.report.load import Run, Spread, number
from corolla.report.wording import DASH, duration, listing, middle, percent, plus_minus, size


@dataclass(frozen=True)
class Result:
    """One way of ending the run: which model, and its accuracy over all clients."""

    key: str  # last, chosen, as_trained, fine_tuned, global
    model: str
    test: Spread
    validation: Spread | None = None
    repeated: bool = False  # the same model as an entry before


def results(run: Run) -> list[Result]:
    """Return the run's results; without a summary, those of the evaluations so far."""
    summary = run.summary
    if summary is None:
        return _results_so_far(run)
    best, tuned = _mapping(summary.get("best")), _mapping(summary.get("fine_tuned"))
    shared, as_trained = _mapping(summary.get("global")), _mapping(summary.get("as_trained"))
    epochs, chosen = number(tuned.get("epochs")), number(best.get("round"))
    last = int(number(summary.get("rounds")) or run.rounds_done)
    own = run.declares_fine_tuned
    after = f", fine-tuned ({_whole(epochs)} epochs)"
    drafts = [
        ("last", f"last round ({last})" + (after if own else ""), summary),
        ("chosen", f"round chosen on validation ({_whole(chosen)})" + (after if own else ""), best),
        ("as_trained", f"last round ({last}), as trained", as_trained if own else {}),
        ("fine_tuned", f"last round ({last}){after}", tuned),
        ("global", f"global model, last round ({last})", shared),
    ]
    results = []
    for key, model, record in drafts:
        test = Spread.of(record.get("test_accuracy"))
        if test is not None:
            validation = Spread.of(record.get("val_accuracy"))
            results.append(Result(key, model, test, validation, own and key == "fine_tuned"))
    return results


def result(run: Run, key: str) -> Result | None:
    """Return the result called ``key``, if the run has it."""
    return next((entry for entry in results(run) if entry.key == key), None)


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
        split_by += [key for key in differing if key not in split_by]
        split: dict[tuple[str, ...], list[Run]] = {}
        for run, flat in zip(members, settings, strict=True):
            words = [f"{key.rpartition('.')[2]} {_said(flat, key)}" for key in differing]
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
        said.append(f"Runs of one method are kept apart by {', '.join(split_by[:8])}{more}.")
    settings = _settings([group.runs[0] for group in groups])
    apart = [  # settings of a method, or of a space, that others do not have are no difference
        f"{name}."
        for name in ("method", "space", "dataset")
        if len({group.runs[0].name_of(name) for group in groups}) > 1
    ]
    for key in _differing(settings):
        if key in split_by or key.startswith((*apart, "images.")):
            continue
        holders: dict[str, list[str]] = {}
        for group, flat in zip(groups, settings, strict=True):
            holders.setdefault(_said(flat, key), []).append(group.label)
        each = "; ".join(f"{value} ({listing(names, limit=3)})" for value, names in holders.items())
        said.append(f"Groups also differ in {key}: {each}.")
    for group in groups:
        seeds = [run.seed for run in group.runs]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            said.append(f"{group.label}: several runs have seed {', '.join(twice)}; all count.")
    return said


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
    keys = sorted(set().union(*settings))
    return [key for key in keys if len({repr(flat.get(key)) for flat in settings}) > 1]


def _said(flat: Mapping[str, Any], key: str) -> str:
    return str(flat.get(key, DASH))


@dataclass(frozen=True)
class Measure:
    """One column of the comparison: how to get it from a run, and how to write it."""

    key: str
    head: str
    get: Callable[[Run], float | None]
    said: Callable[[float | None], str]


def _test(key: str, part: str) -> Callable[[Run], float | None]:
    def get(run: Run) -> float | None:
        found = result(run, key)
        return None if found is None else getattr(found.test, part)

    return get


def _test_of_one_kind(
    part: str, *, tuned: bool, chosen: bool = False
) -> Callable[[Run], float | None]:
    """Return what is read of every run alike: models as trained, or fine-tuned, whichever is deployed."""

    def get(run: Run) -> float | None:
        own = run.declares_fine_tuned
        if chosen:  # of what is deployed, and of nothing else
            return _test("chosen", part)(run) if own == tuned else None
        if tuned:
            return _test("fine_tuned", part)(run)
        return _test("as_trained" if own else "last", part)(run)

    return get


def _traffic(run: Run) -> float | None:
    down, up = run.cost("bytes_down"), run.cost("bytes_up")
    return None if down is None and up is None else (down or 0) + (up or 0)


MEASURES: Sequence[Measure] = (
    Measure("last", "as trained %", _test_of_one_kind("mean", tuned=False), percent),
    Measure("worst", "its worst decile %", _test_of_one_kind("worst_decile", tuned=False), percent),
    Measure(
        "chosen",
        "chosen on validation %",
        _test_of_one_kind("mean", tuned=False, chosen=True),
        percent,
    ),
    Measure("fine_tuned", "fine-tuned %", _test_of_one_kind("mean", tuned=True), percent),
    Measure(
        "tuned_worst", "its worst decile %", _test_of_one_kind("worst_decile", tuned=True), percent
    ),
    Measure(
        "tuned_chosen",
        "chosen, fine-tuned %",
        _test_of_one_kind("mean", tuned=True, chosen=True),
        percent,
    ),
    Measure("global", "global model %", _test("global", "mean"), percent),
    Measure("bytes", "bytes sent", _traffic, size),
    Measure("client_s", "client time", lambda run: run.cost("client_s"), duration),
    Measure("wall_s", "wall time", lambda run: run.cost("wall_s"), duration),
)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), which one value does not have."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def over_seeds(group: Group, measure: Measure) -> tuple[float, float | None] | None:
    """Return mean and sd over the group's runs that have the measure; None when none has."""
    values = [value for value in map(measure.get, group.runs) if value is not None]
    return mean_and_sd(values) if values else None


def in_words(measure: Measure, value: tuple[float, float | None] | None) -> str:
    """Return "78.3 ± 1.2" in the measure's unit."""
    if value is None:
        return DASH
    mean, deviation = value
    if deviation == 0:  # without a unit that would only look like a measurement
        return plus_minus(measure.said(mean), "0")
    return plus_minus(measure.said(mean), None if deviation is None else measure.said(deviation))


def _results_so_far(run: Run) -> list[Result]:
    results: list[Result] = []
    tests = run.deployed_curve("test_accuracy")
    validations = dict(run.deployed_curve("val_accuracy"))
    if tests:
        last, spread = tests[-1]
        model = f"last evaluation so far (round {last})"
        results.append(Result("last", model, spread, validations.get(last)))
    judged = [(validations[r].mean, r, spread) for r, spread in tests if r in validations]
    if judged:
        _, best, spread = max(judged, key=lambda entry: (entry[0], -entry[1]))
        model = f"chosen on validation so far (round {best})"
        results.append(Result("chosen", model, spread, validations[best]))
    shared = run.evaluation_curve("global", "test_accuracy")
    if shared:
        last, spread = shared[-1]
        results.append(Result("global", f"global model so far (round {last})", spread))
    return results


def _whole(value: float | None) -> str:
    return DASH if value is None else f"{value:.0f}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
