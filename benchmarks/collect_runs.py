"""Collects finished runs into one results file and prints the table of docs/results.md.

    python -m benchmarks.collect_runs NAME [ARM=]RUN_DIR... [--reference ARM]

Reads only `summary.json` and `config.yaml` of each run; mean and sample standard deviation over seeds. Runs
of one method with different settings are told apart by the name of their arm. Seeds differ in who has which
images, so runs of one seed are alike: with --reference, differences are taken seed by seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.recording import write_result
from corolla.records.summary import Comparison, compare

_COLUMNS = {
    "personalised": "test_accuracy/mean",
    "sd over clients": "test_accuracy/std",
    "worst decile": "test_accuracy/worst_decile",
    "chosen on validation": "best/test_accuracy/mean",
    "+ fine-tuning": "fine_tuned/test_accuracy/mean",
    "global": "global/test_accuracy/mean",
}
_OVER = "over_reference"
_SHOWN = ("rounds", "clients", "clients_per_round", "local_epochs", "batch_size", "evaluation")


def main() -> None:
    """Read the runs, write results/NAME.json, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("runs", metavar="[ARM=]RUN_DIR", nargs="+")
    parser.add_argument("--reference", metavar="ARM", help="show every arm's lead over this one")
    options = parser.parse_args()
    summaries, configs = [], []
    for run in options.runs:
        arm, _, folder = run.rpartition("=")
        summary = json.loads((Path(folder) / "summary.json").read_text())
        gain = Path(folder) / "gain.json"  # where `corolla gain` was run
        summary["gain"] = json.loads(gain.read_text()) if gain.is_file() else None
        summaries.append(summary | {"method": arm or summary["method"]})
        configs.append(yaml.safe_load((Path(folder) / "config.yaml").read_text()))
    columns = _COLUMNS
    if options.reference is not None:
        _lead(summaries, options.reference)
        columns = _COLUMNS | {f"less {options.reference}": _OVER}
    rows = compare(summaries)
    figures = {
        f"{row.group['method']}_{name.replace(' ', '_').replace('+_', '')}": row.figures[key].mean
        for row in rows
        for name, key in columns.items()
        if key in row.figures
    }
    for method in {summary["method"] for summary in summaries}:
        entropies = [
            entry["policy_entropy"]
            for summary in summaries
            if summary["method"] == method
            for entry in summary["per_client"].values()
            if "policy_entropy" in entry
        ]
        if entropies:
            figures[f"{method}_policy_entropy"] = sum(entropies) / len(entropies)
    raw = {
        "settings": {key: configs[0][key] for key in _SHOWN},
        "strategies": {
            summary["method"]: dict(config["method"]["strategy"])
            for summary, config in zip(summaries, configs, strict=True)
        },
        "runs": [_short(summary) for summary in summaries],
    }
    print("| method | seeds |", " | ".join(columns), "| MB down + up | MMACs |")
    print("|---|---|" + "---|" * (len(columns) + 2))
    for row in rows:
        print(_line(row, columns, [s for s in summaries if s["method"] == row.group["method"]]))
    print(f"written: {write_result(options.name, figures, raw)}")


def _lead(summaries: list[dict[str, Any]], reference: str) -> None:
    """Add to each summary its accuracy less the reference's of the same seed, where there is one."""
    known = {s["seed"]: _accuracy(s) for s in summaries if s["method"] == reference}
    if not known:
        raise SystemExit(f"--reference {reference}: not among the arms")
    for summary in summaries:
        if summary["seed"] in known:
            summary[_OVER] = _accuracy(summary) - known[summary["seed"]]


def _accuracy(summary: dict[str, Any]) -> float:
    return float(summary["test_accuracy"]["mean"])


def _line(row: Comparison, columns: dict[str, str], summaries: list[dict[str, Any]]) -> str:
    cells = [row.figures[key].percent(1) if key in row.figures else "-" for key in columns.values()]
    megabytes = (row.figures["costs/bytes_down"].mean + row.figures["costs/bytes_up"].mean) / 1e6
    seeds = ", ".join(str(seed) for seed in row.seeds)
    entries = [entry for summary in summaries for entry in summary["per_client"].values()]
    macs = sum(entry["macs"] for entry in entries) / len(entries) / 1e6  # of what clients run
    return (
        f"| {row.group['method']} | {seeds} | {' | '.join(cells)} | {megabytes:.0f} | {macs:.1f} |"
    )


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """Keep what a reader could want to recompute, without the space's description."""
    kept = ("method", "seed", "rounds", "test_accuracy", "val_accuracy", "best", "global")
    short = {key: summary[key] for key in (*kept, "fine_tuned", "costs") if key in summary}
    short["architectures"] = {c: e["choices"] for c, e in summary["per_client"].items()}
    if summary["gain"]:
        short["gain"] = summary["gain"]
    short["macs"] = {c: e["macs"] for c, e in summary["per_client"].items()}
    return short


if __name__ == "__main__":
    main()
