"""Robust averages: numbers by hand, what they reduce to, and how far one liar gets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.aggregation.coverage import coverage_average, momentum_average
from corolla.aggregation.hetero import hetero_average
from corolla.aggregation.regions import Region, cut, paste
from corolla.aggregation.robust import Median, NormClip, RobustRule, TrimmedMean
from corolla.aggregation.updates import Update
from corolla.types import Arrays
from tests.aggregation.test_coverage import bits, subnets, supernet, trained, update, weights

MEDIAN = Median(factor=None, min_holders=3)
TRIMMED = TrimmedMean(share=0.2, factor=None, min_holders=3)
CLIPPED = NormClip(factor=2.0, min_holders=3)
RULES = [MEDIAN, TRIMMED, CLIPPED, TrimmedMean(share=0.4, factor=1.5, min_holders=4)]
rules = st.sampled_from(RULES)
drawings = st.lists(st.tuples(subnets(), weights), min_size=1, max_size=4)


def clients(*values: Sequence[float], weights: Sequence[float]) -> list[Update]:
    """Return one update per row; a row of m values holds the first m entries of ``w``."""
    return [
        update(row, slice(len(row)), weight=weight, client=str(number))
        for number, (row, weight) in enumerate(zip(values, weights, strict=True))
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rule", [None, *RULES])
def test_what_nobody_changed_stays_to_the_bit_beside_what_everybody_did(
    rule: RobustRule | None, momentum: float
) -> None:
    """Private parts: replies have the server's own values there, one of them steps far too far elsewhere."""
    own = np.array([-0.0, 0.0, 0.1, -1e-30, 3e7], np.float32)
    old = {"w": np.zeros(4, np.float32), "head": own, "bn.running_var": abs(own)}
    whole = {"head": (slice(5),), "bn.running_var": (slice(5),)}
    replies = [
        Update(
            arrays={"w": np.full(held, step, np.float32), "head": own, "bn.running_var": abs(own)},
            regions={"w": (slice(held),), **whole},
            weight=weight,
            client=str(step),
        )
        for held, step, weight in ((4, 1.0, 3.0), (2, 2.0, 0.7), (4, 90.0, 1e9), (3, 4.0, 1.1))
    ]
    velocity: Arrays = {}
    for _ in range(2):
        found, velocity = momentum_average(
            old, replies, velocity, momentum=momentum, damping=0.25, rule=rule
        )
        assert (found["w"] != 0).all()
        for name in ("head", "bn.running_var"):
            assert found[name].tobytes() == old[name].tobytes()


# --- by hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Entry 0 has five holders: 1, 2, 4, 9, -100 of weights 1, 2, 3, 4, 5; entry 1 three: 6, 3, 5 of
        # weights 2, 3, 4; entry 2 two: 8, 2 of weights 3, 4; entry 3 nobody.
        # k = 1, 1: (1 * 1 + 2 * 2 + 3 * 4) / 6; the middle one, 5; (3 * 8 + 4 * 2) / 7.
        (TRIMMED, [17 / 6, 5.0, 32 / 7, 7.0]),
        # k = floor(0.4 * 5) = 2 and floor(0.4 * 3) = 1.
        (TrimmedMean(share=0.4, factor=None, min_holders=3), [2.0, 5.0, 32 / 7, 7.0]),
        (MEDIAN, [2.0, 5.0, 32 / 7, 7.0]),
        # Three holders are too few: (2 * 6 + 3 * 3 + 4 * 5) / 9.
        (Median(factor=None, min_holders=4), [2.0, 41 / 9, 32 / 7, 7.0]),
    ],
)
def test_extremes_are_counted_off_by_hand(rule: RobustRule, expected: list[float]) -> None:
    old = {"w": np.full(4, 7.0)}
    replies = clients([1], [2, 6], [4, 3, 8], [9, 5, 2], [-100], weights=[1, 2, 3, 4, 5])
    averaged = coverage_average(old, replies, rule=rule)["w"]
    np.testing.assert_allclose(averaged, expected, rtol=1e-14)
    np.testing.assert_array_equal(old["w"], 7.0)


def test_the_middle_two_of_an_even_number_are_weighted() -> None:
    replies = clients([1], [2], [5], [1e9], weights=[1, 2, 1, 1000])
    averaged = coverage_average({"w": np.zeros(1)}, replies, rule=MEDIAN)["w"]
    np.testing.assert_allclose(averaged, 3.0)  # (2 * 2 + 1 * 5) / 3


