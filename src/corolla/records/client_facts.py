"""What is known of each client before the first round: sizes, label counts, limits. ``clients.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.records.seals import read_sealed, write_sealed
from corolla.types import ClientId

_NAME = "clients.json"


def write_client_facts(run_dir: Path, facts: Mapping[ClientId, Mapping[str, Any]]) -> None:
    """Write the facts of simulated clients beside the configuration; of real nodes there are none."""
    write_sealed(run_dir / _NAME, facts, indent=1)


def read_client_facts(run_dir: Path) -> dict[ClientId, dict[str, Any]]:
    """Return the facts that were written.

    Raises: CorruptStateError, also when the file is missing: a run without it would lose the
        clients' limits.
    """
    return read_sealed(run_dir / _NAME)
