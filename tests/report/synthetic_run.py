"""Writes run directories that look like real ones, for looking at reports and testing them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corolla.records.seals import sealed_config

_STAGES = (
    ((16, 24), (1, 2), (3, 5), (1,)),
    ((24, 40), (1, 2), (3, 5), (3, 4, 5)),
    ((40, 80), (2, 3, 4), (3, 5), (3, 4, 5)),
    ((48, 112), (2, 3, 4), (3, 5), (3, 4, 5)),
    ((96, 160), (2, 3, 4), (3, 5), (3, 4, 5)),
)


def dimensions() -> list[dict[str, Any]]:
    """Names and candidates as the full-size MobileNetV3 space describes itself."""
    found: list[dict[str, Any]] = [{"name": "resolution", "choices": [32]}]
    found.append({"name": "stem.width", "choices": [16]})
    for i, stage in enumerate(_STAGES, start=1):
        for key, choices in zip(("width", "depth", "kernel", "expand"), stage, strict=True):
            found.append({"name": f"mb{i}.{key}", "choices": list(choices)})
    return [*found, {"name": "last.width", "choices": [1280]}]


@dataclass(frozen=True, kw_only=True)
class SyntheticRun:
    """What to make up; `write` makes the same files for the same settings."""

    method: str = "perfedrlnas"
    dataset: str = "imagefolder"
    clients: int = 10
    clients_per_round: int = 5
    rounds: int = 30
    classes: int = 10
    seed: int = 0
    level: float = 0.78  # where the mean accuracy ends
    searched: bool = True  # with policies, rewards, budgets
    finished: bool = True
    client_names: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()  # further top-level configuration

    def write(self, directory: Path) -> Path:
        """Fill ``directory`` with the contract files."""
        directory.mkdir(parents=True, exist_ok=True)
        _Writer(self, directory).write()
        return directory


class _Writer:
    def __init__(self, run: SyntheticRun, directory: Path) -> None:
        self.run, self.directory = run, directory
        self.rng = np.random.default_rng([run.seed, run.clients, len(run.method)])
        self.names = list(run.client_names) or [str(i) for i in range(run.clients)]
        self.dimensions = dimensions()
        shares = self.rng.dirichlet([0.3] * run.classes, size=run.clients)
        sizes = self.rng.integers(120, 260, run.clients)
        self.counts = [self.rng.multinomial(n, p) for n, p in zip(sizes, shares, strict=True)]
        self.talent = self.rng.normal(0, 0.06, run.clients)
        self.final = [self.choices() for _ in range(run.clients)]
        self.budgets = [
            max(40.0, self.memory(c) * float(self.rng.uniform(1.02, 1.7))) for c in self.final
        ]

    def write(self) -> None:
        run = self.run
        self.dump("config.yaml", self.config())
        self.dump("environment.json", _environment(run.seed))
        self.dump("clients.json", {name: self.facts(c) for c, name in enumerate(self.names)})
        metrics, clients = [], []
        for number in range(1, run.rounds + 1):
            line, lines = self.round(number)
            metrics.append(line)
            clients += lines
        for name, rows in (("metrics.jsonl", metrics), ("clients.jsonl", clients)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (self.directory / name).write_text(text)
        if run.finished:
            self.dump("summary.json", self.summary(metrics))

    def dump(self, name: str, content: dict[str, Any]) -> None:
        if name.endswith("json"):
            text = json.dumps(content)
        else:
            text = sealed_config(yaml.safe_dump(content, sort_keys=False))
        (self.directory / name).write_text(text)

    def config(self) -> dict[str, Any]:
        run = self.run
        config = {
            "method": {"name": run.method, "strategy": {"_target_": f"strategies.{run.method}.S"}},
            "space": {"_target_": "corolla.spaces.mobilenetv3.X", "name": "mobilenetv3_32"},
            "dataset": {"name": run.dataset, "root": "somewhere/images"},
            "partition": {"name": "dirichlet", "alpha": 0.3, "min_examples": 10},
            "engine": {"name": "ray", "actors": 2},
            "rounds": run.rounds if run.finished else run.rounds + 20,
            "clients": run.clients,
            "clients_per_round": run.clients_per_round,
            "local_epochs": 3,
            "batch_size": 32,
            "seed": run.seed,
            "run_dir": str(self.directory),
            "memory_budget_mib": [80, 260] if run.searched else None,
        }
        return {**config, **dict(run.settings)}

    def choices(self) -> list[int]:
        if not self.run.searched:
            return [len(d["choices"]) - 1 for d in self.dimensions]
        return [int(self.rng.integers(len(d["choices"]))) for d in self.dimensions]

    def params(self, choices: list[int]) -> int:
        return int(900_000 * 1.13 ** sum(choices))

    def memory(self, choices: list[int]) -> float:
        return 60 * 1.05 ** sum(choices)

    def accuracy(self, client: int, number: int, shift: float = 0.0) -> float:
        progress = 1 - np.exp(-number / (0.3 * self.run.rounds + 1))
        value = 0.1 + (self.run.level + self.talent[client] - 0.1 + shift) * progress
        return float(np.clip(value + self.rng.normal(0, 0.015), 0.01, 0.995))

    def round(self, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        run = self.run
        chosen = self.rng.choice(
            run.clients, min(run.clients_per_round, run.clients), replace=False
        )
        failed = []
        if number in (7, 19) and len(chosen) > 1:
            reasons = {7: "no reply within 3600 s", 19: "weights hold NaN: stages.2.1.expand"}
            failed = [{"client": self.names[chosen[0]], "reason": reasons[number]}]
            chosen = chosen[1:]
        lines = [self.client_line(int(c), number) for c in sorted(chosen)]
        accuracy = float(np.mean([line["test_accuracy"] for line in lines]))
        line: dict[str, Any] = {
            "round": number,
            "participants": [row["client"] for row in lines],
            "failures": len(failed),
            "failed": failed,
            "train_loss": float(np.mean([row["train_loss"] for row in lines])),
            "val_accuracy": accuracy - 0.01,
            "test_accuracy": accuracy,
            "received_val_accuracy": accuracy * 0.72,
            "received_test_accuracy": accuracy * 0.73,
            "round_s": max(row["train_s"] for row in lines) + 0.8,
            "bytes_down": sum(row["bytes_down"] for row in lines),
            "bytes_up": sum(row["bytes_up"] for row in lines),
        }
        if failed:
            line["unusable"] = {"<site>": "the site cannot take part (data-dir)"}
        if run.searched:
            line["policy_entropy"] = 0.88 * float(np.exp(-number / run.rounds))
        if number % 5 == 0 or number == run.rounds:
            shift = -0.12 if run.method == "fedavg" else 0.0
            scores = {
                key: _spread([self.accuracy(c, number, shift) for c in range(run.clients)])
                for key in ("val_accuracy", "test_accuracy")
            }
            line["evaluation"] = {"personalised": scores, "clients": run.clients}
            if run.method == "fedavg":  # one model, evaluated as everybody's
                line["evaluation"]["global"] = scores
        return line, lines

    def client_line(self, client: int, number: int) -> dict[str, Any]:
        choices = self.choices()
        accuracy = self.accuracy(client, number, 0.02)
        payload = 4 * self.params(choices)
        line = {
            "round": number,
            "client": self.names[client],
            "architecture": choices,
            "num_examples": int(self.counts[client].sum()),
            "train_loss": float(2.2 * np.exp(-number / self.run.rounds * 2) + 0.1),
            "val_accuracy": accuracy - 0.01,
            "test_accuracy": accuracy,
            "params": self.params(choices),
            "macs": 22 * self.params(choices),
            "bytes_down": payload,
            "bytes_up": payload,
            "train_s": 1.5 + payload / 2e7 + float(self.rng.exponential(0.3)),
            "round_s": 2.5,
            "peak_memory_mib": self.memory(choices),
        }
        if self.run.searched:
            line["reward"] = accuracy - self.run.level + 0.05
            line["log_prob"] = -11.0
            line["memory_budget_mib"] = self.budgets[client]
        return line

    def summary(self, metrics: list[dict[str, Any]]) -> dict[str, Any]:
        run = self.run
        clients = range(run.clients)

        def scores(shift: float) -> dict[str, Any]:
            values = [self.accuracy(c, run.rounds, shift) for c in clients]
            return {**_spread(values), "per_client": dict(zip(self.names, values, strict=True))}

        best = max(
            (line for line in metrics if "evaluation" in line),
            key=lambda line: line["evaluation"]["personalised"]["val_accuracy"]["mean"],
        )
        summary: dict[str, Any] = {
            "method": run.method,
            "space": "mobilenetv3_32",
            "dataset": run.dataset,
            "seed": run.seed,
            "rounds": run.rounds,
            "clients": run.clients,
            "test_accuracy": scores(0.0),
            "val_accuracy": scores(-0.01),
            "best": {"round": best["round"], **best["evaluation"]["personalised"]},
            "fine_tuned": {"epochs": 10, "test_accuracy": scores(0.03)},
            "costs": {
                "bytes_down": sum(line["bytes_down"] for line in metrics),
                "bytes_up": sum(line["bytes_up"] for line in metrics),
                "samples_processed": 90_000,
                "client_s": 431.0,
                "wall_s": 187.4,
            },
            "per_client": {name: self.client(c) for c, name in enumerate(self.names)},
            "class_names": _CLASSES[: run.classes]
            + [f"class {i}" for i in range(len(_CLASSES), run.classes)],
            "dimensions": self.dimensions,
        }
        if run.method == "fedavg":
            summary["fine_tuned"] = {"epochs": 10, "test_accuracy": summary["test_accuracy"]}
            summary["global"] = {"test_accuracy": scores(-0.12), "val_accuracy": scores(-0.13)}
        return summary

    def client(self, client: int) -> dict[str, Any]:
        choices = self.final[client]
        record: dict[str, Any] = {
            "architecture": {
                d["name"]: d["choices"][i] for d, i in zip(self.dimensions, choices, strict=True)
            },
            "choices": choices,
            "params": self.params(choices),
            "macs": 22 * self.params(choices),
            "payload_bytes": 4 * self.params(choices),
            "training_memory_mib": self.memory(choices),
            **self.facts(client),
        }
        if self.run.searched:
            record["policy_entropy"] = float(self.rng.uniform(0.2, 0.5))
            record["policy"] = self.rng.dirichlet([1.0, 1.0, 1.0], size=5).round(4).tolist()
        return record

    def facts(self, client: int) -> dict[str, Any]:
        total = int(self.counts[client].sum())
        record: dict[str, Any] = {
            "num_examples": {"train": total, "validation": total // 5, "test": total // 5},
            "label_counts": [int(n) for n in self.counts[client]],
        }
        if self.run.searched:
            record["memory_budget_mib"] = self.budgets[client]
        return record


_CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _environment(seed: int) -> dict[str, Any]:
    return {
        "versions": {"python": "3.11.2", "corolla": "0.1.0", "torch": "2.15.0", "flwr": "1.41.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "uncommitted_changes": False,
        "platform": "Linux-6.1-x86_64",
        "machine": "x86_64",
        "cpus": 2,
        "device": "cpu",
        "seed": seed,
    }


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    worst = ordered[: max(1, len(ordered) // 10)]
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values)),
        "worst_decile": float(np.mean(worst)),
    }
