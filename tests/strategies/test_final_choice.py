"""After the rounds, clients score a few draws of their policy and deploy the best."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corolla.errors import RunFailedError
from corolla.spaces.architecture import Architecture
from corolla.tasks import Failure
from strategies.evaluation import Evaluator
from strategies.final_choice import choose_finally
from strategies.perfednas import PerFedNAS
from tests.strategies.conftest import results, resumed, run
from tests.strategies.test_contract import _config, _strategy

DRAWS = "method.final_draws=3"
TINY = ["rounds=1", "evaluation.every=0", "evaluation.fine_tune_epochs=0"]


class Scorer:
    """Answers with an accuracy per number of a candidate; client 1 never answers."""

    def __init__(self, strategy: Any, accuracies: list[float]) -> None:
        self.strategy, self.accuracies, self.asked = strategy, accuracies, list[list[str]]()

    def evaluate(self, server_round: int, *, clients: list[str]) -> Any:
        accuracy = self.accuracies[len(self.asked)]
        self.asked.append(clients)
        replies = [
            SimpleNamespace(
                client=client,
                architecture=self.strategy.deployed(client).architecture,
                metrics={"val_accuracy": accuracy, "test_accuracy": 1.0 - accuracy},
            )
            for client in clients
            if client != "1"
        ]
        return replies, [Failure("1", "gone")] if "1" in clients else []


def settled(accuracies: list[float]) -> tuple[Any, list[Architecture], Scorer]:
    strategy: Any = _strategy(_config("perfedrlnas", DRAWS))
    candidates = strategy.final_candidates("0")
    scorer = Scorer(strategy, accuracies)
    evaluator: Any = scorer
    assert choose_finally(strategy, evaluator, ["0", "1"], 3)
    return strategy, candidates, scorer


def test_the_best_on_validation_is_deployed_and_recorded() -> None:
    strategy, candidates, scorer = settled([0.5, 0.4, 0.8, 0.1])
    assert len(candidates) == 4
    assert scorer.asked == [["0", "1"]] * 4
    assert strategy.deployed("0").architecture == candidates[2]
    assert strategy.describe("0")["final_choice"] == {"tried": 4, "won": 2}
    # Who did not answer keeps what the search had chosen.
    assert strategy.deployed("1").architecture == strategy.space.smallest()
    assert "final_choice" not in strategy.describe("1")


def test_of_equals_the_cheaper_is_deployed() -> None:
    strategy, candidates, _ = settled([0.5, 0.5, 0.5, 0.4])
    cheapest = min(candidates[:3], key=lambda found: strategy.space.costs(found).macs)
    assert strategy.deployed("0").architecture == cheapest


def test_a_choice_is_part_of_the_state_and_made_once() -> None:
    strategy, candidates, _ = settled([0.1, 0.4, 0.8, 0.1])
    again: Any = _strategy(_config("perfedrlnas", DRAWS))
    again.load_state(strategy.state())
    assert again.deployed("0").architecture == candidates[2]
    assert again.describe("0") == strategy.describe("0")
    evaluator: Any = Scorer(again, [])
    assert not choose_finally(again, evaluator, ["0", "1"], 3)


def test_nothing_is_asked_without_draws() -> None:
    strategy: Any = _strategy(_config("perfedrlnas"))
    evaluator: Any = Scorer(strategy, [])
    assert not choose_finally(strategy, evaluator, ["0", "1"], 3)


@pytest.mark.slow
def test_a_run_that_is_killed_during_the_choice_makes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", "method=perfedrlnas", *TINY, DRAWS)
    entries = whole.summary()["per_client"]
    assert all(entry["final_choice"]["tried"] > 1 for entry in entries.values())
    settle = PerFedNAS.settle_on
    deploy = Evaluator.deploy
    for name, stop in (("before", PerFedNAS), ("after", Evaluator)):

        def killed(*_: Any, **__: Any) -> Any:
            raise OSError("power cut")

        with monkeypatch.context() as patch:
            patch.setattr(stop, "settle_on" if stop is PerFedNAS else "deploy", killed)
            with pytest.raises(RunFailedError, match="power cut"):
                run(tmp_path / name, "method=perfedrlnas", *TINY, DRAWS)
        assert (PerFedNAS.settle_on, Evaluator.deploy) == (settle, deploy)
        assert results(resumed(tmp_path / name)) == results(whole)
