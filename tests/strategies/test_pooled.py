"""Models that serve more than one client: when there are any, who scores them, and with what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients.site import Shared
from corolla.config.build import header_of
from corolla.launch import plan_run
from strategies.running.progress import load_method
from strategies.running.scores import global_scores
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import _strategy

ONCE = ["rounds=1", "evaluation.every=0", "evaluation.fine_tune_epochs=0"]
LIGHT = ["space=elastic_cnn", "space.supernet.resolution=8"]


@pytest.mark.parametrize("method", ["deepfednas", "fedrlnas"])
def test_with_private_parts_nobody_has_a_global_model(method: str, tmp_path: Path) -> None:
    """The server's own head was never trained, and a client's is nobody else's."""
    settings = [f"method={method}", *LIGHT, *ONCE]
    assert run(tmp_path / "whole", *settings).summary()["pooled"]
    summary = run(tmp_path / "parts", *settings, "private=[head]").summary()
    assert "pooled" not in summary
    assert len(summary["per_client"]) == 4


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("per_fedavg", True),
        ("per_fedavg private=[head,norm]", False),
        ("corolla private=[norm]", False),
        ("ditto private=[head]", False),
        ("fedbabu", True),  # nobody trains its private head
        ("fedbabu private=[head,norm]", False),
    ],
)
def test_what_clients_report_of_a_global_model_counts_where_there_is_one(
    method: str, found: bool
) -> None:
    strategy = _strategy(plan_run(small(*f"method={method}".split(), "run_dir=unused")).config)
    metrics = {f"{key}_accuracy": 0.5 for key in ("global_val", "global_test")}
    told: Any = [SimpleNamespace(client="0", metrics=metrics)]
    assert (global_scores(strategy, told, {}) is not None) == found


def test_one_model_for_all_is_scored_on_all_images_together(tmp_path: Path) -> None:
    """FedAvg and its relatives, too; beside it stays what clients make of it with their own statistics."""
    tiny = ["method=fedavg", "space=elastic_resnet", "space.supernet.resolution=8", *ONCE]
    plain = [*tiny, "evaluation.statistics=aggregate", "trainer.loss=cross_entropy"]
    summary = run(tmp_path / "run", *plain).summary()
    found = summary["pooled"]["global"]
    own = summary["test_accuracy"]["per_client"]
    assert (found["clients"], found["test_images"]) == (4, 24)
    # With nothing of a client's own in either, equal clients' mean is the pooled accuracy.
    assert found["test_accuracy"] == pytest.approx(sum(own.values()) / 4)
    assert summary["global"]["test_accuracy"] == summary["test_accuracy"]
    nobody = run(tmp_path / "none", *plain, "evaluation.final=none").summary()
    assert "pooled" not in nobody


def test_a_global_model_is_scored_without_the_clients_class_priors(tmp_path: Path) -> None:
    """Clients that are skewed, trained by balanced softmax: what they run has their priors, it has none."""
    skewed = ["partition.alpha=0.1", "evaluation.statistics=aggregate"]
    settings = ["method=fedrlnas", *LIGHT, *ONCE, "trainer.loss=balanced_softmax_client"]
    directory = run(tmp_path / "run", *settings, *skewed, "trainer.lr=0.05", "local_epochs=5")
    common = Shared(directory.config_text())
    config, space, trainer = common.config, common.space, common.trainer
    strategy = _strategy(config)
    _, state = directory.checkpoints.load("latest", expected=header_of(config, space))
    load_method(strategy, state)
    (made,) = strategy.global_models().values()
    network = space.load(made.architecture, made.arrays)
    right, images, own = 0.0, 0, 0.0
    summary = directory.summary()
    for client, accuracy in summary["test_accuracy"]["per_client"].items():
        test = common.partitioned(client).test
        right += trainer.evaluate(network, test).accuracy * len(test)
        own += accuracy * len(test)
        images += len(test)
    found = summary["pooled"]["global"]
    assert (found["test_accuracy"], found["test_images"]) == (pytest.approx(right / images), images)
    assert abs(own - right) >= 1  # else the priors would change nothing here
