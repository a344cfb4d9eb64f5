"""An arm with one architecture for everybody is marked where it is beyond a client's limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strategies.conftest import run, strategy_state

CAPS = ["cap=range", "cap.low=0.1", "cap.high=0.6"]
QUICK = ["clients=3", "clients_per_round=3", "rounds=2", "evaluation.every=0"]


@pytest.mark.parametrize(
    ("architecture", "beyond"), [("largest", 3), ("smallest", 0), ("fitting", 0)]
)
def test_who_is_beyond_its_limits_is_counted(
    architecture: str, beyond: int, tmp_path: Path
) -> None:
    which = f"method.architecture={architecture}"
    directory = run(tmp_path / "run", "method=local", which, *CAPS, *QUICK)
    summary = directory.summary()
    entries = summary["per_client"].values()
    assert summary["beyond_limits"] == beyond
    assert sum(not entry["within_limits"] for entry in entries) == beyond
    for entry in entries:
        assert entry["within_limits"] == (entry["macs"] <= entry["macs_cap"])
    if architecture == "fitting":
        macs = [entry["macs"] for entry in entries]
        assert len(set(macs)) == 3  # each client's own, and not by far too small
        assert all(entry["macs"] >= 0.8 * entry["macs_cap"] for entry in entries)
        # A run that goes on under other caps leaves them the models that they have trained.
        state = strategy_state(directory)
        assert state.meta["architectures"] == {
            client: entry["choices"] for client, entry in summary["per_client"].items()
        }


def test_without_limits_nobody_is_beyond_them(tmp_path: Path) -> None:
    which = "method.architecture=fitting"
    directory = run(tmp_path / "run", "method=local", which, *QUICK)
    summary = directory.summary()
    assert summary["beyond_limits"] == 0
    assert all(entry["within_limits"] for entry in summary["per_client"].values())
