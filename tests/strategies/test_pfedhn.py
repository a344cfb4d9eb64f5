"""pFedHN: its numbers by hand, whose embeddings move, and what of a model is written."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corolla.aggregation.statistics import is_statistic
from corolla.errors import RefusedError
from corolla.training.hypernetwork import Hypernetwork, HypernetworkSettings, clipped, stepped
from corolla.types import Arrays
from strategies.absorbing import absorbed
from tests.strategies.conftest import run
from tests.strategies.test_contract import BLOCKS, _config, _replies, _strategy

# An embedding of one number, one layer: h is linear in psi, and all can be said in one line.
LINEAR = tuple(
    f"method.hypernetwork.{text}"
    for text in ("embedding=1", "layers=0", "weight_decay=0.0", "clip_norm=null", "lr=0.02")
)


def _hyper(chunk: int | None, **values: Any) -> HypernetworkSettings:
    plain: dict[str, Any] = {
        "embedding": 2,
        "hidden": 3,
        "layers": 1,
        "lr": 0.1,
        "momentum": 0.5,
        "weight_decay": 0.01,
        "clip_norm": None,
    }
    return HypernetworkSettings(**{**plain, "chunk": chunk, **values})


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_product_is_the_gradient_of_the_distance_to_what_came_back(chunk: int | None) -> None:
    """Against differences of 1/2 ||h(z) - target||^2 in float64; 9 entries are three chunks, one in part."""
    shapes = {"a.weight": (2, 3), "b": (3,)}
    network = Hypernetwork(_hyper(chunk), shapes, 2)
    rng = np.random.default_rng(0)
    weights: Arrays = {n: rng.normal(size=s) for n, s in network.shapes.items()}
    z, target = rng.normal(size=2), {n: rng.normal(size=s) for n, s in shapes.items()}

    def distance(weights: Arrays, z: np.ndarray) -> float:
        found = network.written(weights, z)
        return sum(float(((found[n] - target[n]) ** 2).sum()) for n in shapes) / 2

    change = {n: a - target[n] for n, a in network.written(weights, z).items()}
    assert {n: a.shape for n, a in change.items()} == shapes
    by_weights, by_z = network.gradients(weights, z, change)
    values, found = {**weights, "z": z}, {**by_weights, "z": by_z}
    assert network.weights == sum(a.size for a in weights.values())
    for name, array in values.items():
        for place in np.ndindex(array.shape):
            sides = []
            for small_step in (1e-6, -1e-6):
                moved = {n: a.copy() for n, a in values.items()}
                moved[name][place] += small_step
                sides.append(distance({n: moved[n] for n in weights}, moved["z"]))
            assert found[name][place] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6)


def test_steps_are_those_of_torch_and_clipping_is_of_the_whole() -> None:
    settings = _hyper(None)
    values, velocity = {"a": np.array([1.0, -2.0]), "b": np.array([3.0])}, {}
    tensors = [torch.tensor(a, requires_grad=True) for a in values.values()]
    optimizer = torch.optim.SGD(tensors, lr=0.1, momentum=0.5, weight_decay=0.01)
    for number in range(3):
        gradient = {"a": np.array([0.5, number]), "b": np.array([-1.0])}
        for tensor, part in zip(tensors, gradient.values(), strict=True):
            tensor.grad = torch.tensor(part)
        optimizer.step()
        values, velocity = stepped(values, velocity, gradient, settings)
    for tensor, array in zip(tensors, values.values(), strict=True):
        np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=1e-12)
    short = clipped({"a": np.array([3.0]), "b": np.array([4.0])}, 1.0)  # of length 5
    assert (short["a"].item(), short["b"].item()) == pytest.approx((0.6, 0.8))
    assert clipped(gradient, 50.0) is gradient


def test_chunks_that_one_layer_writes_learn_to_differ() -> None:
    """With a bias for all of them, or features that are alike, each step undoes the others': 1.2 is left."""
    settings = _hyper(20, hidden=20, layers=3, momentum=0.0, weight_decay=0.0)
    network, rng = Hypernetwork(settings, {"a": (200,)}, 2), np.random.default_rng(0)
    target = rng.choice([-0.1, 0.1], 200).astype(np.float32)
    weights, z = network.initial(0), rng.normal(size=2).astype(np.float32)
    left = np.square(target).sum()  # 2: nothing is written at first
    for _ in range(60):
        change = {"a": network.written(weights, z)["a"] - target}
        left = np.square(change["a"]).sum()
        weights, _ = stepped(weights, {}, network.gradients(weights, z, change)[0], settings)
    assert left < 0.3


def _features(strategy: Any, client: str) -> np.ndarray:
    layer = strategy.state().part("hypernetwork/")
    return layer["layer.0.weight"] @ strategy._embedding(client) + layer["layer.0.bias"]


