from __future__ import annotations

import logging
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.over_seeds import MeanSd, compare
from corolla.records.summary import spread


def test_spread_of_four_clients_by_hand() -> None:
    result = spread({"10": 0.9, "2": 0.5, "site": 0.7, "0": 0.3})
    # mean 2.4 / 4; deviations .3 .1 .1 .3, squares .09 .01 .01 .09, their mean .05;
    # a tenth of 4 clients, rounded up, is the single lowest one.
    assert result["mean"] == pytest.approx(0.6)
    assert result["std"] == pytest.approx(math.sqrt(0.05))
    assert result["worst_decile"] == 0.3
    assert list(result["per_client"].items()) == [
        ("0", 0.3),
        ("2", 0.5),
        ("10", 0.9),
        ("site", 0.7),
    ]
    assert "per_client" not in spread({"0": 1.0}, per_client=False)
    assert "weighted_mean" not in result


def test_in_the_weighted_mean_each_client_counts_by_its_images() -> None:
    """Of 1 and 3 images: (0.25 + 3 * 0.75) / 4 = 0.625. Nothing is said where somebody's are not known."""
    values = {"a": 0.25, "b": 0.75}
    assert spread(values, images={"b": 3, "a": 1})["weighted_mean"] == 0.625
    assert "weighted_mean" not in spread(values, images={"b": 3})


@pytest.mark.parametrize(
    ("clients", "worst"),
    # of the values 0, 1, 2 ...: the mean of the lowest 1, 1, 2, 2, 3
    [(1, 0.0), (10, 0.0), (11, 0.5), (20, 0.5), (21, 1.0)],
)
def test_the_worst_decile_rounds_up(clients: int, worst: float) -> None:
    assert spread({str(i): float(i) for i in range(clients)})["worst_decile"] == worst


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_spread_does_not_depend_on_the_order_of_replies(values: list[float], seed: int) -> None:
    pairs = [(str(i), value) for i, value in enumerate(values)]
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    assert spread(dict(pairs)) == spread(dict(shuffled))
    result = spread(dict(pairs))
    assert min(values) <= result["worst_decile"] <= result["mean"] + 1e-12
    assert result["std"] <= 0.5 + 1e-12  # the most that values in [0, 1] can have


def test_sums_are_exact() -> None:
    # Added up one by one, ten times 0.1 is 0.9999999999999999.
    assert spread({str(i): 0.1 for i in range(10)})["mean"] == 0.1


def test_spread_refuses_nothing_and_nan() -> None:
    with pytest.raises(ValueError, match="no clients at all"):
        spread({})
    with pytest.raises(ValueError, match=r"values of \['3'\] are not finite"):
        spread({"1": 0.5, "3": float("nan")})


def summary(method: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "space": "digits",
        "dataset": "digits",
        "seed": seed,
        "rounds": 30,
        "clients": 10,
        "test_accuracy": {"mean": accuracy, "per_client": {"0": accuracy}},
        **more,
    }


def test_runs_are_averaged_over_seeds_by_hand() -> None:
    runs = [
        summary("perfedrlnas", 2, 0.8, costs={"bytes_up": 300}),
        summary("fedavg", 0, 0.5, **{"global": {"test_accuracy": {"mean": 0.4}}}),
        summary("perfedrlnas", 0, 0.6, costs={"bytes_up": 100}, best={"round": 7}),
        summary("perfedrlnas", 1, 0.7),
    ]
    first, second = compare(runs)
    assert first.group == {"method": "perfedrlnas", "space": "digits", "dataset": "digits"}
    assert first.seeds == (0, 1, 2)
    # .6 .7 .8: mean .7, squares of deviations .01 0 .01, over n - 1 = 2: variance .01
    accuracy = first.figures["test_accuracy/mean"]
    assert accuracy.mean == pytest.approx(0.7)
    assert accuracy.sd == pytest.approx(0.1)
    assert accuracy.runs == 3
    # only two runs say it: mean 200, squares 10000 + 10000 over 1
    upload = first.figures["costs/bytes_up"]
    assert (upload.mean, upload.runs) == (200, 2)
    assert upload.sd == pytest.approx(math.sqrt(20_000))
    assert set(first.figures) == {"test_accuracy/mean", "costs/bytes_up"}
    assert second.figures["global/test_accuracy/mean"] == MeanSd(mean=0.4, sd=None, runs=1)


def test_grouping_can_be_widened_and_misses_are_named() -> None:
    runs = [summary("a", 0, 0.5, clients=10), summary("a", 0, 0.7, clients=20)]
    assert [row.seeds for row in compare(runs, by=("method", "clients"))] == [(0,), (0,)]
    with pytest.raises(ValueError, match=r"lacks \['seed'\]; it has \['clients', 'dataset'"):
        compare([{k: v for k, v in runs[0].items() if k != "seed"}])
    assert compare([]) == []


def test_equal_seeds_in_a_group_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compare([summary("a", 0, 0.5), summary("a", 0, 0.7)])
    assert "share seeds (0, 0): they may differ in more than the seed" in caplog.text


def test_percent_text() -> None:
    assert MeanSd(mean=0.6134, sd=0.0078, runs=3).percent() == "61.3 ± 0.8"
    assert MeanSd(mean=0.6134, sd=None, runs=1).percent(2) == "61.34"
