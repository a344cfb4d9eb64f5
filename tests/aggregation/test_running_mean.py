"""The running mean of blocks: the plain weighted mean, whichever way an array is cut into strips."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.aggregation import coverage, running_mean
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import Region, cut, region_shape, resolve
from corolla.aggregation.running_mean import Block, fold_blocks
from corolla.aggregation.updates import Update
from tests.aggregation.test_regions import regions

SHAPE = (5, 6, 3)
WAYS = [(0, -1), (10**9, -1), (8192, 8192)]  # strips at any price; never strips; joined with others


@given(
    drawn=st.lists(st.tuples(regions(SHAPE), st.floats(1e-3, 1e6)), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    way=st.sampled_from(WAYS),
)
def test_is_the_weighted_mean_of_those_who_hold_an_entry(
    drawn: list[tuple[Region, float]], seed: int, way: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    old = {name: rng.standard_normal(SHAPE) for name in ("a", "b")}
    updates = []
    sums, weights = {name: np.zeros(SHAPE) for name in old}, np.zeros(SHAPE)
    for number, (region, weight) in enumerate(drawn):
        arrays = {name: rng.standard_normal(region_shape(region, SHAPE)) for name in old}
        updates.append(
            Update(
                arrays=arrays, regions=dict.fromkeys(old, region), weight=weight, client=str(number)
            )
        )
        key = np.ix_(
            *(
                np.arange(n)[list(i) if isinstance(i, tuple) else i]
                for n, i in zip(SHAPE, resolve(region, SHAPE), strict=True)
            )
        )
        weights[key] += weight
        for name in old:
            sums[name][key] += weight * arrays[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_mean, "_CALLS", way[0])
        patch.setattr(coverage, "_SMALL", way[1])
        averaged = coverage_average(old, updates)
        same = coverage_average(
            old,
            [
                Update(arrays=cut(old, u.regions), regions=u.regions, weight=u.weight)
                for u in updates
            ],
        )
    for name in old:
        held = weights > 0
        np.testing.assert_allclose(
            averaged[name][held], (sums[name] / np.maximum(weights, 1e-9))[held]
        )
        assert averaged[name][~held].tobytes() == old[name][~held].tobytes()
        assert same[name].tobytes() == old[name].tobytes()


@pytest.mark.parametrize("calls", [0, 10**9])
@pytest.mark.parametrize("across", [False, True])
def test_two_blocks_by_hand(calls: int, across: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_mean, "_CALLS", calls)
    mean = np.full((3, 4), 9.0, np.float32)
    heavy = Block((slice(0, 2), slice(0, 3)), np.full((2, 3), 2.0, np.float32), 3.0)
    light = Block((slice(0, 1), slice(0, 4)), np.full((1, 4), 6.0, np.float32), 1.0)
    expected = [[3, 3, 3, 6], [2, 2, 2, 9], [9, 9, 9, 9]]  # (3 * 2 + 1 * 6) / 4 = 3
    if across:  # the same, columns for rows
        mean = np.full((4, 3), 9.0, np.float32)
        heavy, light = (Block(b.region[::-1], b.values.T, b.weight) for b in (heavy, light))
    fold_blocks(mean, [heavy, light])
    np.testing.assert_array_equal(mean.T if across else mean, expected)


@pytest.mark.parametrize("light", [1e-3, 1e-12, 1e-300])
@pytest.mark.parametrize("region", [(slice(0, 60),), ()])
def test_a_client_that_weighs_next_to_nothing_leaves_even_the_sign_of_zero(
    light: float, region: Region
) -> None:
    few = np.array([-0.0, 0.0, 1.0, -1e-30, 3.3, -0.0, 5.0], np.float32)
    old = {"w": np.tile(few, 10)}  # long enough for torch's vector instructions
    part = cut(old, {"w": region})
    updates = [
        Update(arrays=part, regions={"w": region}, weight=weight, client=str(number))
        for number, weight in enumerate((16778.0, light, light))
    ]
    assert coverage_average(old, updates)["w"].tobytes() == old["w"].tobytes()
    assert coverage_average(old, updates[1:])["w"].tobytes() == old["w"].tobytes()


def test_hundreds_of_clients_add_no_more_than_rounding() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 300)).astype(np.float32)
    weights = rng.integers(1, 1000, 500)
    updates = [
        Update(arrays={"w": row}, regions={"w": ()}, weight=float(weight), client=str(number))
        for number, (row, weight) in enumerate(zip(values, weights, strict=True))
    ]
    averaged = coverage_average({"w": np.zeros(300, np.float32)}, updates)["w"]
    expected = np.average(values.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(averaged, expected, rtol=0, atol=2e-6)


def test_arrays_that_torch_does_not_take_are_copied_without_a_word() -> None:
    old = {"w": np.zeros((300, 40), np.float32), "b": np.zeros(4, np.float32)}
    replies = []
    for client, rows in enumerate((100, 200)):
        w = np.ones((40, rows), np.float32).T[::-1]  # neither contiguous nor in order
        b = np.full(4, float(client), np.float64)
        w.flags.writeable = b.flags.writeable = False
        regions = {"w": (slice(0, rows),), "b": ()}
        replies.append(Update(arrays={"w": w, "b": b}, regions=regions, client=str(client)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        averaged = coverage_average(old, replies)
    np.testing.assert_array_equal(averaged["b"], 0.5)
    np.testing.assert_array_equal(averaged["w"][:200], 1.0)
    np.testing.assert_array_equal(averaged["w"][200:], 0.0)