@pytest.mark.parametrize(
    ("share", "holders", "left_out"),
    [
        (0.2, 3, 1),
        (0.2, 4, 1),
        (0.2, 10, 2),
        (0.29, 100, 29),
        (0.49, 5, 2),
        (0.2, 2, 0),
        (0.2, 0, 0),
    ],
)
def test_how_many_are_left_out(share: float, holders: int, left_out: int) -> None:
    rule = TrimmedMean(share=share, factor=None, min_holders=3)
    assert rule.cut(np.array([holders]))[0] == left_out


def test_long_steps_are_limited_by_hand() -> None:
    # Sent: 10 everywhere. Steps by entry: 1; 3; 100 (whole); 4 (in one entry of two). Lengths: 1, 3, 100, 4.
    old = {"w": np.full(2, 10.0)}
    replies = clients([11, 11], [13, 13], [110, 110], [14], weights=[1, 1, 1, 1])
    # Median (3 + 4) / 2 = 3.5; limit 2 * 3.5 = 7: the third step becomes 7.
    averaged = coverage_average(old, replies, rule=CLIPPED)["w"]
    np.testing.assert_allclose(averaged, [10 + (1 + 3 + 7 + 4) / 4, 10 + (1 + 3 + 7) / 3])
    # The direction stays: a step of (6, 8), length 10 / sqrt(2), to a limit of 2 * 1 is (6, 8) * sqrt(2) / 5.
    turned = clients([11, 11], [9, 11], [16, 18], weights=[1, 1, 1])
    limited = CLIPPED.limited(old, turned)
    scale = math.sqrt(2) / 5
    np.testing.assert_allclose(limited[2].arrays["w"], [10 + 6 * scale, 10 + 8 * scale])
    assert limited[0] is turned[0]
    assert limited[1] is turned[1]
    np.testing.assert_array_equal(turned[2].arrays["w"], [16, 18])  # the input was not written to


def test_statistics_are_limited_apart_from_weights() -> None:
    old: Arrays = {"w": np.zeros(1), "bn.running_var": np.ones(1), "steps": np.array([1])}
    moves = [(1.0, 2.0), (1.0, 2.0), (1.0, 22.0)]  # of the weight; of the variance
    replies = [
        Update(
            arrays={
                "w": np.array([w]),
                "bn.running_var": np.array([1.0 + v]),
                "steps": np.array([9]),
            },
            regions=dict.fromkeys(old, ()),
            client=str(number),
        )
        for number, (w, v) in enumerate(moves)
    ]
    averaged = coverage_average(old, replies, rule=CLIPPED)
    np.testing.assert_array_equal(averaged["w"], 1.0)
    np.testing.assert_allclose(averaged["bn.running_var"], 1 + (2 + 2 + 4) / 3)
    np.testing.assert_array_equal(averaged["steps"], 9)


def test_two_replies_are_not_limited() -> None:
    replies = clients([1.0], [100.0], weights=[1, 1])
    averaged = coverage_average({"w": np.zeros(1)}, replies, rule=CLIPPED)["w"]
    np.testing.assert_array_equal(averaged, 50.5)


def test_counters_take_the_highest_that_is_left_and_never_fall() -> None:
    old = {"steps": np.array([3, 3])}
    replies = [
        Update(arrays={"steps": np.array(values)}, regions={"steps": ()}, client=str(number))
        for number, values in enumerate([[5, 1], [6, 2], [10**9, 2]])
    ]
    np.testing.assert_array_equal(coverage_average(old, replies, rule=MEDIAN)["steps"], [6, 3])
    np.testing.assert_array_equal(coverage_average(old, replies)["steps"], [10**9, 3])


def test_goes_together_with_momentum_damping_and_zeroed_entries() -> None:
    old = {"w": np.full(3, 4.0)}
    replies = clients([1, 0], [2, 0], [1e6, 0], [2], weights=[1, 1, 1, 1])
    # Entry 0: the middle two of 1, 2, 2, 1e6 are 2. Entry 1: 0 by three of four, 4 - 3/4 * 4 = 1.
    new, velocity = hetero_average(
        old, replies, {}, momentum=0.5, uncovered="zero", damping=1.0, rule=MEDIAN
    )
    np.testing.assert_array_equal(new["w"], [2.0, 1.0, 0.0])
    np.testing.assert_array_equal(velocity["w"], [2.0, 3.0, 0.0])


