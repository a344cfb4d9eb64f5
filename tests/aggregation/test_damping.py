"""Who does not hold an entry has a say in it, for its old value: numbers by hand, reductions, laws."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.aggregation.coverage import coverage_average, momentum_average
from corolla.aggregation.hetero import hetero_average
from corolla.aggregation.regions import Region, cut
from corolla.aggregation.updates import Update
from corolla.errors import RefusedError
from tests.aggregation.test_coverage import bits, subnets, supernet, trained, update, weights

dampings = st.sampled_from([0.1, 0.5, 1.0])
drawings = st.lists(st.tuples(subnets(), weights), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("damping", "expected"),
    [
        (0.0, [10.0, 10.0, 30.0, 2.0]),  # the holders' means
        # By hand, T = 4: entry 1, W = 2: 2 / (2 + 2d); entry 2, W = 1: 1 / (1 + 3d). From 2 on.
        (0.5, [10.0, 2 + 8 * 2 / 3, 2 + 28 * 2 / 5, 2.0]),
        (1.0, [10.0, 6.0, 9.0, 2.0]),
    ],
)
def test_a_holders_step_by_hand(damping: float, expected: list[float]) -> None:
    old = {"w": np.full(4, 2.0)}
    replies = [
        update([10.0, 10.0], slice(2), weight=2.0, client="0"),
        update([10.0], slice(1), weight=1.0, client="1"),
        update([10.0, 30.0], (0, 2), weight=1.0, client="2"),
    ]
    averaged = coverage_average(old, replies, damping=damping)["w"]
    np.testing.assert_allclose(averaged, expected, rtol=1e-14)
    np.testing.assert_array_equal(old["w"], 2.0)


def test_statistics_are_damped_or_kept_and_counters_are_not() -> None:
    old = {"bn.running_var": np.ones(1), "steps": np.array([3])}
    arrays = {"bn.running_var": np.full(1, 5.0), "steps": np.array([7])}
    holder = Update(arrays=arrays, regions=dict.fromkeys(old, ()), client="0")
    other = Update(arrays={}, regions={}, client="1")
    averaged = coverage_average(old, [holder, other], damping=1.0)
    np.testing.assert_array_equal(averaged["bn.running_var"], 3.0)  # 1 + (5 - 1) / 2
    np.testing.assert_array_equal(averaged["steps"], 7)
    kept = coverage_average(old, [holder, other], damping=1.0, statistics="keep")
    np.testing.assert_array_equal(kept["bn.running_var"], 1.0)


def test_momentum_carries_the_damped_step_on() -> None:
    old = {"w": np.array([10.0])}
    replies = [update([8.0], slice(1), client="0"), Update(arrays={}, regions={}, client="1")]
    new, velocity = momentum_average(
        old, replies, {"w": np.array([4.0])}, momentum=0.5, damping=1.0
    )
    # d = 10 - 9 = 1 (half the step of 2); v = 0.5 * 4 + 1
    np.testing.assert_array_equal(velocity["w"], [3.0])
    np.testing.assert_array_equal(new["w"], [7.0])


def test_entries_that_nobody_holds_still_become_0_where_that_is_the_rule() -> None:
    old = {"w": np.array([4.0, 4.0])}
    replies = [update([8.0], slice(1), client="0"), Update(arrays={}, regions={}, client="1")]
    new, _ = hetero_average(old, replies, {}, momentum=0.0, uncovered="zero", damping=1.0)
    np.testing.assert_array_equal(new["w"], [6.0, 0.0])


@given(st.integers(0, 99), drawings)
def test_at_1_it_is_fedavg_with_clients_that_return_the_rest_as_it_was(
    seed: int, drawn: list[tuple[dict[str, Region], float]]
) -> None:
    old = supernet(seed, np.float64)
    old["conv"][0, 0, 0] = 0.0
    replies = trained(old, drawn, seed)
    whole = []
    for reply in replies:
        arrays = {name: array.copy() for name, array in old.items()}
        for name, region in reply.regions.items():
            held = np.arange(old[name].size).reshape(old[name].shape)
            places = cut({name: held}, {name: region})[name]
            arrays[name].reshape(-1)[places.reshape(-1)] = reply.arrays[name].reshape(-1)
        whole.append(replace(reply, arrays=arrays, regions=dict.fromkeys(old, ())))
    damped, fedavg = coverage_average(old, replies, damping=1.0), coverage_average(old, whole)
    for name in old:
        np.testing.assert_allclose(damped[name], fedavg[name], rtol=1e-9, atol=1e-9)


@given(st.integers(0, 99), st.lists(weights, min_size=1, max_size=4), dampings)
def test_what_everybody_holds_is_not_damped_at_all(
    seed: int, given_weights: list[float], damping: float
) -> None:
    old = supernet(seed)
    everything: dict[str, Region] = dict.fromkeys(old, ())
    replies = trained(old, [(everything, weight) for weight in given_weights], seed)
    plain = coverage_average(old, replies)
    damped = coverage_average(old, replies, damping=damping)
    assert all(bits(damped[name]) == bits(plain[name]) for name in old)


@given(st.integers(0, 99), drawings, dampings)
def test_without_training_nothing_changes_and_order_never_matters(
    seed: int, drawn: list[tuple[dict[str, Region], float]], damping: float
) -> None:
    old = supernet(seed)
    still = [Update(arrays=cut(old, r), regions=r, weight=weight) for r, weight in drawn]
    averaged = coverage_average(old, still, damping=damping)
    assert all(bits(averaged[name]) == bits(array) for name, array in old.items())
    assert all(averaged[name].dtype == array.dtype for name, array in old.items())
    replies = trained(old, drawn, seed)
    before = {name: bits(array) for name, array in old.items()}
    first = coverage_average(old, replies, damping=damping)
    for shuffled in itertools.permutations(replies):
        again = coverage_average(old, shuffled, damping=damping)
        assert all(bits(again[name]) == bits(first[name]) for name in old)
    assert all(bits(old[name]) == bits_ for name, bits_ in before.items())


@given(st.integers(0, 99), drawings, dampings)
def test_variances_never_become_negative(
    seed: int, drawn: list[tuple[dict[str, Region], float]], damping: float
) -> None:
    old = {"bn.running_var": np.random.default_rng(seed).uniform(0, 1e3, 50).astype(np.float32)}
    zeros = [
        Update(
            arrays={"bn.running_var": np.zeros(10 * (n + 1), np.float32)},
            regions={"bn.running_var": (slice(10 * (n + 1)),)},
            weight=weight,
            client=str(n),
        )
        for n, (_, weight) in enumerate(drawn)
    ]
    averaged = coverage_average(old, zeros, damping=damping)["bn.running_var"]
    assert averaged.min() >= 0.0
    assert (averaged <= old["bn.running_var"]).all()


@pytest.mark.parametrize("damping", [-0.1, 1.5, float("nan")])
def test_refuses_what_is_no_share(damping: float) -> None:
    with pytest.raises(RefusedError, match=r"damping=.*is not between 0 and 1"):
        coverage_average({"w": np.zeros(1)}, [], damping=damping)
