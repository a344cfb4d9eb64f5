"""Collects finished runs into one results file and prints the tables of docs/results.md.

    python -m benchmarks.collect_runs NAME [ARM=]RUN_DIR... [--reference ARM]

Accuracies are on test images, over all clients: `deployed` (what clients run without any fine-tuning: the
last evaluation of `metrics.jsonl`), `fine_tuned` (after it), and `personalised`, the run's own headline,
which is one of the two, by method. Mean and sample standard deviation are over seeds. Runs of one method with
different settings are told apart by the name of their arm. Seeds differ in who has which images, so runs of
one seed are alike: with --reference, differences are taken seed by seed, deployed less deployed and
fine-tuned less fine-tuned. Diagnostics (the teacher, the supernet, the predictor) are a run's last ones.
Of each run `summary.json`, `metrics.jsonl`, `config.yaml` and, where there is one, `gain.json` are read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.finished_runs import RANKS, SCORES, add_leads, of_clients, read_run
from benchmarks.over_seeds import Comparison, MeanSd, compare
from benchmarks.recording import write_result
from corolla.report.groups import grouped
from corolla.report.load import Run, load_run

_HEADLINE = {  # of the run's own choice of model: names of figures that older results have too
    "personalised": "test_accuracy/mean",
    "sd over clients": "test_accuracy/std",
    "worst decile": "test_accuracy/worst_decile",
    "chosen on validation": "best/test_accuracy/mean",
    "+ fine-tuning": "fine_tuned/test_accuracy/mean",
    "global": "global/test_accuracy/mean",
}
_SPREAD = {
    "deployed sd over clients": "deployed/std",
    "deployed worst decile": "deployed/worst_decile",
    "fine-tuned sd over clients": "fine_tuned/test_accuracy/std",
    "fine-tuned worst decile": "fine_tuned/test_accuracy/worst_decile",
}
_SECONDS = {
    "wall s": "costs/wall_s",
    "evaluation s": "costs/evaluation_s",
    "client s": "costs/client_s",
}
_LIMITS = {"clients beyond limits": "beyond_limits"}
_DIAGNOSTICS = {name: f"diagnostics/{name}/value" for name in (*SCORES, *RANKS)}
_SHOWN = ("rounds", "clients", "clients_per_round", "local_epochs", "batch_size", "evaluation")
_Columns = dict[str, Callable[[Comparison], str]]


def main() -> None:
    """Read the runs, write results/NAME.json, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("runs", metavar="[ARM=]RUN_DIR", nargs="+")
    parser.add_argument("--reference", metavar="ARM", help="show every arm's lead over this one")
    options = parser.parse_args()
    summaries, configs = [], []
    members: dict[str, list[Run]] = {}
    for run in options.runs:
        arm, _, folder = run.rpartition("=")
        summary, config = read_run(Path(folder))
        name = arm or summary["method"]
        summaries.append(summary | {"method": name})
        members.setdefault(name, []).append(load_run(Path(folder)))
        configs.append(config)
    for name, runs in members.items():
        groups, to_know = grouped(runs)
        if len(groups) > 1:
            parser.error(
                f"the runs of {name} are no seeds of one another. {to_know[0]} Name their arms"
            )
    if options.reference is not None:
        add_leads(summaries, options.reference)
    rows = compare(summaries)
    columns = (
        _accuracies(options.reference) | _HEADLINE | _SPREAD | _LIMITS | _SECONDS | _DIAGNOSTICS
    )
    arms: dict[str, dict[str, dict[str, Any]]] = {
        row.group["method"]: {
            name: {"mean": figure.mean, "sd": figure.sd, "runs": figure.runs}
            for name, key in columns.items()
            if (figure := row.figures.get(key)) is not None
        }
        for row in rows
    }
    figures = {
        f"{arm}_{name.replace(' ', '_').replace('+_', '')}": one["mean"]
        for arm, found in arms.items()
        for name, one in found.items()
    }
    for arm in arms:
        of_arm = [summary for summary in summaries if summary["method"] == arm]
        entropies = of_clients(of_arm, "policy_entropy")
        if entropies:
            figures[f"{arm}_policy_entropy"] = sum(entropies) / len(entropies)
    raw = {
        "settings": {key: configs[0][key] for key in _SHOWN},
        "methods": {  # arm -> settings
            summary["method"]: config["method"]
            for summary, config in zip(summaries, configs, strict=True)
        },
        "arms": arms,
        "runs": [_short(summary) for summary in summaries],
    }
    print("\n\n".join(tables(rows, summaries, options.reference)))
    print(f"\nwritten: {write_result(options.name, figures, raw)}")


