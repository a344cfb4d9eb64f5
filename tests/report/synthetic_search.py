"""Makes a synthetic run one of SPIDER: cells, phases, decisions, and a matrix of gains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from corolla.spaces.darts_genotype import edge_name, edge_pairs
from tests.report.synthetic_run import SyntheticRun

S2 = ("skip_connect", "sep_conv_3x3")
_EVERY = 2  # rounds from one decision of a client to the next


def dimensions(operations: tuple[str, ...] = S2, nodes: int = 4) -> list[dict[str, Any]]:
    """Names and candidates as `MixedDartsSpace` describes itself."""
    subsets = [
        "+".join(o for bit, o in enumerate(operations) if index >> bit & 1) or "absent"
        for index in range(2 ** len(operations))
    ]
    return [
        {"name": f"{kind}.{edge_name(pair)}", "choices": subsets}
        for kind in ("normal", "reduce")
        for pair in edge_pairs(nodes)
    ]


def write_search(
    directory: Path,
    *,
    clients: int = 4,
    rounds: int = 40,
    silent: tuple[str, ...] = (),
    client_names: tuple[str, ...] = (),
    finished: bool = True,
) -> Path:
    """Write a run of SPIDER: warm-up of 4 rounds, a decision every second one, then 3 of topology.

    Clients in ``silent`` keep their architectures to themselves: their rows hold the space's largest.
    """
    SyntheticRun(
        method="spider",
        searched=False,
        clients=clients,
        clients_per_round=clients,
        rounds=rounds,
        client_names=client_names,
        finished=finished,
    ).write(directory)
    names = list(client_names) or [str(i) for i in range(clients)]
    seekers = {name: _Seeker(i, name in silent) for i, name in enumerate(names)}
    rows = []
    for text in (directory / "clients.jsonl").read_text().splitlines():
        row = json.loads(text)
        rows.append(row | seekers[row["client"]].row(row["round"]))
    _write_lines(directory / "clients.jsonl", rows)
    metrics = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        phases = [row["phase"] for row in rows if row["round"] == line["round"]]
        line["mean_phase"] = sum(phases) / len(phases)
    _write_lines(directory / "metrics.jsonl", metrics)
    _update(directory / "environment.json", {"dimensions": dimensions()})
    if finished:
        summary = json.loads((directory / "summary.json").read_text())
        for name, record in summary["per_client"].items():
            seeker = seekers[name]
            record["choices"] = [3] * 28 if seeker.silent else seeker.choices
        summary |= {"dimensions": dimensions(), "space": "darts_s2_mixed"}
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def write_gain(directory: Path, clients: list[str], accuracy: list[list[float]]) -> None:
    """Write gain.json with the same matrix for both starts; at the best epoch 0.05 more everywhere."""

    def described(table: list[list[float]]) -> dict[str, Any]:
        count = len(table)
        gains = [sum(row[i] - p for p in row) / (count - 1) for i, row in enumerate(table)]
        return {"accuracy": table, "gains": gains, "mean_gain": sum(gains) / count}

    lifted = [[p + 0.05 for p in row] for row in accuracy]
    entry = {**described(accuracy), "best_epoch": described(lifted)}
    content = {"clients": clients, "epochs": 30, "lr": 0.01}
    starts = {"starts": {"supernet": entry, "own": entry}}
    (directory / "gain.json").write_text(json.dumps(content | starts))


class _Seeker:
    """One client's search: an edge of either cell at a time, then the nodes with more than 2 inputs."""

    def __init__(self, seed: int, silent: bool) -> None:
        self.rng = np.random.default_rng([7, seed])
        self.silent = silent
        self.choices = [3] * 28
        self.order = self.rng.permutation(14).tolist()
        self.nodes = [3, 4, 5]

    def row(self, number: int) -> dict[str, Any]:
        """Return what the client's row of this round holds beside the usual."""
        decisions = self._decide(number) if number > 4 and number % _EVERY == 0 else []
        done = not self.order and not self.nodes
        phase = 3.0 if done else 1.0 if len(self.order) == 14 else 2.0
        told = {"phase": phase, "validation_in_training": float(done), "state_restarted": 0.0}
        if self.silent:
            return told | {"architecture": [3] * 28}
        return told | {"architecture": list(self.choices), "decisions": decisions}

    def _decide(self, number: int) -> list[dict[str, Any]]:
        if self.order:
            edge = self.order.pop()
            return [self._edge(number, kind, edge) for kind in ("normal", "reduce")]
        if not self.nodes:
            return []
        node = self.nodes.pop()
        return [d for kind in ("normal", "reduce") for d in self._thin(number, kind, node)]

    def _edge(self, number: int, kind: str, edge: int) -> dict[str, Any]:
        accuracies = self.rng.integers(20, 25, size=2) / 32
        kept = int(accuracies.argmin())
        self.choices[edge + (14 if kind == "reduce" else 0)] = 1 << kept
        return {
            "round": number,
            "cell": kind,
            "where": edge_name(edge_pairs(4)[edge]),
            "kept": S2[kept],
            "removed": [S2[1 - kept]],
            "scores": {name: [float(a), 0.5] for name, a in zip(S2, accuracies, strict=True)},
            "margin": float(abs(accuracies[0] - accuracies[1])),
        }

    def _thin(self, number: int, kind: str, node: int) -> list[dict[str, Any]]:
        start = 14 if kind == "reduce" else 0
        left = [i for i, pair in enumerate(edge_pairs(4)) if pair[1] == node]
        made = []
        while len(left) > 2:
            scores = {
                edge_name(edge_pairs(4)[edge]): [float(self.rng.integers(20, 25) / 32), 0.5]
                for edge in left
            }
            doomed = left.pop(int(self.rng.integers(len(left))))
            self.choices[start + doomed] = 0
            made.append(
                {
                    "round": number,
                    "cell": kind,
                    "where": str(node),
                    "kept": "+".join(edge_name(edge_pairs(4)[edge]) for edge in left),
                    "removed": [edge_name(edge_pairs(4)[doomed])],
                    "scores": scores,
                    "margin": 1 / 32,
                }
            )
        return made


def _update(path: Path, entries: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
