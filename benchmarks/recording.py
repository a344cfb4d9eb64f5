"""What every benchmark writes: figures, the environment they were measured in, and the raw numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.records.environment import collect_environment

RESULTS = Path(__file__).parent / "results"


def read_raw(name: str) -> dict[str, Any]:
    """Return the raw numbers of ``results/<name>.json``; none where nothing was measured yet."""
    path = RESULTS / f"{name}.json"
    raw: dict[str, Any] = json.loads(path.read_text())["raw"] if path.is_file() else {}
    return raw


def read_figures(name: str) -> dict[str, float]:
    """Return the figures of ``results/<name>.json``; none where nothing was measured yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, float] = json.loads(path.read_text())["figures"] if path.is_file() else {}
    return found


def write_result(name: str, figures: Mapping[str, float], raw: Any) -> Path:
    """Write ``results/<name>.json`` whole or not at all, and return its path."""
    environment = collect_environment(seed=0, device="cpu")
    environment["load_average_at_end"] = os.getloadavg()[0]
    content = {"figures": dict(figures), "environment": environment, "raw": raw}
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, default=str) + "\n")
    partial.replace(path)
    return path


def print_table(rows: Mapping[str, float], heading: str) -> None:
    """Print names and numbers, aligned."""
    print(heading)
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value:.4g}")
