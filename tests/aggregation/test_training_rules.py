"""What the training rules of a supernet make of updates, by hand: beta(t), and samples through operations."""

from __future__ import annotations

import numpy as np
import pytest

from corolla.aggregation.coverage import momentum_average
from corolla.aggregation.largest_weight import largest_weight, weighed
from corolla.aggregation.operation_average import operation_average
from corolla.aggregation.updates import Update


def _update(client: str, weight: float, **values: float) -> Update:
    arrays = {name: np.full(2, value, dtype=np.float32) for name, value in values.items()}
    return Update(
        arrays=arrays, regions={name: (slice(2),) for name in arrays}, weight=weight, client=client
    )


def test_the_weight_of_the_largest_falls_by_a_cosine() -> None:
    """SuperFedNAS: from 0.9 to 1/8 over 80 % of 10 rounds; half-way in between, (0.9 + 0.125) / 2."""
    beta = [largest_weight(t, falling=8, start=0.9, final=0.125) for t in (0, 2, 4, 8, 9)]
    # At t = 2: 0.125 + (0.9 - 0.125) (1 + cos 45 deg) / 2 = 0.125 + 0.775 * 0.853553
    np.testing.assert_allclose(beta, [0.9, 0.786504, 0.5125, 0.125, 0.125], atol=1e-6)


def test_the_largest_weighs_beta_and_the_others_share_the_rest() -> None:
    updates = [_update(str(n), 7.0, a=n) for n in range(3)]
    weights = [update.weight for update in weighed(updates, [True, False, False], 0.6)]
    np.testing.assert_allclose(weights, [0.6, 0.2, 0.2])
    # Nobody is larger than the others: all the same.
    assert {u.weight for u in weighed(updates, [True] * 3, 0.6)} == {1.0}
    # An entry that the largest alone trained is its own; what two others hold is their plain mean.
    wide, *others = weighed(updates, [True, False, False], 0.6)
    server = {"a": np.zeros(2, np.float32), "b": np.full(2, 9, np.float32)}
    wide = _update("0", wide.weight, a=1, b=5)
    (averaged, _) = momentum_average(server, [wide, *others], {}, momentum=0.0)
    np.testing.assert_allclose(averaged["a"], (0.6 * 1 + 0.2 * 1 + 0.2 * 2) / 1.0)
    np.testing.assert_allclose(averaged["b"], 5)


SERVER = {name: np.full(2, 10, dtype=np.float32) for name in ("stem", "conv", "pool", "skip")}


def test_operations_weigh_by_the_samples_that_went_through_them() -> None:
    """FedorAS: client 0 has 100 samples, a quarter through conv; client 1 has 50, all of them through it."""
    updates = [_update("0", 100, stem=1, conv=1, pool=3), _update("1", 50, stem=4, conv=4, pool=5)]
    shares = [{"conv": 0.25, "pool": 0.75}, {"pool": 0.0}]
    averaged, _ = operation_average(SERVER, updates, shares, {}, momentum=0.0)
    np.testing.assert_allclose(averaged["stem"], 2)  # plain FedAvg: (100 * 1 + 50 * 4) / 150
    np.testing.assert_allclose(averaged["conv"], 3)  # (25 * 1 + 50 * 4) / 75
    np.testing.assert_allclose(averaged["pool"], 3)  # nothing of client 1 went through it
    np.testing.assert_allclose(averaged["skip"], 10)  # nobody visited: the server's value
    np.testing.assert_allclose(SERVER["stem"], 10)  # not written to


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_where_everything_sees_every_sample_it_is_the_coverage_average(momentum: float) -> None:
    rng = np.random.default_rng(0)
    updates = [_update("0", 3, stem=rng.normal(), conv=rng.normal()), _update("1", 2, stem=0.3)]
    velocity = {"stem": np.full(2, 0.1, np.float32)} if momentum else {}
    found = operation_average(
        SERVER, updates, [{}, {"stem": 1.0}], velocity, momentum=momentum, damping=0.25
    )
    wanted = momentum_average(SERVER, updates, velocity, momentum=momentum, damping=0.25)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in theirs)
