"""Corolla's own method: FedAvg once its ingredients are switched off; the fitted head stays at the client."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.strategies.conftest import run, without_times
from tests.strategies.test_fedrep import TINY
from tests.strategies.test_reductions import weights_of

ONE = (*TINY, "clients=2", "clients_per_round=2", "rounds=1", "evaluation.every=0")


def test_the_head_changes_what_is_deployed_and_nothing_that_travels(tmp_path: Path) -> None:
    without = run(tmp_path / "a", "method=corolla", "method.head_l2=null", *ONE)
    fitted = run(tmp_path / "b", "method=corolla", *ONE)
    left, right = (weights_of(each, "strategy/supernet/") for each in (without, fitted))
    assert all(right[name].tobytes() == array.tobytes() for name, array in left.items())
    shared, alone = fitted.summary()["global"]["test_accuracy"], without.summary()["test_accuracy"]
    assert without_times(shared) == without_times(alone)
    models = [each.client_model("0")[1] for each in (without, fitted)]
    changed = {name for name in models[0] if not np.array_equal(models[0][name], models[1][name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}


def test_a_new_clients_head_is_fitted_to_it_on_the_finished_body(tmp_path: Path) -> None:
    arm = ("method=corolla", "method.proposals.order=[others]", *ONE, "new_clients=1")
    trained = run(tmp_path / "trained", *arm)
    stage = ("stage=new_clients", f"from={trained.path}", "clients_per_round=1")
    new = run(tmp_path / "new", *arm, *stage)
    (client,) = new.summary()["per_client"]
    weights, model = weights_of(trained, "strategy/supernet/"), new.client_model(client)[1]
    learnt = [name for name in model if "running_" not in name and "num_batches" not in name]
    changed = {name for name in learnt if not np.array_equal(weights[name], model[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}


def test_clients_of_all_tiers_train_where_one_network_lacks_arrays_of_a_smaller_one(
    tmp_path: Path,
) -> None:
    """A stage as wide as the one before has no convolution on its shortcut, which narrower ones have."""
    tiers = ("cap=tiers", "cap.shares=[0.21,0.25]", "method.inner_share=1")
    found = run(tmp_path / "a", "method=corolla", *(o for o in ONE if o not in TINY), *tiers)
    assert [line["failures"] for line in found.metrics()] == [0]
    assert len({entry["macs"] for entry in found.summary()["per_client"].values()}) == 2
