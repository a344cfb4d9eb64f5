"""What the leaderboard shows of one finished cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.finished_runs import client_state_bytes
from corolla.records.run_directory import RunDirectory
from corolla.records.summary import spread

_COSTS = ("bytes_down", "bytes_up", "samples_processed", "client_s")


def scores(
    run: RunDirectory, *, trained: RunDirectory | None = None, new_only: bool = False
) -> dict[str, Any]:
    """Return accuracies in %, and costs of all rounds together.

    Args:
        run: finished.
        trained: the run that it started from, whose costs are added.
        new_only: count the last fifth of the clients alone (track e), unless the run had no others.

    """
    summary = run.summary()
    rows = [row for row in (trained or run).clients() if row.get("params")]
    clients = list(summary["per_client"])
    first = len(clients) * 4 // 5 if new_only and trained is None else 0
    counted = {client: summary["per_client"][client] for client in clients[first:]}

    def percent(key: str, part: str = "mean", split: str = "test_accuracy") -> float | None:
        found = (summary if not key else summary.get(key) or {}).get(split)
        if found is None:
            return None
        values = {client: found["per_client"][client] for client in counted}
        return 100 * float(spread(values)[part])

    runs = [run.summary()["costs"], *([] if trained is None else [trained.summary()["costs"]])]
    costs = {key: sum(each[key] for each in runs) for key in _COSTS}
    own = list(counted.values())
    deployed = "as_trained" if summary.get("as_trained") else ""
    lost = sum(line["failures"] for line in (trained or run).metrics())
    return {
        "commit": (trained or run).environment().get("commit"),
        "lost_replies": lost,
        "deployed": percent(deployed),
        "worst_decile": percent(deployed, "worst_decile"),
        "validation": percent("", split="val_accuracy"),
        "fine_tuned": percent("fine_tuned"),
        "fine_tuned_worst_decile": percent("fine_tuned", "worst_decile"),
        "global": percent("global"),
        "macs": _mean([row["macs"] for row in own or rows if row.get("macs")]),
        "memory_mib": _mean([row["training_memory_mib"] for row in own]),
        "beyond_limits": summary.get("beyond_limits"),
        "bytes_down": costs["bytes_down"],
        "bytes_up": costs["bytes_up"],
        "samples": costs["samples_processed"],
        "client_s": costs["client_s"],
        "client_state_bytes": client_state_bytes(trained or run),
        "pooled": {
            name: {"accuracy": 100 * model["test_accuracy"], "macs": model["macs"]}
            for name, model in summary.get("pooled", {}).items()
            if "test_accuracy" in model
        },
        "tiers": {
            key: _by_tier(counted, (summary.get(key) or {}).get("test_accuracy"))
            for key in ("as_trained", "fine_tuned")
        },
    }


def _by_tier(
    clients: Mapping[str, Mapping[str, Any]], accuracy: Mapping[str, Any] | None
) -> dict[str, float]:
    """Return mean accuracies in % by the share of the largest cap that clients have; largest first."""
    caps = sorted({entry["macs_cap"] for entry in clients.values() if "macs_cap" in entry})
    if not caps or accuracy is None:
        return {}
    values: dict[float, list[float]] = {}
    for client, entry in clients.items():
        values.setdefault(caps[-1] / entry["macs_cap"], []).append(accuracy["per_client"][client])
    return {f"1/{part:g}": 100 * sum(v) / len(v) for part, v in sorted(values.items())}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
