"""The arms of the comparison: what each has in common with a simpler one, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from corolla.records.run_directory import RunDirectory
from tests.states import differences
from tests.strategies.conftest import run, strategy_state

pytestmark = pytest.mark.slow
ARMS = ["knn_per", "per_fedavg"]
FEW = ["partition.balanced=true", "partition.images_per_client=120"]
KEPT_OUT = ["clients=3", "new_clients=2", "rounds=2", "evaluation.every=0", *FEW]
RECEIVED = "evaluation.received=true"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """One finished run per method, two clients kept out of it."""
    root = tmp_path_factory.mktemp("arms")
    settings = [*KEPT_OUT, RECEIVED, "method.server_momentum=0.5"]
    return {name: run(root / name, f"method={name}", *settings) for name in ("fedavg", *ARMS)}


def test_knn_per_trains_fedavgs_model(runs: dict[str, RunDirectory]) -> None:
    ours, fedavg = runs["knn_per"], runs["fedavg"]
    assert not differences(strategy_state(ours), strategy_state(fedavg))
    for mine, theirs in zip(ours.clients(), fedavg.clients(), strict=True):
        for key in ("client", "train_loss", "val_accuracy", "received_test_accuracy"):
            assert mine[key] == theirs[key]
    # Mixing can only help where lambda is chosen, and 0 is one of the choices.
    mixed = ours.summary()["val_accuracy"]["mean"]
    alone = fedavg.summary()["val_accuracy"]["mean"]
    assert mixed >= alone


@pytest.mark.parametrize("method", ARMS)
def test_cohorts_are_fedavgs_and_the_personalised_model_is_not_the_fine_tuned_one(
    method: str, runs: dict[str, RunDirectory]
) -> None:
    ours, fedavg = (runs[name].metrics() for name in (method, "fedavg"))
    assert [line["participants"] for line in ours] == [line["participants"] for line in fedavg]
    summary = runs[method].summary()
    assert summary["fine_tuned"]["epochs"] == 1
    assert "global" in summary
    last = ours[-1]["evaluation"]["personalised"]["test_accuracy"]
    assert last == {key: summary["test_accuracy"][key] for key in last}
    assert {"mean", "std", "worst_decile"} <= set(last)


@pytest.mark.parametrize("method", ARMS)
def test_clients_that_were_not_in_training_personalise_the_finished_model(
    method: str, runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    source = runs[method]
    stage = [*KEPT_OUT, "stage=new_clients", f"from={source.path}"]
    directory = run(tmp_path / "new", f"method={method}", *stage)
    frozen = strategy_state(directory)
    assert frozen.meta.pop("trained_clients") == ["0", "1", "2"]
    assert not differences(strategy_state(source), frozen)
    assert set(directory.summary()["test_accuracy"]["per_client"]) == {"3", "4"}
