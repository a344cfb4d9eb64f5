from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corolla.records.checkpoints import CheckpointHeader
from corolla.records.run_directory import RunDirectory
from corolla.state import State

HEADER = CheckpointHeader(method="perfedrlnas", space="digits", space_fingerprint="ab12")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", config_yaml="seed: 1\n", environment={"seed": 1})


def state_of(value: float) -> State:
    """Return a state with all that is awkward to store: 0-d, empty, integer, strided, unsorted."""
    value = float(value)
    arrays = {
        "z.weight": np.full((2, 3), value, dtype=np.float32),
        "a.scalar": np.array(value),
        "m.empty": np.zeros((0, 4), dtype=np.int64),
        "b.count": np.array([7, -7], dtype=np.int64),
        "c.strided": np.arange(12, dtype=np.float64).reshape(3, 4).T[::2] + value,
        "d.flag": np.array([True, False]),
        "e.nan": np.array([np.nan, -0.0, np.inf]),
    }
    return State(arrays, {"value": value, "history": [1, 2.5, None, "x", {"nan": float("nan")}]})
