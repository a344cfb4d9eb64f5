"""L2GD: averaging by hand, both ends bit for bit, the coin, and what public code of it gets wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corolla.aggregation.mixing import mixed
from corolla.launch import plan_run
from corolla.training.coin import CoinSettings, flips, images_of_steps, own_share
from corolla.types import generator
from tests.clients.test_own_model import _Client
from tests.states import differences, same
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.training.conftest import dots

TWO = ("clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")
SETTINGS: dict[str, Any] = {"beta": 0.25, "schedule": "coin", "p": 0.2, "optimizer": "reset"}


def test_mixing_by_hand() -> None:
    """Of counters the higher stays; at the ends not even the sign of a zero changes."""
    own = {"a": np.array([-0.0, 4.0], np.float32), "count": np.array(3)}
    shared = {"a": np.array([1.0, np.inf], np.float32), "count": np.array(5)}
    assert same(mixed(own, shared, 1), own)
    assert same(mixed(own, shared, 0), shared)
    found = mixed(own, {**shared, "a": np.array([1.0, 8.0], np.float32)}, 0.75)
    assert found["a"].tolist() == [0.25, 5.0]
    assert found["a"].dtype == np.float32
    assert found["count"] == 5


def test_the_coin_is_common_and_has_the_papers_odds() -> None:
    """Runs of either side: 1 / p local steps, 1 / (1 - p) averagings, each of which leaves 1 - beta."""
    settings = CoinSettings(**SETTINGS)
    assert flips(settings, 7, 3) == flips(settings, 7, 3)
    drawn = np.array([flips(settings, 7, round) for round in range(1, 4001)], dtype=float)
    assert drawn.min() == 1
    steps, averagings = drawn.mean(axis=0)
    assert steps == pytest.approx(5, rel=0.05)
    assert averagings == pytest.approx(1.25, rel=0.05)
    assert own_share(settings, 3) == 0.75**3
    assert flips(replace(settings, schedule="epochs"), 7, 3) == (None, 1)


def test_a_local_step_is_a_batch_not_an_epoch() -> None:
    """FedRep's code: whole epochs. Two steps of 4 of 6 images: all six, then two of the next pass."""
    images = dots(list(range(6)), [0] * 6)
    found = images_of_steps(images, steps=2, batch_size=4, rng=generator(1))
    pixels = found.pixels.flatten()
    assert len(found) == 8
    assert sorted(pixels[:6].tolist()) == list(range(6))
    assert not torch.equal(pixels[:6], torch.arange(6))


def _with(client: _Client, *settings: str) -> _Client:
    config = plan_run(small("method=l2gd", *settings, "run_dir=unused")).config
    client.site = replace(client.site, config=config)
    return client


def test_what_is_kept_was_not_averaged_and_what_is_run_is(tmp_path: Path) -> None:
    """x_k is sent as trained; the next task, of whatever kind, brings the mean that round 1 draws it to."""
    settings = ("method.beta=0.25", "method.schedule=coin", "method.p=0.6")
    client = _with(_Client("l2gd", tmp_path), *settings)
    averagings = [flips(client.built().settings, 0, round).averagings for round in (1, 2)]
    assert averagings[0] != averagings[1]
    away = 0.5 * (1 - 0.75 ** averagings[0])
    sent = client.built().fit(client.task(1), client.arrays()).arrays
    client.received = {name: (array * 1.5).astype(array.dtype) for name, array in sent.items()}
    run_now = client.model(1)
    starts_from = client.built()._own(client.task(2), client.arrays())
    for name, array in sent.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(run_now[name], array * (1 + away), rtol=1e-5, atol=1e-6)
    assert same(run_now, {n: t.numpy() for n, t in starts_from.model.state_dict().items()})
    assert not same(run_now, client.received)


def test_a_stranger_is_drawn_from_the_common_start(tmp_path: Path) -> None:
    client = _with(_Client("l2gd", tmp_path), "method.beta=0.25")
    start = client.space.cut(client.space.initial_state(0), client.architecture)
    for name, array in client.model(2).items():
        if array.dtype.kind == "f":
            wanted = 0.75 * start[name] + 0.25 * client.received[name]
            np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean_of", ["round", "known"])
def test_server_by_hand(mean_of: str) -> None:
    """Each counts once (FedRep's code: the first twice); `known` counts who is away by its last model."""
    strategy = _strategy(_config("l2gd", f"method.mean_of={mean_of}"))
    old, new = _replies(strategy, 1, ["0", "1"]), _replies(strategy, 2, ["0", "3"])
    for round, replies in ((1, old), (2, new)):
        strategy.absorb(round, replies)
    counted = new if mean_of == "round" else [old[1], *new]
    found = strategy.state()
    for name, array in found.part("model/").items():
        mean = sum(reply.arrays[name] for reply in counted) / len(counted)
        np.testing.assert_allclose(array, mean, rtol=1e-5, atol=1e-6)
    other = _strategy(_config("l2gd", f"method.mean_of={mean_of}"))
    other.load_state(found)
    for each in (strategy, other):
        each.absorb(3, _replies(each, 3, ["1"]))
    assert not differences(strategy.state(), other.state())


def test_a_run_by_the_coin_tells_its_steps(tmp_path: Path) -> None:
    settings = ("method.schedule=coin", "method.p=0.3", "evaluation.fine_tune_epochs=0")
    directory = run(tmp_path / "run", "method=l2gd", *settings, *TWO)
    lines = directory.metrics()
    for row in directory.clients():
        assert row["samples_processed"] == 32 * lines[row["round"] - 1]["local_steps"]
        assert row["num_examples"] == 18
    assert [line["averagings"] >= 1 for line in lines] == [True, True]
