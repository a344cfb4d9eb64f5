"""Paired differences and their intervals, by hand."""

from __future__ import annotations

import math

import pytest

from corolla.analysis.comparing import interval, paired


def test_differences_are_those_of_pairs_and_intervals_are_students() -> None:
    pairs = {
        ("0", "0"): (0.6, 0.5),  # +0.1
        ("0", "1"): (0.6, 0.3),  # +0.3
        ("1", "0"): (0.4, 0.4),  # 0
        ("1", "1"): (0.5, 0.1),  # +0.4
    }
    found = paired(pairs, 0.95)
    # Differences: mean 0.2, squares of what is left 0.01 + 0.01 + 0.04 + 0.04 = 0.1.
    # Over pairs: se sqrt(0.1 / 3 / 4) = 0.0912871, t(3) 3.182446. Both seeds' means are 0.2.
    assert found["difference"] == pytest.approx(0.2)
    assert found["clients_low"] == pytest.approx(0.2 - 3.182446 * 0.0912871, abs=1e-6)
    assert found["clients_high"] == pytest.approx(0.2 + 3.182446 * 0.0912871, abs=1e-6)
    assert (found["seeds_low"], found["seeds_high"]) == pytest.approx((0.2, 0.2))
    assert (found["mean_a"], found["mean_b"]) == pytest.approx((0.525, 0.325))
    assert (found["better"], found["pairs"], found["seeds"]) == (3, 4, 2)


def test_one_value_has_no_interval() -> None:
    assert all(math.isnan(end) for end in interval([0.3], 0.95))


def test_the_interval_of_two_values_is_wide() -> None:
    # 0.1 and 0.3: mean 0.2, se 0.1, t(1) 12.7062.
    assert interval([0.1, 0.3], 0.95) == pytest.approx((0.2 - 1.27062, 0.2 + 1.27062), abs=1e-5)
