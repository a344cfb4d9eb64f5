"""Robust averages reach every method; what averages nothing refuses them (test_refusals.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.subnet import SubnetClient
from corolla.aggregation.statistics import is_statistic
from corolla.errors import RefusedError
from corolla.tasks import Answer, Reply, Task
from corolla.types import Arrays, ClientId
from strategies.base import CorollaStrategy
from tests.conftest import quick
from tests.strategies.conftest import run
from tests.strategies.test_contract import METHODS, _config, _replies, _strategy

EVERYBODY = ["0", "1", "2", "3"]
# Searches that draw whatever they are told: their spaces hold one architecture.
_ONE = [
    "space.supernet.stages=[{width:[4],depth:[1],kernel:[3],expand:[1],stride:2,se:false}]",
    "space.supernet.last=16",
]
_ONE_CNN = [
    f"space.supernet.stages=[{','.join(['{width:[4],depth:[1],kernel:[3]}'] * 3)}]",
    "space.supernet.hidden=[8]",
]
# All four have the same architecture, so that every entry has four holders.
SAME = {
    "perfednas": ["method/proposals=fixed"],
    "perfedrlnas": _ONE,
    "fedrlnas": _ONE,
    "fedpnas": _ONE_CNN,
    "superfednas": ["method/proposals=fixed"],
    "deepfednas": [*_ONE, "method.tiers.count=1"],
    "fedoras": ["method/proposals=fixed"],
    "heterofl": ["method.assignment=limits", "method.class_rows=false"],
    "fedrolex": ["method.assignment=limits", "method.class_rows=false"],
    "fedkemf": ["method.fusion=average"],
    "perfed_ckt": ["method.outputs=logits"],  # probabilities cannot be moved far
}


def _with_a_liar(replies: list[Reply], liar: ClientId, scale: float) -> list[Reply]:
    """Have one client send its arrays scaled, and claim a thousand times the images."""
    return [
        replace(
            reply,
            arrays={
                name: (array * scale).astype(array.dtype) for name, array in reply.arrays.items()
            },
            num_examples=1000 * reply.num_examples,
        )
        if reply.client == liar
        else reply
        for reply in replies
    ]


def _largest(strategy: CorollaStrategy) -> float:
    """Return the largest number of what is averaged."""
    averaged = ("model/", "mixed/", "supernet/", "weights/", "training/knowledge/")
    averaged += ("consensus", "targets/")
    arrays = strategy.state().arrays.items()
    return max(
        (float(np.abs(a).max()) for name, a in arrays if name.startswith(averaged)), default=0.0
    )


@pytest.mark.parametrize(
    "method", quick(METHODS, "fedavg", "scaffold", "fedmd", "perfedrlnas", "hapfnas")
)
def test_one_liar_of_four_cannot_move_any_method(method: str) -> None:
    """The median shows that the rule arrives; what each rule does is tested in tests/aggregation."""
    settings = [*SAME.get(method, []), "clients_per_round=4"]
    if not _strategy(_config(method, *settings)).takes_robust:
        with pytest.raises(RefusedError, match="has no average of models"):
            _config(method, *settings, "robust=median")
        return
    config = _config(method, *settings, "robust=median")
    robust, plain = _strategy(config), _strategy(config.model_copy(update={"robust": {}}))
    replies = _with_a_liar(_replies(robust, 1, EVERYBODY), "2", -1e3)
    before = _largest(robust)
    for strategy in (robust, plain):
        strategy.absorb(1, replies)
    assert _largest(robust) < 10 * max(before, 1.0)
    assert _largest(plain) > 20 * _largest(robust)


def test_a_method_that_says_nothing_of_robust_averages_takes_none() -> None:
    assert not CorollaStrategy.takes_robust


def test_ensembles_of_logits_leave_a_liar_out(tmp_path: Path) -> None:
    """FedKEMF's teacher and HAPFNAS's follow the rule, too: a liar's logits teach nobody."""
    settings = ["clients_per_round=4", "method.distillation.lr=1e-9"]
    losses = {}
    for rule in ("none", "median"):
        strategy = _strategy(_config("fedkemf", *settings, f"robust={rule}"))
        replies = _replies(strategy, 1, EVERYBODY)
        honest = strategy.absorb(1, replies).metrics["distillation_loss"]
        again = _strategy(_config("fedkemf", *settings, f"robust={rule}"))
        lied = [_loud(reply) if reply.client == "2" else reply for reply in replies]
        losses[rule] = again.absorb(1, lied).metrics["distillation_loss"] - honest
    assert abs(losses["median"]) < 0.05 < abs(losses["none"])


def _loud(reply: Reply) -> Reply:
    """Make the classifier's answers a thousand times as loud."""
    last = list(reply.arrays)[-2:]
    return replace(reply, arrays=reply.arrays | {name: 1000 * reply.arrays[name] for name in last})


def test_our_own_settings_damp() -> None:
    assert _config("perfedrlnas").method.settings["damping"] == 0.25


def test_damping_slows_what_one_client_holds() -> None:
    """Two clients of one round: what one of them alone holds takes half its step at damping=1."""
    settings = ["method/proposals=random", "method.weights=uniform"]
    plain, damped = (
        _strategy(_config("perfednas", *settings, f"method.damping={d}")) for d in (0, 1)
    )
    old = plain.state().part("supernet/")
    for strategy in (plain, damped):
        strategy.absorb(1, _replies(strategy, 1, ["0", "1"]))
    full, half = (strategy.state().part("supernet/") for strategy in (plain, damped))
    steps = [(half[name] - old[name], full[name] - old[name]) for name in old]
    shares = np.concatenate([h[abs(f) > 1e-3] / f[abs(f) > 1e-3] for h, f in steps])
    np.testing.assert_allclose(np.minimum(abs(shares - 0.5), abs(shares - 1.0)), 0, atol=0.01)
    assert shares.min() < 0.6 < 0.9 < shares.max()


@pytest.mark.slow
def test_five_clients_learn_beside_one_that_sends_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["method=fedavg", "clients=5", "clients_per_round=5", "local_epochs=4"]
    settings += ["method.architecture=smallest", "evaluation.received=false"]
    settings += ["evaluation.every=0", "evaluation.fine_tune_epochs=0"]
    settings += ["partition.balanced=true", "partition.images_per_client=150"]
    honest = _accuracy(tmp_path / "honest", *settings)
    fit = SubnetClient.fit

    def lying(self: SubnetClient, task: Task, arrays: Arrays) -> Answer:
        answer = fit(self, task, arrays)
        if task.client == "0":
            rng = np.random.default_rng(0)
            lies = {  # a negative variance would be no model, and refused
                n: a if is_statistic(n) else rng.normal(0, 10, a.shape).astype(a.dtype)
                for n, a in answer.arrays.items()
            }
            answer = replace(answer, arrays=lies)
        return answer

    monkeypatch.setattr(SubnetClient, "fit", lying)
    poisoned = _accuracy(tmp_path / "poisoned", *settings)
    robust = _accuracy(tmp_path / "robust", *settings, "robust=trimmed_mean")
    assert poisoned < honest - 0.2
    assert robust > honest - 0.1


def _accuracy(path: Path, *settings: str) -> float:
    return float(run(path, *settings).summary()["test_accuracy"]["mean"])
