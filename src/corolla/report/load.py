"""What a report reads of a run directory; absent files, keys and half-written lines are forgiven.

A report is also asked for while a run is going on or after it died. `corolla.records` rightly
refuses a damaged file, because a run would go on from it; here it becomes a note on the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from corolla.errors import Fault, RefusedError, is_number
from corolla.records.errors import CorruptStateError
from corolla.records.json_files import read_json
from corolla.records.seals import read_config, unsealed
from corolla.types import client_order

Record = dict[str, Any]

_OF_THE_ARCHITECTURE = (
    "choices",
    "architecture",
    "params",
    "macs",
    "payload_bytes",
    "activation_bytes",
    "training_memory_mib",
)


@dataclass(frozen=True)
class Spread:
    """An accuracy over all clients: fractions 0..1; ``std`` and ``worst_decile`` may be unknown."""

    mean: float
    std: float | None = None
    worst_decile: float | None = None

    @classmethod
    def of(cls, record: Any) -> Spread | None:
        """Read ``{mean, std, worst_decile}``; None when there is no mean."""
        mean = number(record.get("mean")) if isinstance(record, Mapping) else None
        if mean is None:
            return None
        return cls(mean, number(record.get("std")), number(record.get("worst_decile")))


@dataclass(frozen=True)
class Run:
    """The contract files of one run directory as plain records, and what they say about it."""

    path: Path
    config: Record
    environment: Record
    rounds: Sequence[Record]  # metrics.jsonl, ascending by round
    clients: Sequence[Record]  # clients.jsonl
    summary: Record | None
    facts: Mapping[str, Record] = field(default_factory=dict)  # known before the first round
    notes: Sequence[str] = field(default=())
    gain: Record | None = None  # gain.json, which `corolla gain` writes

    def name_of(self, key: str) -> str:
        """Return the name of the method, space, data set or partition; "?" when nothing says it."""
        if self.summary and isinstance(self.summary.get(key), str):
            return str(self.summary[key])
        value = self.config.get(key)
        if key == "dataset" and mapping(self.config.get("images")).get("name"):
            return str(self.config["images"]["name"])
        if isinstance(value, Mapping):
            target = str(value.get("_target_", "")).rpartition(".")[2]
            return str(value.get("name") or target or "?")
        return str(value) if value is not None else "?"

    @property
    def name(self) -> str:
        """The run directory's own name."""
        return self.path.resolve().name

    @property
    def title(self) -> str:
        """Method, data set and seed: what tells runs apart in a legend."""
        stage = " (new clients)" if self.config.get("stage") == "new_clients" else ""
        return f"{self.name_of('method')}{stage} · {self.name_of('dataset')} · seed {self.seed}"

    @property
    def seed(self) -> str:
        """The run's seed as text."""
        for record in (self.summary or {}, self.config, self.environment):
            if record.get("seed") is not None:
                return str(record["seed"])
        return "?"

    @property
    def rounds_done(self) -> int:
        """Number of the last round that was recorded."""
        return max((int(line["round"]) for line in self.rounds), default=0)

    @property
    def rounds_planned(self) -> int | None:
        """Rounds the configuration asks for, if it says."""
        planned = number(self.config.get("rounds"))
        return None if planned is None else int(planned)

    @cached_property
    def evaluations(self) -> list[tuple[int, Record]]:
        """(round, {"personalised": ..., "global": ...}) of rounds that evaluated all clients."""
        evaluations = [(int(line["round"]), line.get("evaluation")) for line in self.rounds]
        return [
            (number, record)
            for number, record in evaluations
            if isinstance(record, dict) and record
        ]

    def evaluation_curve(self, model: str, metric: str) -> list[tuple[int, Spread]]:
        """(round, spread over all clients) of ``evaluation[model][metric]``."""
        spreads = [
            (number, Spread.of(mapping(record.get(model)).get(metric)))
            for number, record in self.evaluations
        ]
        return [(number, spread) for number, spread in spreads if spread is not None]

    def deployed_curve(self, metric: str) -> list[tuple[int, Spread]]:
        """(round, spread) of what clients would run: their own models, else the global one."""
        return self.evaluation_curve("personalised", metric) or self.evaluation_curve(
            "global", metric
        )

    @property
    def declares_fine_tuned(self) -> bool:
        """Whether clients deploy the fine-tuned model (evaluation.deploy)."""
        summary = self.summary or {}
        tuned = mapping(summary.get("fine_tuned")).get("test_accuracy")
        if "deploy" in summary:  # equal scores are no proof: on few images they happen
            return tuned is not None and summary["deploy"] == "fine_tuned"
        return tuned is not None and tuned == summary.get("test_accuracy")  # older runs

    @property
    def one_model(self) -> bool:
        """Whether rounds evaluated one model for all clients, recorded as both kinds."""
        records = [record for _, record in self.evaluations]
        return bool(records) and all(r.get("global") == r.get("personalised") for r in records)

    @property
    def class_names(self) -> list[str]:
        """Names of the labels, as far as they are known."""
        for record, key in ((self.summary, "class_names"), (self.config.get("images"), "classes")):
            names = mapping(record).get(key)
            if isinstance(names, list):
                return [str(name) for name in names]
        return []

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(round, value) of one key of metrics.jsonl, where it is a finite number."""
        values = [(int(line["round"]), number(line.get(key))) for line in self.rounds]
        return [(number, value) for number, value in values if value is not None]

    @cached_property
    def per_client(self) -> dict[str, Record]:
        """One record per client: the summary's, or (no summary yet) the client's latest line."""
        records: dict[str, Record] = {}
        # Of a run that scored nobody at its end, the latest lines are what there is.
        if self.summary and mapping(self.summary.get("per_client")):
            for client, record in self.summary["per_client"].items():
                records[str(client)] = dict(mapping(record))
            for metric in ("test_accuracy", "val_accuracy"):
                accuracies = mapping(mapping(self.summary.get(metric)).get("per_client"))
                for client, value in accuracies.items():
                    records.setdefault(str(client), {})[metric] = value
            for model in ("fine_tuned", "global"):
                if model == "fine_tuned" and self.declares_fine_tuned:
                    continue  # they are the personalised models already
                accuracies = mapping(mapping(self.summary.get(model)).get("test_accuracy"))
                for client, value in mapping(accuracies.get("per_client")).items():
                    records.setdefault(str(client), {})[f"{model}_accuracy"] = value
        else:
            records = {client: dict(mapping(record)) for client, record in self.facts.items()}
            for line in self.clients:
                known = records.setdefault(str(line.get("client")), {})
                known.update(line, choices=line.get("architecture"))
        for client in self.silent & records.keys():
            for (
                key
            ) in _OF_THE_ARCHITECTURE:  # they are those of the supernet that the client uploads
                records[client].pop(key, None)
        return {client: records[client] for client in sorted(records, key=client_order)}

    def as_trained(self) -> dict[str, float]:
        """Return every client's test accuracy before fine-tuning, whichever model it deploys."""
        known = {client: record.get("test_accuracy") for client, record in self.per_client.items()}
        if self.declares_fine_tuned:
            before = mapping(mapping(self.summary).get("as_trained")).get("test_accuracy")
            known = dict(mapping(mapping(before).get("per_client")))
        found = {client: number(value) for client, value in known.items()}
        return {client: value for client, value in found.items() if value is not None}

    @cached_property
    def silent(self) -> frozenset[str]:
        """Clients that search architectures of their own and do not tell them."""
        seeking = {str(line.get("client")) for line in self.clients if "phase" in line}
        telling = {str(line.get("client")) for line in self.clients if "decisions" in line}
        return frozenset(seeking - telling)

    @cached_property
    def dimensions(self) -> list[Record]:
        """``{name, choices}`` per dimension; without a summary guessed from the indices seen."""
        listed = (self.summary or self.environment).get("dimensions")
        if isinstance(listed, list) and all(isinstance(d, dict) and "name" in d for d in listed):
            return [{"name": str(d["name"]), "choices": list(d.get("choices", []))} for d in listed]
        seen = [line["architecture"] for line in self.clients if _indices(line.get("architecture"))]
        if not seen:
            return []
        highest = [max(column) for column in zip(*seen, strict=False)]
        return [
            {"name": f"dimension {i + 1}", "choices": list(range(top + 1))}
            for i, top in enumerate(highest)
        ]

    def cost(self, key: str) -> float | None:
        """Return one entry of the summary's costs, or its sum over the rounds so far."""
        value = number(mapping((self.summary or {}).get("costs")).get(key))
        if value is not None:
            return value
        lines, name = {
            "wall_s": (self.rounds, "round_s"),
            "client_s": (self.clients, "train_s"),
        }.get(key, (self.rounds, key))
        parts = [part for part in (number(line.get(name)) for line in lines) if part is not None]
        return sum(parts) if parts else None