def test_kept_statistics_stay_the_servers() -> None:
    old: Arrays = {"bn.running_var": np.ones(1)}
    reply = Update(arrays={"bn.running_var": np.full(1, 5.0)}, regions={"bn.running_var": ()})
    averaged = coverage_average(old, [reply] * 3, statistics="keep", rule=MEDIAN)
    np.testing.assert_array_equal(averaged["bn.running_var"], 1.0)


def test_half_precision_stays_half_precision() -> None:
    old = {"w": np.ones(2, np.float16)}
    replies = [
        Update(arrays={"w": np.full(2, n, np.float16)}, regions={"w": ()}, client=str(n))
        for n in (1, 2, 60000)
    ]
    averaged = coverage_average(old, replies, rule=MEDIAN)["w"]
    assert averaged.dtype == np.float16
    np.testing.assert_array_equal(averaged, 2.0)


# --- laws -----------------------------------------------------------------------------------------------


@given(st.integers(0, 99), drawings, st.booleans())
def test_rules_that_do_nothing_are_the_plain_average_bit_for_bit(
    seed: int, drawn: list[tuple[dict[str, Region], float]], clip: bool
) -> None:
    old = supernet(seed)
    old["conv"][0, 0, 0] = 0.0
    nothing: RobustRule = TrimmedMean(share=0, factor=None, min_holders=3)
    if clip:
        nothing = NormClip(factor=1e300, min_holders=3)
    replies = trained(old, drawn, seed)
    plain, same = coverage_average(old, replies), coverage_average(old, replies, rule=nothing)
    assert all(bits(plain[name]) == bits(same[name]) for name in old)


@given(st.integers(0, 99), drawings, rules)
def test_without_training_the_supernet_stays_bit_identical(
    seed: int, drawn: list[tuple[dict[str, Region], float]], rule: RobustRule
) -> None:
    old = supernet(seed)
    replies = [Update(arrays=cut(old, r), regions=r, weight=weight) for r, weight in drawn]
    averaged = coverage_average(old, replies, rule=rule)
    assert all((averaged[name] == array).all() for name, array in old.items())
    assert all(averaged[name].dtype == array.dtype for name, array in old.items())
    assert list(averaged) == list(old)


@given(st.integers(0, 99), subnets(), st.lists(weights, min_size=1, max_size=5), rules)
def test_identical_replies_give_the_plain_result(
    seed: int, regions: dict[str, Region], given_weights: list[float], rule: RobustRule
) -> None:
    old = supernet(seed)
    old["conv"][0, 0, 0] = 0.0
    (one,) = trained(old, [(regions, 1.0)], seed)
    replies = [
        replace(one, weight=weight, client=str(number))
        for number, weight in enumerate(given_weights)
    ]
    robust, plain = coverage_average(old, replies, rule=rule), coverage_average(old, replies)
    for name in old:
        np.testing.assert_allclose(robust[name], plain[name], rtol=1e-6)


@given(st.integers(0, 99), drawings, rules)
def test_the_order_of_replies_does_not_matter_and_inputs_stay(
    seed: int, drawn: list[tuple[dict[str, Region], float]], rule: RobustRule
) -> None:
    old = supernet(seed)
    replies = trained(old, drawn, seed)
    mine = [old, *(reply.arrays for reply in replies)]
    before = [{name: bits(array) for name, array in arrays.items()} for arrays in mine]
    first = coverage_average(old, replies, rule=rule)
    for shuffled in itertools.permutations(replies):
        again = coverage_average(old, shuffled, rule=rule)
        assert all(bits(again[name]) == bits(first[name]) for name in old)
    assert before == [{name: bits(array) for name, array in arrays.items()} for arrays in mine]


LIES = {
    "scaled": lambda step: step * 1e6,
    "flipped": lambda step: -step,
    "flipped and scaled": lambda step: -1e6 * step,
    "one huge value": lambda step: step + 1e30,
}


def honest_range(old: Arrays, replies: Sequence[Update], name: str) -> tuple[Any, Any, Any]:
    """Return lowest and highest value of every entry, and how many hold it."""
    empty = {name: np.full(old[name].shape, np.nan)}
    held = [
        paste(empty, {name: r.arrays[name]}, {name: r.regions[name]})[name]
        for r in replies
        if name in r.regions
    ] or [empty[name]]
    count = np.sum([~np.isnan(values) for values in held], axis=0)
    low = np.min([np.where(np.isnan(values), np.inf, values) for values in held], axis=0)
    high = np.max([np.where(np.isnan(values), -np.inf, values) for values in held], axis=0)
    return low, high, count


