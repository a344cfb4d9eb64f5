"""SFL: graph, smoothing and pulls by hand, and who has a part in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from clients.sfl import READOUT, PullsSettings, SflClient
from corolla.aggregation.client_graph import (
    blended,
    mixing,
    products,
    published_graph,
    similarity_graph,
)
from corolla.aggregation.statistics import is_statistic
from corolla.spaces.architecture import Architecture
from corolla.spaces.model_parts import end_of
from corolla.tasks import Task
from tests.strategies.conftest import run
from tests.strategies.test_contract import BLOCKS, _config, _replies, _strategy
from tests.strategies.test_reductions import weights_of
from tests.strategies.test_scaffold import _plain_site

TWO = ("clients=2", "clients_per_round=2", "rounds=2", *BLOCKS["mobilenetv3_8"])


def test_likeness_by_hand() -> None:
    """Moves (2, 0), (1, 0), (-1, 0), (0, 0): cosines 1, -1 and, of the one that never moved, 0."""
    moves = np.array([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    centre = np.array([5.0, 7.0])
    inner = products(list(moves + centre), centre)
    np.testing.assert_allclose(inner, moves @ moves.T)
    one = similarity_graph(inner, neighbours=1, temperature=0.1, self_loop=0.5)
    # Row 2 prefers who never moved (0) to the others (-1); row 3 has equals and takes the first.
    half = [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0, 0, 0.5]]
    np.testing.assert_allclose(one, half)
    two = similarity_graph(inner, neighbours=2, temperature=1.0, self_loop=0.25)
    near, far = 0.75 / (1 + np.exp(-1)), 0.75 / (1 + np.exp(1))  # softmax of 1 and 0
    np.testing.assert_allclose(two[0], [0.25, near, 0, far])
    alone = similarity_graph(inner[:1, :1], neighbours=1, temperature=0.1, self_loop=0.5)
    np.testing.assert_array_equal(alone, [[1.0]])


def test_products_of_chosen_entries_do_not_depend_on_their_blocks() -> None:
    rng = np.random.default_rng(0)
    models = [rng.normal(size=70_000).astype(np.float32) for _ in range(3)]
    places = rng.random(70_000) < 0.5
    rows = np.stack([model[places] for model in models]).astype(np.float64) - 1
    found = products(models, np.ones(70_000), places)
    np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-9)


def test_the_published_graph_prefers_nobody_near() -> None:
    """Rows add up to 1, an edge has one direction, draws are the seed's; who has none is its own."""
    moves = np.random.default_rng(1).normal(size=(6, 4))
    graphs = [
        published_graph(moves @ moves.T, neighbours=2, seed=(number,)) for number in (0, 0, 1)
    ]
    assert np.array_equal(graphs[0], graphs[1])
    assert not np.array_equal(graphs[0], graphs[2])
    for graph in graphs:
        np.testing.assert_allclose(graph.sum(axis=1), 1)
        assert ((graph > 0).sum(axis=1) <= 2).all()
        edges = (graph > 0) & ~np.eye(6, dtype=bool)
        assert not (edges & edges.T).any()
        assert (edges.any(axis=1) | (np.diag(graph) == 1)).all()