def with_site_names(run: Run) -> Run:
    """Return the run with the names of its sites in the place of clients' numbers, where it has some."""
    names = {client: str(facts["site"]) for client, facts in run.facts.items() if "site" in facts}
    if len(set(names.values())) < len(names) or not names:
        return run
    renamed = {
        key: _renamed(getattr(run, key), names, key)
        for key in ("rounds", "clients", "summary", "facts", "gain")
    }
    return replace(run, **renamed)


def _renamed(value: Any, names: Mapping[str, str], key: str) -> Any:
    if isinstance(value, Mapping):
        of_clients = key in ("per_client", "facts")
        return {
            names.get(k, k) if of_clients else k: _renamed(v, names, str(k))
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        if key in ("participants", "clients") and all(isinstance(one, str) for one in value):
            return [names.get(one, one) for one in value]
        return [_renamed(one, names, key) for one in value]
    return names.get(str(value), value) if key == "client" else value


def number(value: Any) -> float | None:
    """Return ``value`` if it is a finite number, else None (absent, null, NaN, text)."""
    return value if is_number(value) else None


def load_run(directory: Path) -> Run:
    """Read the contract files of ``directory``; RefusedError when it holds none of them."""
    names = ("config.yaml", "environment.json", "metrics.jsonl", "clients.jsonl", "summary.json")
    if not any((directory / name).is_file() for name in names):
        there = directory.is_dir()
        problem = f"holds none of {', '.join(names)}" if there else "no such directory"
        remedy = "Give a directory that `corolla run` made"
        raise RefusedError(Fault("run_dir", str(directory), problem, remedy))
    notes: list[str] = []
    metrics, clients = (
        _lines(directory / f"{n}.jsonl", notes=notes) for n in ("metrics", "clients")
    )
    by_round = {int(line["round"]): line for line in metrics}
    run = Run(
        path=directory,
        config=_document(directory / "config.yaml", notes) or {},
        environment=_document(directory / "environment.json", notes) or {},
        rounds=[by_round[key] for key in sorted(by_round)],
        clients=clients,
        summary=_document(directory / "summary.json", notes),
        facts=_document(directory / "clients.json", notes) or {},
        notes=notes,
        gain=_document(directory / "gain.json", notes),
    )
    begins_with = ("config.yaml", "environment.json", "clients.json")
    notes += [f"{name} is missing." for name in begins_with if not (directory / name).exists()]
    if run.summary is not None:
        recorded = {"metrics.jsonl": metrics, "clients.jsonl": clients}
        notes += [f"{name} is missing, or empty." for name, rows in recorded.items() if not rows]
        if metrics and clients:
            notes += _lost_lines(run.rounds, clients)
    return run


def _lost_lines(rounds: Sequence[Record], clients: Sequence[Record]) -> list[str]:
    """Note what one file has and the other lacks: a file cut at the end of a line looks whole."""
    told = {
        (line["round"], str(name)) for line in rounds for name in line.get("participants") or ()
    }
    rows = {(row["round"], str(row.get("client"))) for row in clients}
    without_line = {number for number, _ in rows} - {line["round"] for line in rounds}
    lost = {"metrics.jsonl": without_line, "clients.jsonl": {number for number, _ in told - rows}}
    return [
        f"{name}: lines of round {min(of)} to {max(of)} are left out, as the file lacks them."
        for name, of in lost.items()
        if of
    ]


def _document(path: Path, notes: list[str]) -> Record | None:
    """Read a JSON or YAML mapping; None, with a note if it is there but unreadable."""
    if not path.exists():
        return None
    try:
        if path.suffix == ".json":
            content: Any = read_json(path)
            content = unsealed(content) if content else None
        else:
            content = yaml.safe_load(read_config(path))
    except (CorruptStateError, yaml.YAMLError) as error:
        notes.append(f"{path.name} could not be read ({type(error).__name__}) and is left out.")
        return None
    if isinstance(content, dict):
        return content
    notes.append(f"{path.name} was changed since it was written, or damaged, and is left out.")
    return None


def _lines(path: Path, *, notes: list[str]) -> list[Record]:
    """Read JSON lines that have a round; lines cut off by a crash are counted in a note."""
    if not path.is_file():
        return []
    records, unreadable = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                record = None
            record = unsealed(record) if isinstance(record, dict) else None
            if record is not None and number(record.get("round")) is not None:
                records.append(record)
            else:
                unreadable += 1
    if unreadable:
        lines = "line" if unreadable == 1 else "lines"
        notes.append(f"{path.name}: {unreadable} unreadable {lines} left out.")
    return records


def mapping(value: Any) -> Mapping[str, Any]:
    """Return ``value``, or nothing where it is no mapping."""
    return value if isinstance(value, Mapping) else {}


def _indices(value: Any) -> bool:
    return (
        isinstance(value, Iterable)
        and not isinstance(value, str)
        and all(isinstance(index, int) and not isinstance(index, bool) for index in value)
    )