def tables(
    rows: Sequence[Comparison],
    summaries: Sequence[Mapping[str, Any]],
    reference: str | None = None,
) -> list[str]:
    """Return the Markdown tables: accuracies; spread over clients and costs; diagnostics, if any."""

    def macs(row: Comparison) -> str:
        runs = [summary for summary in summaries if summary["method"] == row.group["method"]]
        found = of_clients(runs, "macs")  # of what clients run
        return f"{sum(found) / len(found) / 1e6:.1f}"

    def megabytes(row: Comparison) -> str:
        return f"{sum(row.figures[f'costs/bytes_{way}'].mean for way in ('down', 'up')) / 1e6:.0f}"

    arm: _Columns = {"method": lambda row: str(row.group["method"])}
    seeds: _Columns = {"seeds": lambda row: ", ".join(map(str, row.seeds))}
    accuracies = _shown(_accuracies(reference), _percent)
    costs: _Columns = {
        "MB down + up": megabytes,
        "MMACs": macs,
        **_shown(_LIMITS, _plain(1)),
        **_shown(_SECONDS, _plain(0)),
    }
    found = [_table(rows, arm | seeds | accuracies)]
    found.append(_table(rows, arm | _shown(_SPREAD, _percent) | costs))
    diagnosed = [row for row in rows if any(key in row.figures for key in _DIAGNOSTICS.values())]
    if diagnosed:
        scores = _shown({name: _DIAGNOSTICS[name] for name in SCORES}, _percent)
        ranks = _shown({name: _DIAGNOSTICS[name] for name in RANKS}, _plain(2))
        found.append(_table(diagnosed, arm | scores | ranks))
    return found


def _accuracies(reference: str | None) -> dict[str, str]:
    """Return the columns of the first table, and where in a comparison their figures are."""
    columns = {"deployed": "deployed/mean"}
    if reference is not None:
        columns[f"deployed less {reference}"] = "lead/deployed"
    columns["+ fine-tuning"] = _HEADLINE["+ fine-tuning"]
    if reference is not None:
        columns[f"fine-tuning less {reference}"] = "lead/fine_tuned"
    for name in ("personalised", "chosen on validation", "global"):
        columns[name] = _HEADLINE[name]
    return columns


def _table(rows: Iterable[Comparison], columns: _Columns) -> str:
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in columns)} |"]
    lines.append("|" + "---|" * len(columns))
    lines += [f"| {' | '.join(text(row) for text in columns.values())} |" for row in rows]
    return "\n".join(lines)


def _shown(keys: Mapping[str, str], text: Callable[[MeanSd], str]) -> _Columns:
    return {name: partial(_cell, key=key, text=text) for name, key in keys.items()}


def _cell(row: Comparison, *, key: str, text: Callable[[MeanSd], str]) -> str:
    """Return a figure as text; where not every run of the row has it, with how many do."""
    figure = row.figures.get(key)
    if figure is None:
        return "-"
    of = "" if figure.runs == len(row.seeds) else f" ({figure.runs} of {len(row.seeds)})"
    return text(figure) + of


def _percent(figure: MeanSd) -> str:
    return figure.percent(1)


def _plain(digits: int) -> Callable[[MeanSd], str]:
    def text(figure: MeanSd) -> str:
        mean = f"{figure.mean:.{digits}f}"
        return mean if figure.sd is None else f"{mean} ± {figure.sd:.{digits}f}"

    return text


def _short(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a reader could want to recompute, without the space's description."""
    kept = ("method", "seed", "rounds", "test_accuracy", "val_accuracy", "best", "global", "costs")
    short = {key: summary[key] for key in (*kept, "pooled", "lead") if key in summary}
    short["deployed"], short["fine_tuned"] = summary["deployed"], summary.get("fine_tuned")
    short["diagnostics"] = summary["diagnostics"]
    short["architectures"] = {c: e["choices"] for c, e in summary["per_client"].items()}
    if summary["gain"]:
        short["gain"] = summary["gain"]
    short["macs"] = {c: e["macs"] for c, e in summary["per_client"].items()}
    return short


if __name__ == "__main__":
    main()
