"""FedDyn: its numbers by hand, and what public implementations of it get wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.feddyn import MEAN_EXAMPLES, DynamicSettings, FedDynClient, UnclippedQuadratic
from corolla.aggregation.statistics import is_statistic
from corolla.launch import plan_run
from corolla.records.client_store import ClientStore
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.pull import Pull
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.strategies.test_reductions import weights_of
from tests.strategies.test_scaffold import _kept, _of, _plain_site

TWO = ("clients=2", "clients_per_round=2", "evaluation.every=0", "evaluation.fine_tune_epochs=0")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientStore:
    monkeypatch.setattr("clients.subnet.scores", lambda *_, **__: {})
    return ClientStore(tmp_path)


def _fit(store: ClientStore, round: int, *, form: Any = "common", **extra: Any) -> Answer:
    """Train two steps down (y - 1)^2 / 2 from w = 0.5, step 0.5."""
    site = _plain_site(0.0, store)
    site.trainer = SimpleNamespace(device="cpu", settings=SimpleNamespace(clip_norm=None))
    site.data = SimpleNamespace(train=[0] * 10)
    client = FedDynClient(site=site, settings=DynamicSettings(alpha=0.2, form=form))
    task = Task(
        client="1", round=round, architecture=Architecture((0,)), epochs=1, lr=0.5, extra=extra
    )
    return client.fit(task, {"weight": np.full((1, 1), 0.5, np.float32)})


def test_two_steps_by_hand(store: ClientStore) -> None:
    """q = 0.6, so g = -0.12: y - 1 + 0.12 + 0.2 (y - 0.5) is -0.38 at 0.5, and -0.152 at 0.69.

    FL-bench has no quadratic: the second would be -0.19. With PFLlib's norm, not squared: -0.09.
    """
    store.save("1", 1, _of(0.6))
    for _repeated in range(2):  # a round that is repeated starts where it started
        answer = _fit(store, 2)
        assert answer.arrays["weight"].item() == pytest.approx(0.5 + 0.19 + 0.076)
        assert _kept(store, 3) == pytest.approx(0.6 + 0.266)  # g' = -0.2 q' = -0.12 - 0.2 (y - w)


def test_a_new_client_starts_at_0_and_damage_is_told(store: ClientStore) -> None:
    """-0.5, then -0.25 + 0.05: y = 0.5 + 0.25 + 0.1."""
    assert _fit(store, 1).arrays["weight"].item() == pytest.approx(0.85)
    store.save("1", 1, _of(float("nan")))
    again = _fit(store, 2)
    assert again.arrays["weight"].item() == pytest.approx(0.85)
    assert again.metrics["state_restarted"] == 1


def test_the_authors_alpha_is_smaller_for_more_images(store: ClientStore) -> None:
    """10 images of 5 on average: alpha = 0.1. -0.5, then -0.25 + 0.025."""
    answer = _fit(store, 1, form="authors", **{MEAN_EXAMPLES: 5.0})
    assert answer.arrays["weight"].item() == pytest.approx(0.5 + 0.25 + 0.1125)


def test_the_authors_quadratic_is_not_clipped() -> None:
    """The loss' gradient -3 and 0.5 (q - w) = 0.5 (2 - 1), -2.5, are clipped to -1; then comes 0.5 * 4."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(4.0)
    model.weight.grad = torch.full((1, 1), -3.0)
    pull = Pull(strength=0.5, targets={"weight": np.full((1, 1), 1.0 - 2.0, np.float32)})
    UnclippedQuadratic(pull, alpha=0.5, clip_norm=1.0)(model)
    assert model.weight.grad.item() == pytest.approx(-1 + 2)


@pytest.mark.parametrize("deploys", ["server", "mean"])
def test_server_by_hand(deploys: str) -> None:
    """Two of four answer: means are uniform, and the dual moves by half of theirs; K is 4, not 2."""
    strategy = _strategy(_config("feddyn", f"method.deploys={deploys}"))
    for turn in (1, 2):
        before = strategy.state()
        replies = _replies(strategy, turn, ["0", "1"])
        strategy.absorb(turn, replies)
    after, (one, other) = strategy.state(), (reply.arrays for reply in replies)
    dual = after.part("dual/")
    assert not any(is_statistic(name) for name in dual)
    for name, w in before.part("model/").items():
        mean = (one[name] + other[name]) / 2
        wanted = mean
        if name in dual:
            q = before.arrays[f"dual/{name}"] + (mean - w) / 2
            np.testing.assert_allclose(dual[name], q, rtol=1e-5, atol=1e-6)
            wanted = mean + q
        np.testing.assert_allclose(after.arrays[f"model/{name}"], wanted, rtol=1e-5, atol=1e-6)
        found = strategy.deployed("3").arrays[name]
        if deploys == "mean":
            np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
        else:
            assert found is strategy.state().arrays[f"model/{name}"]


def test_a_tiny_alpha_steps_on(tmp_path: Path) -> None:
    """At 0 it is FedAvg; just above it the server steps as far again."""
    none = run(tmp_path / "none", "method=feddyn", "method.alpha=0.0", *TWO, "rounds=1")
    expected = weights_of(none, "strategy/model/")
    tiny = run(tmp_path / "tiny", "method=feddyn", "method.alpha=1e-9", *TWO, "rounds=1")
    start = _strategy(plan_run(small("method=feddyn", *TWO, "run_dir=unused")).config).state()
    for name, w in weights_of(tiny, "strategy/model/").items():
        mean = expected[name]
        step = 0 if is_statistic(name) else mean - start.arrays[f"model/{name}"]
        np.testing.assert_allclose(w, mean + step, rtol=1e-5, atol=1e-6)


def test_the_server_holds_the_mean_of_all_duals(tmp_path: Path) -> None:
    both = run(tmp_path / "two", "method=feddyn", "method.alpha=0.1", "rounds=2", *TWO)
    own = [both.client_states.load(client, 3) for client in ("0", "1")]
    kept: list[State] = [found[1] for found in own if found is not None]
    for name, q in weights_of(both, "strategy/dual/").items():
        np.testing.assert_allclose(q, sum(k.arrays[name] for k in kept) / 2, atol=1e-6)
        assert q.any(), name
