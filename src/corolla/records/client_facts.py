"""What is known of each client before the first round: sizes, label counts, limits. ``clients.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.records.atomic import write_bytes
from corolla.types import ClientId

_NAME = "clients.json"


def write_client_facts(run_dir: Path, facts: Mapping[ClientId, Mapping[str, Any]]) -> None:
    """Write the facts of simulated clients beside the configuration."""
    write_bytes(run_dir / _NAME, json.dumps(facts, indent=1).encode())


def read_client_facts(run_dir: Path) -> dict[ClientId, dict[str, Any]]:
    """Return the facts that were written; nothing where clients are real nodes."""
    path = run_dir / _NAME
    if not path.is_file():
        return {}
    facts: dict[ClientId, dict[str, Any]] = json.loads(path.read_text())
    return facts
