"""A text file in Prometheus' exposition format, for node_exporter's textfile collector.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.records.atomic import write_text

_OF_THE_ROUND = {
    "round": "Rounds done",
    "failures": "Clients that failed in the last round",
    "round_s": "Seconds that the last round took",
    "train_loss": "Mean training loss of the last round's participants",
    "val_accuracy": "Their mean validation accuracy, 0 to 1",
    "test_accuracy": "Their mean test accuracy, 0 to 1",
    "bytes_down": "Bytes sent to clients in the last round",
    "bytes_up": "Bytes that came back",
}


def write_prometheus(
    path: Path, *, run: str, rounds: int, line: Mapping[str, Any], failed: int, finished: bool
) -> None:
    """Write how a run stands, whole or not at all.

    Args:
        path: of the file, ``*.prom`` for node_exporter.
        run: label of all values.
        rounds: that are planned.
        line: the last round's of metrics.jsonl.
        failed: exchanges that failed since this process started.
        finished: the run has its summary.

    """
    values: list[tuple[str, str, str, float]] = [
        ("rounds_planned", "Rounds to do", "gauge", rounds),
        ("participants", "Valid replies of the last round", "gauge", len(line["participants"])),
        ("failures_total", "Failed exchanges since the server started", "counter", failed),
        ("finished", "1 once the run has its summary", "gauge", finished),
        ("written_timestamp_seconds", "When this was written", "gauge", time.time()),
    ]
    for key, meaning in _OF_THE_ROUND.items():
        value = line.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            values.append((_named(key), meaning, "gauge", value))
    label = f"{{run={json.dumps(run, ensure_ascii=False)}}}"
    text = ""
    for name, meaning, kind, value in values:
        text += f"# HELP corolla_{name} {meaning}\n# TYPE corolla_{name} {kind}\n"
        text += f"corolla_{name}{label} {float(value)!r}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _named(key: str) -> str:
    """Return the name with its unit written out, as is the custom there."""
    return f"{key.removesuffix('_s')}_seconds" if key.endswith("_s") else key