@pytest.mark.parametrize("steps", ["sequential", "mean"])
def test_first_round_by_hand(steps: str) -> None:
    """h is 0 at first: what is written moves by -lr (1 + f_j f_k) times the distance that k went.

    In sequence the second distance is from what is written after the first step. What z and the layer before
    do is of the order of the square of these moves.
    """
    strategy = _strategy(
        _config("pfedhn", f"method.steps={steps}", *BLOCKS["mobilenetv3_8"], *LINEAR)
    )
    replies = _replies(strategy, 1, ["0", "1"])
    start = strategy.state().part("model/")
    assert all(start[n].tobytes() == a.tobytes() for n, a in strategy.deployed("3").arrays.items())
    f = {client: _features(strategy, client) for client in ("0", "1", "3")}
    strategy.absorb(1, replies[::-1])
    lr = 0.02
    for name, w in start.items():
        if is_statistic(name):  # both count alike, whatever their images
            mean = (replies[0].arrays[name] + replies[1].arrays[name]) / 2
            np.testing.assert_allclose(strategy.deployed("3").arrays[name], mean, atol=1e-6)
            continue
        first, second = (w - reply.arrays[name] for reply in replies)
        if steps == "sequential":
            second = second - lr * (1 + f["0"] @ f["1"]) * first
        moves = [(f["0"], first), (f["1"], second)]
        share = {"sequential": 1.0, "mean": 0.5}[steps]
        if steps == "sequential":  # the first step goes on by momentum
            moves[0] = (f["0"], 1.9 * first)
        for client in ("0", "3"):
            wanted = w - lr * share * sum((1 + g @ f[client]) * move for g, move in moves)
            found = strategy.deployed(client).arrays[name]
            np.testing.assert_allclose(found - w, wanted - w, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 4])
def test_what_it_writes_is_finite_for_every_embedding_or_it_says_so(chunk: int | None) -> None:
    network = Hypernetwork(_hyper(chunk), {"a.weight": (2, 3), "b": (3,)}, 2)
    rng = np.random.default_rng(0)
    shapes = network.shapes.items()
    weights: Arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes}
    corners = [np.array([x, y], np.float32) for x in (-10, 10) for y in (-10, 10)]
    said = []
    for scale in 10.0 ** np.arange(0, 20, 0.5):  # products of three weights and z, up to 1e58
        larger: Arrays = {n: a * np.float32(scale) for n, a in weights.items()}
        written = [a for z in corners for a in network.written(larger, z).values()]
        said.append((network.bounded(larger, 10.0), all(np.isfinite(a).all() for a in written)))
    assert (False, False) in said
    assert (True, False) not in said
    assert said[:12] == [(True, True)] * 12


def test_a_reply_after_which_models_would_not_be_finite_is_a_failure() -> None:
    """The weights are finite with it; what a model of its client would hold is not."""
    strategy = _strategy(_config("fedtp"))
    strategy.absorb(1, _replies(strategy, 1, ["0", "1"]))
    replies = _replies(strategy, 2, ["0", "1"])
    lie = {n: np.full_like(a, 9.9e17) for n, a in replies[1].arrays.items()}
    used, failed, _ = absorbed(strategy, 2, [replies[0], replace(replies[1], arrays=lie)])
    assert [reply.client for reply in used] == ["0"]
    assert "could write NaN" in failed[0].reason


def test_only_own_steps_move_an_embedding(caplog: pytest.LogCaptureFixture) -> None:
    """One optimiser for all embeddings moves and decays absent clients' (authors' code)."""
    strategy: Any = _strategy(_config("pfedhn"))
    drawn = strategy._embedding("2")
    for round, clients in ((1, ["2", "10"]), (2, ["2", "10"])):
        strategy.absorb(round, _replies(strategy, round, clients))
    kept = strategy.state().part("embedding/")
    assert list(kept) == ["2", "10"]
    assert not np.array_equal(kept["2"], drawn)
    before, never = strategy.deployed("2").arrays, strategy.deployed("7").arrays
    strategy.absorb(3, _replies(strategy, 3, ["10"]))
    after = strategy.state().part("embedding/")
    assert after["2"].tobytes() == kept["2"].tobytes()
    assert after["10"].tobytes() != kept["10"].tobytes()
    # What the hypernetwork writes for them is of today all the same, and nobody's is another's.
    name = next(n for n in before if not is_statistic(n))
    for other in (before, never, strategy.deployed("7").arrays, strategy.deployed("10").arrays):
        assert other[name].tobytes() != strategy.deployed("2").arrays[name].tobytes()
    assert "7" not in strategy.state().part("embedding/")
    with caplog.at_level(logging.INFO):
        strategy.summary()
    assert "entries of every client's model" in caplog.text


def test_private_heads_are_not_written(tmp_path: Path) -> None:
    """pFedHN-PC. A client's own head is neither written nor sent; its body is its own as well."""
    two = ("clients=2", "clients_per_round=2", "rounds=2", *BLOCKS["mobilenetv3_8"])
    directory = run(tmp_path / "run", "method=pfedhn", "private=[head]", *two)
    strategy = _strategy(_config("pfedhn", "private=[head]", *BLOCKS["mobilenetv3_8"]))
    heads = strategy.space.parts["head"]
    assert not [n for n in strategy.state().arrays for head in heads if n.endswith(f".{head}")]
    bodies = []
    for client in ("0", "1"):
        arrays = directory.client_model(client)[1]
        bodies.append(arrays[next(n for n in arrays if n not in heads and not is_statistic(n))])
    assert not np.array_equal(*bodies)


def test_too_little_memory_names_size_and_remedy() -> None:
    network = Hypernetwork(_hyper(None), {"a": (1000, 1000)}, 2)
    network.require_memory("method.hypernetwork", free_mib=100)
    with pytest.raises(RefusedError, match=r"4,000,021 weights .* 92 MiB, and 80 MiB are free"):
        network.require_memory("method.hypernetwork", free_mib=80)
