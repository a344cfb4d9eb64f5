"""What was run, in what state it is, and what went wrong: the page's prose and small tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corolla.report.load import Run, mapping, number
from corolla.report.wording import (
    DASH,
    count,
    decimals,
    duration,
    listing,
    percent,
    plural,
    size,
)

_ROUND_ROWS = 60
_FAILURES_SHOWN, _FAILURES_FOLDED = 8, 200


@dataclass(frozen=True)
class Status:
    """Whether the run is complete, and what to say where it is not."""

    complete: bool
    word: str
    text: str


def status(run: Run) -> Status:
    """Judge by the summary, which is written last."""
    if run.summary is not None:
        return Status(True, "complete", "")
    planned = run.rounds_planned
    so_far = f"{run.rounds_done} of {planned}" if planned else str(run.rounds_done)
    text = (
        f"There is no summary.json: after round {so_far} the run was still going, or interrupted. "
        "Shown is what was recorded until then. Figures per client are from the last round each "
        "took part in, and not from the architecture it would be given at the end."
    )
    return Status(False, f"round {so_far}", text)


def facts(run: Run, *, brief: bool = False) -> list[tuple[str, str]]:
    """Return (name, value) pairs of what was run; unknown ones are left out."""
    config, environment = run.config, run.environment
    partition = _named(config.get("partition"))
    summary = run.summary or {}
    clients = number(summary.get("known_clients", summary.get("clients")))
    clients = clients or number(config.get("clients"))
    done = run.rounds_done or int(number((run.summary or {}).get("rounds")) or 0)
    rounds = str(done)
    if run.rounds_planned and run.rounds_planned != done:
        rounds += f" of {run.rounds_planned}"
    failed = sum(int(number(line.get("failures")) or 0) for line in run.rounds)
    down, up = run.cost("bytes_down"), run.cost("bytes_up")
    pairs: list[tuple[str, str | None]] = [
        ("method", run.name_of("method")),
        ("search space", run.name_of("space")),
        ("data set", run.name_of("dataset")),
        ("partition", partition),
        ("clients", f"{int(clients or len(run.per_client)):,}"),
        ("scored at the end", _scored(summary)),
        ("clients a round", _text(config.get("clients_per_round"))),
        ("rounds", rounds),
        ("seed", run.seed),
    ]
    if not brief:
        pairs += [
            ("local epochs", _text(config.get("local_epochs"))),
            ("batch size", _text(config.get("batch_size"))),
            ("memory budgets", _text(config.get("memory_budget_mib"))),
            ("caps on multiply-accumulates", _named(config.get("cap"))),
            ("engine", _named(config.get("engine"))),
            ("device", _text(environment.get("device"))),
            ("commit", _commit(environment)),
            ("versions", _versions(environment.get("versions"))),
            ("machine", _machine(environment)),
        ]
    samples = number(mapping((run.summary or {}).get("costs")).get("samples_processed"))
    pairs += [
        ("time of the rounds", duration(run.cost("wall_s"))),
        ("client time", duration(run.cost("client_s"))),
        ("images processed", None if samples is None else count(samples)),
        ("traffic", f"{size(down)} down, {size(up)} up"),
        ("failed exchanges", str(failed)),
        ("sites that took no part", listing(unusable(run)) or None),
        ("clients beyond their limits", _beyond(run.summary)),
    ]
    return [(name, value) for name, value in pairs if value and value not in (DASH, "?")]


def unusable(run: Run) -> list[str]:
    """Return the connected nodes that took no part in some round, each with its last reason."""
    lines = [mapping(line.get("unusable")) for line in run.rounds]
    found = {name: reason for line in lines for name, reason in line.items()}
    return [f"{name} ({reason})" for name, reason in found.items()]


def _scored(summary: Mapping[str, Any]) -> str | None:
    """Return how many clients were asked for their final model, where that is not all of them."""
    if summary.get("final", "all") == "all":
        return None
    if summary["final"] == "none":
        return "nobody"
    failed = len(summary.get("failures") or [])
    return f"{int(number(summary.get('clients')) or 0) + failed:,}, a sample drawn by the seed"


def _beyond(summary: Mapping[str, Any] | None) -> str | None:
    """Return how many clients' architectures are beyond their memory budgets or caps, if any."""
    beyond = number((summary or {}).get("beyond_limits"))
    return f"{int(beyond):,}" if beyond else None


@dataclass(frozen=True)
class Failures:
    """Exchanges that failed: how many, by whom, and the records shown and folded."""

    total: int
    clients: str
    shown: Sequence[tuple[str, str, str]]  # round, client, reason
    folded: Sequence[tuple[str, str, str]]
    left_out: int


