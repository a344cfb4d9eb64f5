"""Whatever is scored, by whichever method: fresh BN statistics, the client's class prior, nothing twice."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from corolla.config.build import build_dataset, build_trainer
from corolla.config.groups import methods
from corolla.data.federation import FederationData
from corolla.export import load_client_model
from corolla.launch import plan_run
from corolla.records.client_facts import read_client_facts
from corolla.records.run_directory import RunDirectory
from corolla.spaces.supernet import to_arrays
from corolla.training.prior import classifier_of, log_prior
from corolla.training.scoring import Scoring
from corolla.training.trainer import LocalTrainer
from strategies.running import federated_run
from tests.conftest import quick
from tests.strategies.conftest import SMALL, run

METHODS = methods()
TINY = ["clients=2", "clients_per_round=2", "evaluation.every=1", "rounds=1"]
SKEWED = [*SMALL, *TINY, "partition.alpha=0.3", "clients=4"]


class _Watch:
    """Remembers each client's training images, and counts models that were scored on other statistics."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scored, self.stale = 0, 0
        self._settings: dict[str, Any] | None = None
        evaluate, applied = LocalTrainer.evaluate, Scoring.apply

        def noted(scoring: Any, model: nn.Module, **settings: Any) -> None:
            # What is private to a client is its own already.
            self._settings = {"batch_size": scoring._batch_size, "keep": scoring._keep}
            self._train = scoring._train
            applied(scoring, model, **settings)

        def watched(trainer: LocalTrainer, model: nn.Module, *args: Any, **settings: Any) -> Any:
            self.scored += 1
            assert self._settings is not None, "a model is scored without Scoring"
            fresh = deepcopy(model)
            trainer.recalibrate(fresh, self._train, **self._settings)
            mine, theirs = dict(model.named_buffers()), dict(fresh.named_buffers())
            self.stale += any(not torch.equal(mine[name], theirs[name]) for name in mine)
            return evaluate(trainer, model, *args, **settings)

        monkeypatch.setattr(Scoring, "apply", noted)
        monkeypatch.setattr(LocalTrainer, "evaluate", watched)


# Each of them scores in a way of its own; the others share one of these.
QUICK = {"perfedrlnas", "local", "ditto", "fedkemf"}


@pytest.mark.parametrize("method", quick(METHODS, *QUICK))
def test_every_score_is_taken_with_fresh_statistics(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = _Watch(monkeypatch)
    # Models for several clients are scored as they are, on purpose, and apart.
    monkeypatch.setattr(federated_run, "pooled_scores", lambda *_: {})
    longer = method in ("hapfnas", "spider", "global_nas", "fednas", "fedoras")
    rounds = ["rounds=3", "evaluation.every=3"] if longer else []
    run(tmp_path / "run", f"method={method}", *TINY, *rounds, "evaluation.received=true")
    assert watch.scored >= 8
    assert watch.stale == 0


def _prior(directory: RunDirectory, client: str) -> np.ndarray:
    counts = np.array(read_client_facts(directory.path)[client]["label_counts"])
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    return log_prior(labels, 10).numpy()


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """FedAvg by balanced softmax on skewed clients, finished."""
    overrides = ["method=fedavg", "trainer.loss=balanced_softmax_client", "rounds=2"]
    return run(tmp_path_factory.mktemp("balanced") / "run", *SKEWED, *overrides)


def test_saved_models_carry_the_prior_and_are_the_scored_ones(balanced: RunDirectory) -> None:
    plan = plan_run([*SKEWED, "run_dir=unused"])
    assert plan.partition is not None
    data = FederationData(build_dataset(plan.config), plan.partition)
    biases = []
    for client, accuracy in balanced.summary()["test_accuracy"]["per_client"].items():
        model = load_client_model(balanced.path, client)
        mine = data.client(client)
        trainer = build_trainer(plan.config)
        found = trainer.evaluate(model, mine.test)
        assert found.accuracy == accuracy
        layer = classifier_of(model, 10)
        assert layer is not None
        biases.append(layer.bias.detach().numpy() - _prior(balanced, client))
    # Less the prior, all clients have the server's bias.
    for bias in biases[1:]:
        np.testing.assert_allclose(bias, biases[0], atol=1e-5)


def test_the_prior_is_not_added_again_after_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[tuple[bool, str | None, bool]] = []
    offset = Scoring.offset

    def noted(self: Scoring, *, shared: bool, loss: str | None = None) -> Any:
        found = offset(self, shared=shared, loss=loss)
        folded.append((shared, loss, found is not None))
        return found

    monkeypatch.setattr(Scoring, "offset", noted)
    directory = run(
        tmp_path / "run",
        *SKEWED,
        "method=fedavg",
        "trainer.loss=balanced_softmax",
        "evaluation.every=0",
        "evaluation.deploy=fine_tuned",
        "evaluation.fine_tune_lr=1e-12",
    )
    assert (True, None, True) in folded
    assert (False, "cross_entropy", False) in folded
    assert not [entry for entry in folded if entry[1] == "cross_entropy" and entry[2]]
    # With a step of nothing, the fine-tuned model is the deployed one: its prior is there once.
    summary = directory.summary()
    for key in ("test_accuracy", "val_accuracy"):
        assert summary["fine_tuned"][key] == summary["as_trained"][key] == summary[key]


def test_what_is_deployed_is_a_setting_with_one_meaning_for_all(tmp_path: Path) -> None:
    found = {}
    for deploy in ("as_trained", "fine_tuned"):
        overrides = [
            *TINY,
            "method=fedavg",
            f"evaluation.deploy={deploy}",
            "evaluation.fine_tune_epochs=2",
        ]
        directory = run(tmp_path / deploy, *overrides)
        summary = found[deploy] = directory.summary()
        assert summary["deploy"] == deploy
        assert summary["test_accuracy"] == summary[deploy]["test_accuracy"]
        kept = to_arrays(load_client_model(directory.path, "0"))
        found[deploy, "model"] = kept
    assert found["as_trained"]["fine_tuned"] == found["fine_tuned"]["fine_tuned"]
    assert found["as_trained"]["as_trained"] == found["fine_tuned"]["as_trained"]
    first, second = found["as_trained", "model"], found["fine_tuned", "model"]
    assert any(not np.array_equal(first[name], second[name]) for name in first)


def test_received_models_are_scored_in_rounds_only_where_a_reward_needs_it(tmp_path: Path) -> None:
    for reward, there in (("accuracy", False), ("improvement", True)):
        rows = run(
            tmp_path / reward, "method=perfednas", f"method/reward={reward}", *TINY
        ).clients()
        assert all(("received_val_accuracy" in row) is there for row in rows)
