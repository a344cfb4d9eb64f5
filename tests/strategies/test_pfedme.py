"""pFedMe: the inner solve against closed forms, personal models apart from what is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corolla.aggregation.statistics import is_statistic
from corolla.spaces.supernet import to_arrays
from corolla.training.moreau import MoreauSettings, train_moreau
from tests.clients.test_own_model import _Client
from tests.states import same
from tests.strategies.conftest import run
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.training.conftest import PLAIN, Affine, dots, quadratic_loss, sgd

PLAIN_SETTINGS: dict[str, Any] = {
    "lambda_prox": 2.0,
    "inner_steps": 3,
    "inner_lr": 0.1,
    "local_lr": 0.25,
    "mu": 0.0,
}


@pytest.fixture
def quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corolla.training.losses.classification_loss", quadratic_loss)


def _solved(images: int = 1, **changed: Any) -> tuple[list[float], list[float]]:
    """Return theta and w_k after as many batches of one image, from w = (0, 0)."""
    model = Affine((0.0, 0.0))
    _, local = train_moreau(
        model,
        dots([255] * images, [0] * images),
        settings=MoreauSettings(**{**PLAIN_SETTINGS, **changed}),
        trainer=sgd(PLAIN, momentum=0.9, weight_decay=0.5),  # of which it uses neither
        epochs=1,
        batch_size=1,
        lr=0.25,
        seed=(0,),
    )
    return model.weights(), local["linear.weight"].flatten().tolist()


@pytest.mark.usefixtures("quadratic")
def test_inner_steps_and_the_step_of_w_by_hand() -> None:
    """theta* = (a + 2 w) / 3; each step leaves 1 - 0.1 * 3 of the way: 0.343 after three, on one batch.

    Then w' = w - 0.25 * 2 (w - theta) = theta / 2. On the next batch theta goes on from where it was.
    """
    theta = 1 / 3 * (1 - 0.343)
    assert _solved() == (pytest.approx([theta, -2 * theta]), pytest.approx([theta / 2, -theta]))
    w = theta / 2
    optimum = (1 + 2 * w) / 3
    theta = optimum + 0.343 * (theta - optimum)
    again = w - 0.5 * (w - theta)
    assert _solved(images=2) == (
        pytest.approx([theta, -2 * theta]),
        pytest.approx([again, -2 * again]),
    )


@pytest.mark.usefixtures("quadratic")
@pytest.mark.parametrize(("strength", "mu"), [(2.0, 0.0), (2.0, 1.0), (1000.0, 0.0)])
def test_many_inner_steps_reach_the_minimum_in_closed_form(strength: float, mu: float) -> None:
    """(a + lambda w) / (1 + lambda + mu), w = 0: the heavier lambda, the nearer to w."""
    rates = {"inner_lr": 0.5 / strength, "local_lr": 0.25 / strength}
    found, _ = _solved(lambda_prox=strength, mu=mu, inner_steps=100, **rates)
    share = 1 / (1 + strength + mu)
    assert found == pytest.approx([share, -2 * share], rel=1e-4)


def test_what_is_kept_is_the_personal_model_and_what_is_sent_is_not(tmp_path: Path) -> None:
    """Authors' code and PFLlib: the same memory. FL-bench: never written. One batch, so w_k moved once."""
    client = _Client("pfedme", tmp_path)
    w = client.received
    sent = client.built().fit(client.task(1), client.arrays()).arrays
    kept = client.model(1)  # after another message: nobody's memory is shared
    step = 0.01 * 15.0
    for name, theta in kept.items():
        if is_statistic(name) or theta.dtype.kind != "f":
            assert sent[name].tobytes() == theta.tobytes()
        else:
            np.testing.assert_allclose(sent[name], w[name] - step * (w[name] - theta), atol=1e-6)
            assert not np.array_equal(theta, sent[name])
            assert not np.array_equal(theta, w[name])
    again = client.built().fit(client.task(1), client.arrays()).arrays  # a round that is repeated
    assert same(sent, again)


def test_who_was_not_asked_solves_from_the_model_of_now(tmp_path: Path) -> None:
    client = _Client("pfedme", tmp_path)
    client.built().fit(client.task(1), client.arrays())
    kept = client.model(1)
    later = client.model(2)
    assert not same(kept, later)
    stranger = _Client("pfedme", tmp_path / "other")  # never took part
    assert same(later, stranger.model(2))
    client.received = {name: array * np.float32(1.01) for name, array in client.received.items()}
    assert not same(later, client.model(2))
    told = [c.built()._stale_scores(c.task(2), c.arrays()) for c in (client, stranger)]  # type: ignore[attr-defined]
    assert sorted(told[0]) == [
        "stale_test_accuracy",
        "stale_test_loss",
        "stale_val_accuracy",
        "stale_val_loss",
    ]
    assert told[1] == {}
    assert client.built()._stale_scores(client.task(1), client.arrays()) == {}  # type: ignore[attr-defined]


def test_solving_again_leaves_the_received_model_alone(tmp_path: Path) -> None:
    client = _Client("pfedme", tmp_path)
    arrays = client.arrays()
    own = client.built()._own(client.task(2), arrays, after=True)
    assert same(arrays, client.received)
    assert not same(to_arrays(own.model), arrays)


def test_server_by_hand() -> None:
    """beta = 1.5, uniform means although one client has 10 images and the other 11."""
    strategy = _strategy(_config("pfedme", "method.beta=1.5"))
    before = strategy.state()
    replies = _replies(strategy, 1, ["0", "1"])
    strategy.absorb(1, replies)
    one, other = (reply.arrays for reply in replies)
    for name, w in before.part("model/").items():
        mean = (one[name] + other[name]) / 2
        wanted = mean if is_statistic(name) else -0.5 * w + 1.5 * mean
        found = strategy.state().arrays[f"model/{name}"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_run_tells_personal_global_and_stale_scores(tmp_path: Path) -> None:
    tiny = ("clients=2", "clients_per_round=1", "rounds=2", "evaluation.fine_tune_epochs=0")
    directory = run(tmp_path / "run", "method=pfedme", *tiny, "evaluation.every=0")
    summary = directory.summary()
    assert {"test_accuracy", "global"} <= summary.keys()
    drawn = [client for line in directory.metrics() for client in line["participants"]]
    told = [c for c, row in summary["per_client"].items() if "stale_test_accuracy" in row]
    assert told == [client for client in dict.fromkeys(drawn) if client != drawn[-1]]
    (first, *_) = directory.clients()
    assert first["samples_processed"] == 5 * first["num_examples"]