def failures(run: Run) -> Failures | None:
    """Collect the failures of all rounds; None when there were none."""
    records = [(str(line["round"]), r) for line in run.rounds for r in line.get("failed") or []]
    last = (run.summary or {}).get("failures")
    at_the_end = [("last evaluation", record) for record in last] if isinstance(last, list) else []
    named: list[tuple[str, str, str]] = []
    for place, record in [*records, *at_the_end]:
        entry = mapping(record)
        reason = str(entry.get("reason", "no reason recorded"))
        named.append((place, str(entry.get("client", "?")), reason))
    unnamed = sum(int(number(line.get("failures")) or 0) for line in run.rounds) - len(records)
    total = len(named) + max(0, unnamed)
    if total == 0:
        return None
    clients: dict[str, int] = {}
    for _, client, _ in named:
        clients[client] = clients.get(client, 0) + 1
    often = sorted(clients.items(), key=lambda pair: -pair[1])
    words = listing([client if n == 1 else f"{client} ({n} times)" for client, n in often])
    folded = named[_FAILURES_SHOWN : _FAILURES_SHOWN + _FAILURES_FOLDED]
    left_out = len(named) - _FAILURES_SHOWN - len(folded)
    return Failures(total, words, named[:_FAILURES_SHOWN], folded, max(0, left_out))


@dataclass(frozen=True)
class RoundTable:
    """The rounds as numbers, for those who cannot or will not read charts."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


def round_table(run: Run) -> RoundTable | None:
    """Build the table of rounds; of long runs every k-th round and the last."""
    if not run.rounds:
        return None
    step = -(-len(run.rounds) // _ROUND_ROWS)
    lines = [line for i, line in enumerate(run.rounds) if (i + 1) % step == 0]
    if lines[-1] is not run.rounds[-1]:
        lines.append(run.rounds[-1])
    columns: Sequence[tuple[str, Any]] = (
        ("round", lambda line: str(int(line["round"]))),
        ("participants", lambda line: _participants(line.get("participants"))),
        ("failures", lambda line: _text(line.get("failures"))),
        ("training loss", lambda line: decimals(number(line.get("train_loss")))),
        ("validation %", lambda line: percent(number(line.get("val_accuracy")))),
        ("test %", lambda line: percent(number(line.get("test_accuracy")))),
        ("all clients, test %", _evaluated),
        ("policy entropy", lambda line: decimals(number(line.get("policy_entropy")))),
        ("down", lambda line: size(number(line.get("bytes_down")))),
        ("up", lambda line: size(number(line.get("bytes_up")))),
        ("time", lambda line: duration(number(line.get("round_s")))),
    )
    cells = [[get(line) or DASH for _, get in columns] for line in lines]
    used = [i for i in range(len(columns)) if any(row[i] != DASH for row in cells)]
    caption = f"{plural(len(run.rounds), 'round')} recorded."
    if step > 1:
        caption += f" Shown is every {step}th and the last; metrics.jsonl has them all."
    return RoundTable(
        [columns[i][0] for i in used], [[row[i] for i in used] for row in cells], caption
    )


def _evaluated(line: Mapping[str, Any]) -> str:
    record = mapping(line.get("evaluation"))
    models = mapping(record.get("personalised")) or mapping(record.get("global"))
    return percent(number(mapping(models.get("test_accuracy")).get("mean")))


def _participants(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    return _text(value) or DASH


def _named(value: Any) -> str | None:
    """Return "dirichlet, alpha 0.3" for a configuration group."""
    if not isinstance(value, Mapping):
        return _text(value)
    name = str(value.get("name") or str(value.get("_target_", "")).rpartition(".")[2])
    settings = [
        f"{key} {_text(setting)}"
        for key, setting in value.items()
        if not str(key).startswith("_")
        and key not in ("name", "seed", "kind", "clients")
        and (isinstance(setting, int | float | str) and not isinstance(setting, bool))
        and "/" not in str(setting)
    ]
    return ", ".join([name, *settings[:3]]) if name else None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, Mapping):
        return None
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return str(value)


def _commit(environment: Mapping[str, Any]) -> str | None:
    commit = environment.get("commit")
    if not commit:
        return None
    changed = environment.get("uncommitted_changes")
    return str(commit)[:12] + (", with uncommitted changes" if changed else "")


def _versions(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}\u00a0{version}" for name, version in value.items() if version)
    return _text(value)


def _machine(environment: Mapping[str, Any]) -> str | None:
    parts = [_text(environment.get("platform")) or _text(environment.get("machine"))]
    cpus = number(environment.get("cpus"))
    parts.append(None if cpus is None else plural(int(cpus), "CPU"))
    return ", ".join(part for part in parts if part) or None
