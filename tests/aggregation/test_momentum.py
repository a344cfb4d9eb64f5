"""Server momentum (FedAvgM), entry by entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corolla.aggregation.coverage import coverage_average, momentum_average
from corolla.aggregation.updates import Update
from corolla.errors import RefusedError
from corolla.types import Arrays


def reply(values: Any, *region: slice, name: str = "w", weight: float = 1.0) -> Update:
    return Update(arrays={name: np.asarray(values)}, regions={name: region}, weight=weight)


def test_two_rounds_by_hand() -> None:
    # d = w - w_i: 1, then 2. v = 1, then 0.5 * 1 + 2 = 2.5. w = 10 - 1 = 9, then 9 - 2.5 = 6.5
    first, velocity = momentum_average({"w": np.array([10.0])}, [reply([9.0])], {}, momentum=0.5)
    np.testing.assert_array_equal(first["w"], [9.0])
    second, velocity = momentum_average(first, [reply([7.0])], velocity, momentum=0.5)
    np.testing.assert_array_equal(velocity["w"], [2.5])
    np.testing.assert_array_equal(second["w"], [6.5])


def test_without_momentum_it_is_the_plain_average_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    old: Arrays = {"w": rng.standard_normal((30, 20)).astype(np.float32)}
    replies = [
        reply(rng.standard_normal((n, 20)).astype(np.float32), slice(n), weight=n)
        for n in (7, 19, 28)
    ]
    plain = coverage_average(old, replies)
    same, velocity = momentum_average(old, replies, {}, momentum=0.0)
    assert same["w"].tobytes() == plain["w"].tobytes()
    assert velocity == {}
    # the first step from rest is the plain one too, since v' = 0 + d; w - (w - w') rounds
    moved, _ = momentum_average(old, replies, {}, momentum=0.9)
    np.testing.assert_allclose(moved["w"], plain["w"], rtol=0, atol=5e-7)


def test_what_nobody_changed_stays_bit_identical_from_rest() -> None:
    rng = np.random.default_rng(0)
    old: Arrays = {"w": rng.standard_normal((30, 20)).astype(np.float32)}
    replies = [reply(old["w"][:n].copy(), slice(n), weight=n) for n in (7, 19, 28)]
    moved, velocity = momentum_average(old, replies, {}, momentum=0.9)
    assert moved["w"].tobytes() == old["w"].tobytes()
    assert not velocity["w"].any()


def test_an_entry_nobody_holds_rests_and_keeps_its_velocity() -> None:
    velocity: Arrays = {"w": np.array([1.0, 4.0]), "other": np.array([5.0])}
    old = {"w": np.array([10.0, 20.0]), "other": np.array([1.0])}
    new, moved = momentum_average(old, [reply([10.0], slice(1))], velocity, momentum=0.5)
    np.testing.assert_array_equal(new["w"], [9.5, 20.0])  # held but unchanged: coasts on 0.5 * 1
    np.testing.assert_array_equal(moved["w"], [0.5, 4.0])
    np.testing.assert_array_equal(new["other"], [1.0])
    np.testing.assert_array_equal(moved["other"], [5.0])
    np.testing.assert_array_equal(velocity["w"], [1.0, 4.0])  # the input was not written to


def test_running_statistics_and_counters_have_no_velocity() -> None:
    old: Arrays = {"bn.running_var": np.array([1.0]), "steps": np.array([1])}
    arrays: Arrays = {"bn.running_var": np.array([0.2]), "steps": np.array([4])}
    replies = [Update(arrays=arrays, regions={"bn.running_var": (), "steps": ()})]
    new, velocity = momentum_average(old, replies, {}, momentum=0.9)
    assert velocity == {}
    np.testing.assert_allclose(new["bn.running_var"], [0.2])
    np.testing.assert_array_equal(new["steps"], [4])


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_refuses_a_momentum_that_grows_without_end(momentum: float) -> None:
    with pytest.raises(RefusedError, match=r"is outside \[0, 1\)"):
        momentum_average({"w": np.zeros(1)}, [], {}, momentum=momentum)


def test_refuses_the_velocity_of_another_supernet() -> None:
    with pytest.raises(RefusedError, match="the supernet has no such array") as refused:
        momentum_average({"w": np.zeros(1)}, [], {"w": np.zeros(2), "x": np.zeros(1)}, momentum=0.5)
    assert len(refused.value.faults) == 2
