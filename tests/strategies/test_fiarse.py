"""FIARSE: which weights a submodel keeps, how they are trained and averaged, and what travels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.fiarse import KEPT, SIZE, VALUES, FIARSEClient
from corolla.aggregation.magnitude import Layout, count_of, largest, masked_mean, packed, unpacked
from corolla.config.build import build_space
from corolla.export import load_client_model
from corolla.records.run_directory import RunDirectory
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Answer, Reply, Task
from corolla.training.importance import Submodel, above_threshold
from corolla.types import Arrays
from strategies.fiarse import FIARSE
from tests.strategies.conftest import run, strategy_of
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.strategies.test_reductions import ONE

OURS = "method=fiarse"
TINY = (ONE, "clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")


def _vector(*values: float) -> Any:
    return np.array(values, np.float32)


# --- which weights --------------------------------------------------------------------------------------


def test_so_many_are_kept_exactly_of_equal_ones_the_first() -> None:
    assert largest(_vector(1, -3, 2, 0, -2), 2).tolist() == [False, True, True, False, False]
    assert largest(_vector(0, 0, 5, 0), 3).tolist() == [True, True, True, False]
    assert largest(_vector(1, 2), 2).all()
    assert [count_of(100, size) for size in (1.0, 0.29, 0.015625)] == [100, 29, 1]
    assert count_of(10, 0.015625) == 1  # public code asks for 0 of a small layer, and fails


@pytest.mark.parametrize("scope", ["model", "layer"])
def test_normalisation_is_whole_and_the_rest_has_its_share(scope: Any) -> None:
    space = build_space(_config("fiarse"))
    architecture = space.middle()
    layout = Layout(space, architecture)
    arrays = space.cut(space.initial_state(1), architecture)
    assert set(layout.rest) == set(space.parts["norm"]) & set(arrays)
    vector = layout.vector(arrays)
    kept = layout.kept(vector, 0.25, scope)
    layers = {name.rpartition(".")[0] for name in layout.places}
    groups = [group.stop - group.start for group in layout.groups(scope)]
    assert sum(groups) == layout.size == len(vector)
    assert len(groups) == (1 if scope == "model" else len(layers))
    assert kept.sum() == sum(count_of(group, 0.25) for group in groups)
    thresholds = layout.thresholds(vector, kept, scope)
    for name, entries in layout.arrays(kept).items():
        assert np.abs(arrays[name][entries]).min(initial=9) >= thresholds[name]
        assert np.abs(arrays[name][~entries]).max(initial=0) <= thresholds[name]
        np.testing.assert_array_equal(layout.arrays(vector)[name], arrays[name])
    np.testing.assert_array_equal(unpacked(packed(kept), layout.size), kept)
    with pytest.raises(ValueError, match="are not the bits of"):
        unpacked(packed(kept), layout.size + 8)


# --- how they are trained -------------------------------------------------------------------------------


def test_gradient_by_hand() -> None:
    """At theta = 1/2: 1 + 2 theta |x| / (|x| + theta)^2 is 1.5, 1 + 1 / 2.25, 1 + 2 / 6.25."""
    weight = torch.tensor([0.5, -1.0, 2.0, 0.4, 3.0], requires_grad=True)
    kept = torch.tensor([True, True, True, True, False])
    used = above_threshold(weight, kept, 0.5)
    assert used.tolist() == [0.5, -1.0, 2.0, 0.0, 0.0]
    used.backward(torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]))
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([1.5, 1 + 1 / 2.25, -1.32, 0, 0])
    weight.grad = None
    above_threshold(weight, kept, 0.0).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1, 1, 0]


def test_what_falls_below_its_threshold_stays_with_the_client_and_is_not_run() -> None:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.3, 0.0]]))
    kept = torch.tensor([[True, True, False]])
    submodel = Submodel(model, {"weight": kept}, {"weight": 0.5})
    assert submodel(torch.ones(1, 3)).item() == 2.0
    assert [name for name, _ in submodel.named_parameters()] == ["model.weight"]
    assert model.weight.tolist()[0] == pytest.approx([2.0, 0.3, 0.0])
    submodel.settle()
    assert model.weight.tolist() == [[2.0, 0.0, 0.0]]


def test_masked_weights_stay_0_with_momentum_and_decay_and_do_not_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Arrays, Arrays, Arrays]] = []
    settle, fit = Submodel.settle, FIARSEClient.fit
    after: list[Arrays] = []

    def spied(self: Submodel) -> None:
        after.append(to_arrays(self.model))
        settle(self)

    def noted(self: FIARSEClient, task: Task, arrays: Arrays) -> Answer:
        answer = fit(self, task, arrays)
        if KEPT in arrays:
            seen.append((arrays, answer.arrays, after[-1]))
        return answer

    monkeypatch.setattr(Submodel, "settle", spied)
    monkeypatch.setattr(FIARSEClient, "fit", noted)
    heavy = ("trainer.momentum=0.9", "trainer.weight_decay=0.1")
    directory = run(tmp_path / "run", OURS, "method.sizes=[0.25,1.0]", *heavy, *TINY)
    space = build_space(_config("fiarse", ONE))
    layout = Layout(space, space.middle())
    assert len(seen) == 2
    for sent, back, trained in seen:
        kept = unpacked(sent[KEPT], layout.size)
        vector = layout.vector(trained)
        assert not vector[~kept].any()
        np.testing.assert_array_equal(vector[kept], back[VALUES])
        assert not np.isclose(back[VALUES], sent[VALUES], atol=1e-7).all()
    # Bytes: a quarter of the weights, normalisation, and a bit per weight on the way down.
    quarter = 4 * (layout.size // 4)
    rest = 4 * sum(int(np.prod(space.shapes(space.middle())[name])) for name in layout.rest)
    whole = 4 * layout.size + rest
    for row in directory.clients():
        down, up = (row["bytes_down"], row["bytes_up"])
        bits = -(-layout.size // 8)
        assert (down, up) == (
            (quarter + rest + bits, quarter + rest) if row[SIZE] < 1 else (whole,) * 2
        )
    for client, entry in directory.summary()["per_client"].items():
        assert (
            entry["submodel_entries"]
            == (quarter if client == "0" else 4 * layout.size) // 4 + rest // 4
        )


# --- how they are averaged ------------------------------------------------------------------------------


def test_mean_over_those_who_keep_an_entry_by_hand() -> None:
    """The third: nobody. The second: (2 * 4 + 1 * 1) / 3. A value that did not move counts, too: the first.

    Public code counts who moved a weight: there the first would be 4.
    """
    old = _vector(1, 1, 5, 1)
    heavy = (np.array([True, True, False, False]), _vector(4, 4), 2.0)
    light = (np.array([True, True, False, True]), _vector(1, 1, 7), 1.0)
    found = masked_mean(old, [heavy, light])
    np.testing.assert_allclose(found, [3, 3, 5, 7], rtol=1e-6)
    np.testing.assert_array_equal(old, _vector(1, 1, 5, 1))


def _constant(strategy: FIARSE, values: dict[str, float]) -> list[Reply]:
    return [
        replace(r, arrays={n: np.full_like(a, values[r.client]) for n, a in r.arrays.items()})
        for r in _replies(strategy, 1, list(values))
    ]


def test_server_by_hand_and_the_rest_stays_as_it_was() -> None:
    strategy = _strategy(_config("fiarse", ONE, "method.sizes=[0.5,0.25]"))
    assert isinstance(strategy, FIARSE)
    layout = strategy._layout
    before = strategy.state().part("model/")
    half, quarter = (layout.kept(layout.vector(before), size, "model") for size in (0.5, 0.25))
    assert (half | ~quarter).all()  # nested
    strategy.absorb(1, _constant(strategy, {"0": 2.0, "1": 4.0, "2": 8.0})[::-1])
    after = strategy.state().part("model/")
    vector = layout.vector(after)
    np.testing.assert_allclose(vector[quarter], (2 + 4 + 8) / 3, rtol=1e-6)
    np.testing.assert_allclose(vector[half & ~quarter], (2 + 8) / 2, rtol=1e-6)
    np.testing.assert_array_equal(vector[~half], layout.vector(before)[~half])
    for name in layout.rest:
        np.testing.assert_allclose(after[name], 14 / 3, rtol=1e-6)


def test_sizes_are_dealt_out_or_drawn_and_all_clients_of_one_get_one_object() -> None:
    fixed = _strategy(_config("fiarse", ONE, "method.sizes=[1.0,0.25,0.25]"))
    orders = fixed.orders(1, ["0", "1", "2", "3"])
    assert [order.task.extra[SIZE] for order in orders] == [1.0, 0.25, 0.25, 1.0]
    assert orders[1].arrays is orders[2].arrays
    assert KEPT not in orders[0].arrays
    drawn = _strategy(_config("fiarse", ONE, "method.assignment=dynamic"))
    sizes = [[o.task.extra[SIZE] for o in drawn.orders(r, ["0", "1"])] for r in range(1, 20)]
    assert {size for pair in sizes for size in pair} == {1.0, 0.25, 0.0625, 0.015625}


def test_sizes_follow_caps_as_if_zeros_cost_nothing() -> None:
    config = _config("fiarse", ONE, "method.assignment=limits")
    space = build_space(config)
    macs = space.costs(space.middle()).macs
    caps = {"0": 1.0 * macs, "1": 0.25 * macs, "2": 0.24 * macs, "3": 1.0}  # of 4: none
    strategy = strategy_of(config, caps=caps)
    orders = strategy.orders(1, ["0", "1", "2", "3", "4"])
    assert [order.task.extra[SIZE] for order in orders] == [1.0, 0.25, 0.0625, 0.015625, 1.0]
    assert strategy.describe("1")["macs"] == round(0.25 * macs)
    assert [strategy.describe(c)["within_limits"] for c in "0123"] == [True, True, True, False]


# --- runs -----------------------------------------------------------------------------------------------


def _nonzero(directory: RunDirectory, client: str, layout: Layout) -> int:
    return int(
        np.count_nonzero(layout.vector(to_arrays(load_client_model(directory.path, client))))
    )


@pytest.mark.parametrize("deploy", ["as_trained", "fine_tuned"])
def test_a_deployed_submodel_has_its_size_whoever_took_part(deploy: str, tmp_path: Path) -> None:
    few = (*TINY, "clients=4", "clients_per_round=1", "rounds=1", "evaluation.fine_tune_epochs=1")
    sizes = "method.sizes=[0.5,0.25,0.125,1.0]"
    directory = run(tmp_path / "run", OURS, *few, sizes, f"evaluation.deploy={deploy}")
    space = build_space(_config("fiarse", ONE))
    layout = Layout(space, space.middle())
    for client, size in (("0", 0.5), ("1", 0.25), ("2", 0.125)):
        assert _nonzero(directory, client, layout) == count_of(layout.size, size)
    scores = directory.summary()["global"]["test_accuracy"]["per_client"]
    assert sorted(scores) == ["0", "1", "2", "3"]
