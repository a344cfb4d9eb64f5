"""Reads what finished runs found, so that runs can be compared like with like."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from corolla.records.run_directory import RunDirectory

_LOG = logging.getLogger(__name__)
_SUBNETS = ("smallest", "random", "largest")
SCORES = ("teacher_accuracy", *(f"supernet_accuracy_{subnet}" for subnet in _SUBNETS))
RANKS = ("predictor_kendall", "predictor_spearman", "front_kendall", "front_spearman")


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's summary and configuration; the summary has `deployed` and `diagnostics` besides.

    Raises: RefusedError where there is no run, or one that is not finished.
    """
    directory = RunDirectory.open(folder)
    summary, metrics = directory.summary(), directory.metrics()
    gain = folder / "gain.json"  # where `corolla gain` was run
    summary["gain"] = json.loads(gain.read_text()) if gain.is_file() else None
    summary["deployed"] = deployed(summary, metrics)
    summary["diagnostics"] = diagnostics(summary, metrics)
    if summary["deployed"] and summary["deployed"]["round"] != summary["rounds"]:
        _LOG.warning("%s: last evaluated in round %d", folder, summary["deployed"]["round"])
    return summary, yaml.safe_load(directory.config_text())


def deployed(
    summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the test accuracy of what clients run without fine-tuning: its spread over them, and the round.

    None where the run has no evaluation between rounds and its headline is that of the fine-tuned model.
    """
    for row in reversed(metrics):
        found = row.get("evaluation") or {}
        if "personalised" in found:
            accuracy = found["personalised"]["test_accuracy"]
            return {"round": row["round"], "clients": found.get("clients"), **accuracy}
    if "test_accuracy" not in summary:  # evaluation.final=none
        return None
    if summary["test_accuracy"] == (summary.get("fine_tuned") or {}).get("test_accuracy"):
        return None
    spread = {key: value for key, value in summary["test_accuracy"].items() if key != "per_client"}
    return {"round": summary["rounds"], "clients": summary.get("clients"), **spread}


def diagnostics(
    summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what the run last recorded of itself: each with its `value` and the `round`, or the `clients`.

    Accuracies of teacher and supernet are on the server's images, in the last round that has them; the
    predictor's quality is the mean over the clients that have it.
    """
    found: dict[str, dict[str, Any]] = {}
    for key in SCORES:
        rows = [row for row in metrics if row.get(key) is not None]
        if rows:
            found[key] = {"value": rows[-1][key], "round": rows[-1]["round"]}
    for key in RANKS:
        values = of_clients([summary], key)
        if values:
            found[key] = {"value": sum(values) / len(values), "clients": len(values)}
    return found


def add_leads(summaries: Iterable[dict[str, Any]], reference: str) -> None:
    """Add to each other summary its `lead` over the reference's run of the same seed, like with like.

    Keys: `deployed`, `fine_tuned`; a key is absent where either run lacks that accuracy, or the two were
    fine-tuned for different numbers of epochs.
    """
    listed = list(summaries)
    references = {one["seed"]: one for one in listed if one["method"] == reference}
    if not references:
        raise SystemExit(f"--reference {reference}: not among the arms")
    for summary in listed:
        if summary["method"] == reference:
            continue
        own, other = _alike(summary), _alike(references.get(summary["seed"], {}))
        summary["lead"] = {key[0]: own[key] - other[key] for key in own if key in other}


def _alike(summary: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    """Return the accuracies of a run by what makes them comparable: kind and epochs of fine-tuning."""
    found: dict[tuple[str, int], float] = {}
    if summary.get("deployed"):
        found["deployed", 0] = summary["deployed"]["mean"]
    if summary.get("fine_tuned"):
        tuned = summary["fine_tuned"]
        found["fine_tuned", tuned["epochs"]] = tuned["test_accuracy"]["mean"]
    return found


def of_clients(summaries: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    """Return one entry of every client of every run, where it has it."""
    entries = (entry for summary in summaries for entry in summary["per_client"].values())
    return [entry[key] for entry in entries if entry.get(key) is not None]


def client_state_bytes(run: RunDirectory) -> float:
    """Return what the client that keeps most keeps on its disk: of one round, all kinds together."""
    state = run.path / "state"  # a folder per client, here and in folders of other kinds
    names = {str(row["client"]) for row in run.clients()}
    kept = [sum(_largest(folder) for folder in state.rglob(name)) for name in names]
    return max(kept, default=0.0)


def _largest(folder: Path) -> float:
    return float(max((path.stat().st_size for path in folder.glob("*")), default=0))
