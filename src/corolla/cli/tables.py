"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from corolla.records.run_directory import RunDirectory
from corolla.records.summary import compare
from corolla.types import client_order

_MOST_ROWS = 40


def clients(summary: Mapping[str, Any]) -> Table:
    """Return one row per client: its architecture, what it costs, how accurate it is."""
    table = Table(title=f"{summary['method']} on {summary['dataset']}, {summary['space']}")
    budget = any("memory_budget_mib" in entry for entry in summary["per_client"].values())
    for heading in ("client", "architecture (choice per dimension)"):
        table.add_column(heading)
    headings = ["params", "MMACs", *(["memory/budget MiB"] if budget else []), "test %", "+FT %"]
    for heading in headings:
        table.add_column(heading, justify="right")
    tuned = summary.get("fine_tuned", {}).get("test_accuracy", {}).get("per_client", {})
    accuracy = summary["test_accuracy"]["per_client"]
    as_trained = summary.get("as_trained") or summary.get("global")
    if tuned == accuracy and as_trained:  # the tuned model is the deployed one
        accuracy = as_trained["test_accuracy"]["per_client"]
    names = sorted(summary["per_client"], key=client_order)
    for name in names[:_MOST_ROWS]:
        entry = summary["per_client"][name]
        row = [name, _strip(entry["choices"], summary["dimensions"])]
        row += [f"{entry['params']:,}", f"{entry['macs'] / 1e6:.2f}"]
        if budget:
            limit = entry.get("memory_budget_mib")
            used = f"{entry['training_memory_mib']:.1f}"
            row.append(f"{used}/{limit:.1f}" if limit is not None else used)
        row += [_percent(accuracy.get(name)), _percent(tuned.get(name))]
        table.add_row(*row)
    if len(names) > _MOST_ROWS:
        table.caption = f"{len(names) - _MOST_ROWS} more clients in summary.json and the report"
    return table


def headline(summary: Mapping[str, Any]) -> Table:
    """Return mean, spread and worst decile over all clients."""
    table = Table(title=f"Test accuracy over {summary['clients']} clients, %")
    for heading in ("model", "mean", "sd", "worst decile"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    tuned = summary.get("fine_tuned", {})
    own = "deployed"
    if tuned and summary.get("deploy") == "fine_tuned":  # equal scores say nothing
        own = f"deployed: fine-tuned for {tuned['epochs']} epochs"
    rows = [(f"{own}, last round", summary["test_accuracy"])]
    if summary.get("best"):
        text = f"{own}, round {summary['best']['round']} (chosen on validation)"
        rows.append((text, summary["best"]["test_accuracy"]))
    if tuned and own != "deployed" and "as_trained" in summary:
        rows.append(("as trained, last round", summary["as_trained"]["test_accuracy"]))
    if tuned and own == "deployed":
        text = f"deployed + {summary['fine_tuned']['epochs']} epochs of fine-tuning"
        rows.append((text, summary["fine_tuned"]["test_accuracy"]))
    if "global" in summary:
        rows.append(("global model", summary["global"]["test_accuracy"]))
    for name, spread in rows:
        table.add_row(name, *(_percent(spread[key]) for key in ("mean", "std", "worst_decile")))
    return table


def comparison(run_dirs: Sequence[Path]) -> Table:
    """Return mean and sd over seeds, one row per method."""
    table = Table(title="Mean ± sd over seeds, test accuracy in %")
    columns = {
        "deployed": "test_accuracy/mean",
        "worst decile": "test_accuracy/worst_decile",
        "+ fine-tuning": "fine_tuned/test_accuracy/mean",
        "global": "global/test_accuracy/mean",
    }
    for heading in ("method", "runs", *columns):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in compare([RunDirectory.open(path).summary() for path in run_dirs]):
        cells = [
            row.figures[key].percent(2) if key in row.figures else "-" for key in columns.values()
        ]
        table.add_row(str(row.group["method"]), str(len(row.seeds)), *cells)
    return table


def _strip(choices: Sequence[int], dimensions: Sequence[Mapping[str, Any]]) -> str:
    """Return the chosen indices of the dimensions that have a choice, in groups of one stage."""
    text, stage = "", None
    for index, dimension in zip(choices, dimensions, strict=True):
        if len(dimension["choices"]) < 2:
            continue
        name = str(dimension["name"]).partition(".")[0]
        text += (" " if stage not in (None, name) else "") + str(index)
        stage = name
    return text


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
