"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from corolla.report.darts_looks import short_name
from corolla.report.groups import grouped
from corolla.report.load import load_run
from corolla.report.measures import MEASURES, in_words, over_seeds
from corolla.report.wording import plural
from corolla.types import client_order

_MOST_ROWS, _MOST_TOLD = 40, 10  # clients; whose architectures take four lines each
_COMPARED = ("last", "worst", "fine_tuned", "global", "pooled")  # what has room in 80 columns


def clients(summary: Mapping[str, Any]) -> Table:
    """Return one row per client: its architecture, what it costs, how accurate it is."""
    table = Table(title=f"{summary['method']} on {summary['dataset']}, {summary['space']}")
    budget = any("memory_budget_mib" in entry for entry in summary["per_client"].values())
    names = sorted(summary["per_client"], key=client_order)
    told = {
        name: candidates(summary["per_client"][name]["choices"], summary["dimensions"])
        for name in names
    }
    shared = told[names[0]] if len(names) > 1 and len(set(told.values())) == 1 else None
    table.caption = f"Architecture of all: {shared}" if shared else None
    listed = shared is None and len(names) <= _MOST_TOLD
    if shared is None and not listed:
        table.caption = "Architectures are in the report and in summary.json"
    for heading in ("client", *(("architecture",) if listed else ())):
        table.add_column(heading)
    headings = ["params", "MMACs", *(["memory/budget MiB"] if budget else []), "test %", "tuned %"]
    for heading in headings:
        table.add_column(heading, justify="right")
    tuned = summary.get("fine_tuned", {}).get("test_accuracy", {}).get("per_client", {})
    accuracy = summary.get("test_accuracy", {}).get("per_client", {})
    as_trained = summary.get("as_trained") or summary.get("global")
    if tuned == accuracy and as_trained:  # the tuned model is the deployed one
        accuracy = as_trained["test_accuracy"]["per_client"]
    for name in names[:_MOST_ROWS]:
        entry = summary["per_client"][name]
        row = [str(entry.get("site", name)), *((told[name],) if listed else ())]
        row += [f"{entry['params']:,}", f"{entry['macs'] / 1e6:.2f}"]
        if budget:
            limit = entry.get("memory_budget_mib")
            used = f"{entry['training_memory_mib']:.1f}"
            row.append(f"{used}/{limit:.1f}" if limit is not None else used)
        row += [_percent(accuracy.get(name)), _percent(tuned.get(name))]
        table.add_row(*row)
    if len(names) > _MOST_ROWS:
        left_out = f"{len(names) - _MOST_ROWS} more clients in summary.json and the report"
        table.caption = "\n".join(filter(None, (table.caption, left_out)))
    return table


def headline(summary: Mapping[str, Any]) -> Table:
    """Return mean, spread and worst decile over all clients, or over those that were asked at the end."""
    known = summary.get("known_clients", summary["clients"])
    who = plural(summary["clients"], "client")
    if summary.get("final", "all") != "all":
        who = f"{summary['clients']:,} of {known:,} clients"
    tuned = summary.get("fine_tuned", {})
    own = "deployed"
    if tuned and summary.get("deploy") == "fine_tuned":  # equal scores say nothing
        own = f"deployed: fine-tuned for {tuned['epochs']} epochs"
    rows = []
    if "test_accuracy" in summary:  # not where evaluation.final=none
        rows.append((f"{own}, last round", summary["test_accuracy"]))
    if summary.get("best"):
        text = f"{own}, round {summary['best']['round']} (chosen on validation)"
        rows.append((text, summary["best"]["test_accuracy"]))
    if tuned and own != "deployed" and "as_trained" in summary:
        rows.append(("as trained, last round", summary["as_trained"]["test_accuracy"]))
    if tuned and own == "deployed":
        text = f"deployed + {summary['fine_tuned']['epochs']} epochs of fine-tuning"
        rows.append((text, summary["fine_tuned"]["test_accuracy"]))
    return _spreads(f"Test accuracy over {who}, %", rows)


def global_model(summary: Mapping[str, Any]) -> Table | None:
    """Return how the one global model does at the clients, as they run it; None where there is none.

    Never in one table with what is personal to them.
    """
    if "global" not in summary:
        return None
    rows = [("global model", summary["global"]["test_accuracy"])]
    return _spreads("The global model as clients run it, test accuracy, %", rows)


def _spreads(title: str, rows: Iterable[tuple[str, Mapping[str, float]]]) -> Table:
    table = Table(title=title)
    for heading in ("model", "mean", "sd", "worst decile"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, spread in rows:
        table.add_row(name, *(_percent(spread[key]) for key in ("mean", "std", "worst_decile")))
    return table


def shared_models(summary: Mapping[str, Any]) -> Table | None:
    """Return the accuracy of models that serve more than one client; None where the method has none.

    Never in one table with what clients get: a client's test images hold few classes. A tier is scored by
    the clients that it fits, so images are told for each.
    """
    pooled: Mapping[str, Mapping[str, Any]] = summary.get("pooled", {})
    if not pooled:
        return None
    whose = "all test images"
    if summary.get("final", "all") != "all":
        whose = f"the test images of {summary['clients']:,} of {summary['known_clients']:,} clients"
    title = f"Accuracy over {whose} together, %"
    table = Table(title=title, min_width=len(title))
    for heading in ("model", "params", "MMACs", "images", "test"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, entry in pooled.items():
        costs = f"{entry['params']:,}", f"{entry['macs'] / 1e6:.2f}"
        images = f"{entry['test_images']:,}"
        table.add_row(name, *costs, images, _percent(entry.get("test_accuracy")))
    return table


def comparison(run_dirs: Sequence[Path]) -> tuple[Table, list[str]]:
    """Return mean and sd over seeds, one row per group of runs, and what to know before comparing them."""
    groups, to_know = grouped([load_run(path) for path in run_dirs])
    title = "Test accuracy over all clients, mean ± sd over seeds"
    table = Table(title=title, show_edge=False, pad_edge=False)
    measures = [measure for measure in MEASURES if measure.key in _COMPARED]
    found = [[over_seeds(group, measure) for measure in measures] for group in groups]
    used = [i for i in range(len(measures)) if any(row[i] is not None for row in found)]
    labels = [group.label.replace(" · ", " ·\n") for group in groups]
    table.add_column("group", overflow="fold")  # what tells groups apart is never cut off
    for heading in ("seeds", *(measures[i].head for i in used)):
        table.add_column(heading, justify="right")
    for label, group, row in zip(labels, groups, found, strict=True):
        table.add_row(label, group.seeds, *(in_words(measures[i], row[i]) for i in used))
    return table, to_know


def candidates(choices: Sequence[int], dimensions: Sequence[Mapping[str, Any]]) -> str:
    """Return what was chosen where there was a choice, by stage: "mb1 width 16 kernel 3, mb2 ..."."""
    stages: dict[str, list[str]] = {}
    for index, dimension in zip(choices, dimensions, strict=True):
        if len(dimension["choices"]) < 2:
            continue
        stage, _, part = str(dimension["name"]).partition(".")
        chosen = dimension["choices"][index]
        value = short_name(chosen) if isinstance(chosen, str | list) else str(chosen)
        stages.setdefault(stage, []).append(f"{part} {value}".strip())
    return ", ".join(f"{stage} {' '.join(parts)}" for stage, parts in stages.items())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
