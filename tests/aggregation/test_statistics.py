"""BatchNorm's statistics of several clients as those of all their images, by hand."""

from __future__ import annotations

import numpy as np

from corolla.aggregation.statistics import moments_of, statistics_of


def test_statistics_of_all_images_are_those_within_clients_and_between_them() -> None:
    """One image of three is 1 off mean 4, the other two lie 0.5 off mean 1: of all the mean is 2."""
    one, two = (
        {
            "bn.running_mean": np.full(2, mean, np.float32),
            "bn.running_var": np.full(2, var, np.float32),
        }
        for mean, var in ((4, 1), (1, 0.25))
    )
    first, second = moments_of(one), moments_of(two)
    np.testing.assert_allclose(first["bn.running_var"], 17)
    both = statistics_of({name: (first[name] + 2 * second[name]) / 3 for name in first})
    np.testing.assert_allclose(both["bn.running_mean"], 2)
    # Within: (1 + 2 * 0.25) / 3; between: (2^2 + 2 * 1^2) / 3.
    np.testing.assert_allclose(both["bn.running_var"], 2.5)
    assert {array.dtype for array in both.values()} == {np.dtype(np.float32)}
