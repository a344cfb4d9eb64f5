"""An architecture that a device really cannot train teaches its policy, by equation 9."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clients.subnet import SubnetClient
from corolla.tasks import Answer, Failure, Task
from corolla.training.results import DivergedError
from corolla.types import Arrays
from tests.conftest import quick
from tests.states import differences
from tests.strategies.conftest import run, strategy_state
from tests.strategies.test_contract import _config, _replies, _strategy

FIT = SubnetClient.fit
PLAIN = [
    "method.reward.baseline=clients",
    "method.reward.normalise=none",
    "evaluation.every=0",
    "evaluation.fine_tune_epochs=0",
    "clients_per_round=4",
    "rounds=1",
]
RAISED = {
    "cuda": (torch.OutOfMemoryError("CUDA out of memory.\nTried 2 GiB"), "out_of_memory"),
    "cpu": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
    "python": (MemoryError(), "out_of_memory"),
    "diverged": (DivergedError(loss=np.inf, epoch=0, batch=1, lr=0.5), "diverged"),
    "other": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
}


@pytest.mark.parametrize("name", quick(RAISED, "cuda", "other"))
def test_what_a_client_cannot_train_is_told_and_learned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, kind = RAISED[name]

    def fit(self: SubnetClient, task: Task, arrays: Arrays) -> Answer:
        if task.client == "1":
            raise error
        return FIT(self, task, arrays)

    monkeypatch.setattr(SubnetClient, "fit", fit)
    directory = run(tmp_path / "run", "method=perfedrlnas", *PLAIN)
    (line,) = directory.metrics()
    assert line["participants"] == ["0", "2", "3"]
    (failed,) = line["failed"]
    assert failed["client"] == "1"
    assert failed.get("kind") == kind
    taught = strategy_state(directory).meta["policies"]["clients"]
    assert taught == (["0", "2", "3"] if kind is None else ["0", "1", "2", "3"])


@pytest.mark.parametrize("replies", [[], ["0", "2"]])
def test_a_failure_is_judged_by_equation_9(replies: list[str]) -> None:
    strategy = _strategy(_config("perfedrlnas", *PLAIN))
    valid = _replies(strategy, 1, replies)  # accuracies 0.1 and 0.3
    sent = strategy.orders(1, ["1"])[0].task.architecture.choices
    before = strategy.policies.probabilities("1")  # type: ignore[attr-defined]
    strategy.learn_failures(1, [Failure("1", "no room", "out_of_memory"), Failure("3", "gone")])
    outcome = strategy.absorb(1, valid)
    assert sorted(outcome.columns) == replies
    after = strategy.policies.probabilities("1")  # type: ignore[attr-defined]
    # Accuracy 0 less the mean of 0.2: the step is rate 0.4 times -0.2, and none where nobody is better.
    worth = -0.2 if replies else 0.0
    for choice, p, q in zip(sent, before, after, strict=True):
        logits = np.log(p) + 0.4 * worth * (np.eye(len(p))[choice] - p)
        np.testing.assert_allclose(q, np.exp(logits) / np.exp(logits).sum())
    # Nobody else's policy learned, nothing is left for the next round.
    assert strategy.policies.clients == sorted({*replies, "1"})  # type: ignore[attr-defined]
    state = strategy.state()
    strategy.learn_failures(2, [Failure("0", "no reply"), Failure("1", "odd", "unheard of")])
    strategy.absorb(2, [])
    assert not differences(state, strategy.state())


@pytest.mark.parametrize("proposals", ["uniform", "policy_gradient"])
def test_any_search_learns_from_failures_and_resumes(proposals: str) -> None:
    settings = ["perfednas", f"method/proposals={proposals}"]
    whole, resumed = (_strategy(_config(*settings)) for _ in range(2))
    for server_round in (1, 2):
        for strategy in (whole, resumed):
            valid = _replies(strategy, server_round, ["0"])
            strategy.learn_failures(server_round, [Failure("1", "inf", "diverged")])
            strategy.absorb(server_round, valid)
        state = resumed.state()
        resumed = _strategy(_config(*settings))
        resumed.load_state(state)
    assert not differences(whole.state(), resumed.state())
    assert whole.state().meta["proposals"]["clients"] == ["0", "1"]
