"""A method that is left no freedom equals the simpler one it contains, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from corolla.records.run_directory import RunDirectory
from tests.conftest import quick
from tests.strategies.conftest import run, without_times

ONE = (  # a space with a single architecture
    "space.supernet.stages=["
    "{width:[8],depth:[1],kernel:[3],expand:[1],stride:1,se:false},"
    "{width:[16],depth:[1],kernel:[3],expand:[2],stride:2,se:true}]"
)


def weights_of(directory: RunDirectory, prefix: str) -> dict[str, np.ndarray]:
    from corolla.config.build import build_space, header_of
    from corolla.config.schema import parse_config

    config, _ = parse_config(yaml.safe_load(directory.config_text()))
    assert config is not None
    _, state = directory.checkpoints.load("latest", expected=header_of(config, build_space(config)))
    return state.part(prefix)


@pytest.mark.parametrize("weights", quick(["examples", "uniform"], "examples"))
def test_perfedrlnas_without_choices_equals_fedavg(weights: str, tmp_path: Path) -> None:
    common = [ONE, f"method.weights={weights}"]
    searched = run(tmp_path / "searched", "method=perfedrlnas", *common)
    averaged = run(tmp_path / "averaged", "method=fedavg", *common)
    left, right = (
        weights_of(searched, "strategy/supernet/"),
        weights_of(averaged, "strategy/model/"),
    )
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name
    assert without_times(searched.summary()["test_accuracy"]) == without_times(
        averaged.summary()["global"]["test_accuracy"]
    )


@pytest.mark.slow
def test_methods_see_the_same_cohorts(tmp_path: Path) -> None:
    cohorts = [
        [line["participants"] for line in run(tmp_path / m, f"method={m}").metrics()]
        for m in ("perfedrlnas", "fedavg", "local")
    ]
    assert cohorts[0] == cohorts[1] == cohorts[2]


def test_budgets_are_kept_by_every_deployed_architecture(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", "memory_budget_mib=space", "batch_size=32", "rounds=4")
    for entry in directory.summary()["per_client"].values():
        assert entry["training_memory_mib"] <= entry["memory_budget_mib"]
    for row in directory.clients():
        assert row["memory_mib"] <= row["memory_budget_mib"]


def test_local_trained_to_convergence_reaches_everybody_once(tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run",
        "method=local",
        "method.budget=converged",
        "method.max_epochs=3",
    )
    participants = [client for line in directory.metrics() for client in line["participants"]]
    assert sorted(participants) == ["0", "1", "2", "3"]
    assert len(directory.metrics()) == 2  # of 3 rounds: nobody was left
