"""The last share of the rounds may train what will be deployed."""

from __future__ import annotations

from pathlib import Path

from tests.strategies.conftest import run

POLICIES = "method=perfedrlnas"
CONSTANT = "trainer.lr_schedule=constant"  # or the step would depend on the number of rounds


def test_settled_rounds_train_what_is_deployed_and_policies_rest(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", POLICIES, CONSTANT, "rounds=6", "method.settle=0.5")
    deployed = {c: e["choices"] for c, e in directory.summary()["per_client"].items()}
    late = [row for row in directory.clients() if row["round"] > 3]  # half of six rounds
    assert len(late) == 6
    assert all(row["architecture"] == deployed[row["client"]] for row in late)
    assert all(row["draws"] == 1 for row in late)
    early = [row for row in directory.clients() if row["round"] <= 3]
    assert any(row["architecture"] != deployed[row["client"]] for row in early)
    # What a client deploys was decided in the first half: a run of those rounds alone agrees.
    half = run(tmp_path / "half", POLICIES, CONSTANT, "rounds=3")
    assert {c: e["choices"] for c, e in half.summary()["per_client"].items()} == deployed