@given(
    seed=st.integers(0, 99),
    drawn=st.lists(st.tuples(subnets(), weights), min_size=3, max_size=6),
    lie=st.sampled_from(sorted(LIES)),
    rule=st.sampled_from([MEDIAN, TRIMMED, TrimmedMean(share=0.45, factor=None, min_holders=3)]),
)
def test_one_liar_among_three_holders_stays_within_the_honest_ones(
    seed: int, drawn: list[tuple[dict[str, Region], float]], lie: str, rule: RobustRule
) -> None:
    """Whatever it sends, and whatever weight it claims: the drawn weights span nine orders."""
    old = supernet(seed, np.float64)
    old["conv"][0, 0, 0] = 0.0
    *honest, liar = trained(old, drawn, seed)
    sent = cut(old, liar.regions)
    arrays = {name: sent[name] + LIES[lie](a - sent[name]) for name, a in liar.arrays.items()}
    arrays |= {name: a for name, a in liar.arrays.items() if a.dtype.kind != "f"}
    averaged = coverage_average(old, [*honest, replace(liar, arrays=arrays)], rule=rule)
    for name in ("conv", "bn.running_var", "scale"):
        low, high, count = honest_range(old, honest, name)
        safe = count >= 2  # with the liar three; of entries that it does not hold more than enough
        assert (averaged[name] >= low - 1e-9)[safe].all()
        assert (averaged[name] <= high + 1e-9)[safe].all()


@given(seed=st.integers(0, 99), drawn=st.lists(subnets(), min_size=2, max_size=5))
def test_no_limited_step_is_longer_than_twice_the_longest_honest_one(
    seed: int, drawn: list[dict[str, Region]]
) -> None:
    old = {name: np.zeros_like(array) for name, array in supernet(seed, np.float64).items()}
    *honest, liar = trained(old, [(regions, 1.0) for regions in [*drawn, drawn[0]]], seed)
    liar = replace(liar, arrays={name: array * 10**6 for name, array in liar.arrays.items()})

    def length(reply: Update) -> float:
        steps = [a.reshape(-1) for name, a in reply.arrays.items() if name in ("conv", "scale")]
        return float(np.sqrt(np.mean(np.concatenate(steps) ** 2)))

    limit = 2 * max(length(reply) for reply in honest)
    assert length(liar) > 1e4
    limited = CLIPPED.limited(old, [*honest, liar])
    assert all(length(reply) <= limit * (1 + 1e-9) for reply in limited)
    assert length(limited[-1]) > 0


def test_a_step_without_a_length_is_not_taken_at_all() -> None:
    replies = clients([1.0], [1.0], [1e308], weights=[1, 1, 1])
    averaged = coverage_average({"w": np.full(1, -1e308)}, replies, rule=CLIPPED)["w"]
    assert np.isfinite(averaged).all()


@given(st.lists(st.floats(0, 1e3, width=32), min_size=3, max_size=6), rules)
def test_variances_never_become_negative(variances: list[float], rule: RobustRule) -> None:
    old: Arrays = {"bn.running_var": np.full(1, 2.0, np.float32)}
    replies = [
        Update(
            arrays={"bn.running_var": np.full(1, variance, np.float32)},
            regions={"bn.running_var": ()},
            weight=number + 1.0,
            client=str(number),
        )
        for number, variance in enumerate(variances)
    ]
    assert coverage_average(old, replies, rule=rule)["bn.running_var"][0] >= 0


def test_velocity_follows_the_robust_step() -> None:
    replies = clients([9], [9], [-1e9], weights=[1, 1, 1])
    new, velocity = momentum_average(
        {"w": np.array([10.0])}, replies, {"w": np.array([2.0])}, momentum=0.5, rule=MEDIAN
    )
    np.testing.assert_array_equal(velocity["w"], [2.0])  # 0.5 * 2 + (10 - 9)
    np.testing.assert_array_equal(new["w"], [8.0])


def test_logits_are_averaged_by_the_same_rule() -> None:
    said = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [1e9, -1e9]])
    # By hand: (2 * 2 + 1 * 3) / 3; of the second all but -1e9 are 5, one of which is left out too.
    np.testing.assert_allclose(TRIMMED.mean(said, [1, 2, 1, 9]), [7 / 3, 5.0])
    assert TRIMMED.mean(said[:2], [1, 2]) is None
    assert CLIPPED.mean(said, [1, 2, 1, 9]) is None


# --- settings -------------------------------------------------------------------------------------------