def test_graphs_are_blended_and_travelled_by_hand() -> None:
    old, new = np.array([[0.5, 0.5], [0.0, 1.0]]), np.eye(3)
    third = 1 / 3
    # Clients 0 and 2 of now are those of before; 1 has joined, and was like all.
    found = blended(old, new, places=[0, 2], share=0.1)
    wanted = 0.9 * np.array([[0.5, 0, 0.5], [third] * 3, [0, 0, 1]]) + 0.1 * new
    np.testing.assert_allclose(found, wanted)
    chain = np.array([[0.0, 1, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(mixing(chain, layers=2, alpha=1.0)[0], [0, 0, 1])
    np.testing.assert_allclose(mixing(chain, layers=2, alpha=0.25)[0], [0.75, 0, 0.25])


def test_server_by_hand() -> None:
    """Two of four: each is half of the other; alpha keeps a quarter back. The others have the mean."""
    strategy = _strategy(_config("sfl", "method.alpha=0.75"))
    first, second = replies = _replies(strategy, 1, ["10", "2"])
    initial = strategy.deployed("3").arrays
    strategy.absorb(1, replies)
    mean = {n: (first.arrays[n] + second.arrays[n]) / 2 for n in initial}
    for client, model in (("10", first.arrays), ("2", second.arrays), ("3", mean)):
        deployed = strategy.deployed(client)
        for name in initial:
            wanted = 0.75 * mean[name] + 0.25 * model[name]
            np.testing.assert_allclose(deployed.arrays[name], wanted, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                deployed.beside[READOUT + name], mean[name], rtol=1e-5, atol=1e-6
            )
    kept = strategy.state().part("own/")
    assert list(kept) == ["2", "10"]  # nobody else is in the graph
    strategy.absorb(2, _replies(strategy, 2, ["3"]))
    stale = strategy.state().part("own/")
    assert list(stale) == ["2", "3", "10"]
    assert stale["10"].tobytes() == kept["10"].tobytes()


def test_what_is_compared_is_the_end_of_the_network() -> None:
    strategy: Any = _strategy(_config("sfl"))
    module = strategy.space.blank(strategy.space.middle())
    end = end_of(module, 10)
    assert {name.split(".")[0] for name in end} == {"head"}
    assert strategy._end.sum() == sum(strategy._arrays[name].size for name in end)
    blocks = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.ModuleDict({"one": nn.Linear(4, 4), "norm": nn.LayerNorm(4)}),
        nn.LayerNorm(4),
        nn.Linear(4, 3),
    )
    assert end_of(blocks, 3) == {"1.one.weight", "1.one.bias", "1.norm.weight", "1.norm.bias"} | {
        "3.weight",
        "3.bias",
    }
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    assert end_of(plain, 3) == {"1.weight", "1.bias", "2.weight", "2.bias"}


def test_two_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss (v - 1)^2 / 2, lr 0.5, u = 0, w = -1, pulls 0.2 to w and 0.4 to u.

    g = -1 + 0.2 = -0.8, v = 0.4; g = -0.6 + 0.2 * 1.4 + 0.4 * 0.4 = -0.16, v = 0.48.
    """
    monkeypatch.setattr("clients.subnet.scores", lambda *_, **__: {})

    client = SflClient(
        site=_plain_site(0.0), settings=PullsSettings(lambda_global=0.2, lambda_graph=0.4)
    )
    arrays = {
        "weight": np.zeros((1, 1), np.float32),
        READOUT + "weight": -np.ones((1, 1), np.float32),
    }
    task = Task(client="1", round=1, architecture=Architecture((0,)), epochs=1, lr=0.5)
    answer = client.fit(task, arrays)
    assert list(answer.arrays) == ["weight"]
    assert answer.arrays["weight"].item() == pytest.approx(0.48)


def test_no_noise_is_added_to_the_mean(tmp_path: Path) -> None:
    """Where nothing is smoothed and nothing pulls."""
    alone = ("method.alpha=0", "method.lambda_global=0", "method.lambda_graph=0")
    sfl = run(tmp_path / "sfl", "method=sfl", *alone, "evaluation.fine_tune_epochs=0", *TWO)
    readout = weights_of(sfl, "strategy/model/")
    one, other = (sfl.client_model(client)[1] for client in ("0", "1"))
    for name, array in readout.items():
        if is_statistic(name):  # a client's are of its own images
            continue
        np.testing.assert_allclose(array, (one[name] + other[name]) / 2, rtol=1e-5, atol=1e-6)


def test_the_server_saves_the_smoothed_model_alone(tmp_path: Path) -> None:
    """Where clients return no weights; and both graphs, both models are scored."""
    server = ("method.graph=sfl_code", "method.layers=3", "evaluation.return_models=false")
    directory = run(tmp_path / "run", "method=sfl", *server, *TWO)
    state = weights_of(directory, "strategy/")
    own = np.stack([state[f"own/{client}"] for client in ("0", "1")])
    saved = directory.client_model("1")[1]
    flat = np.concatenate([saved[n.removeprefix("model/")].ravel() for n in state if "model/" in n])
    np.testing.assert_allclose(flat, state["mixing"][1] @ own, rtol=1e-4, atol=1e-6)
    assert len(flat) == own.shape[1] == sum(array.size for array in saved.values())
    summary = directory.summary()
    assert sorted(summary["global"]["test_accuracy"]["per_client"]) == ["0", "1"]
