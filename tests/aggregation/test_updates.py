"""Which replies can be folded, and what is said of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corolla.aggregation.updates import Update, check_update, update_weight
from corolla.types import Arrays

SUPERNET: Arrays = {"w": np.zeros((4, 3), np.float32), "steps": np.zeros(2, np.int64)}
GOOD: Arrays = {"w": np.ones((2, 3), np.float32), "steps": np.ones(2, np.int64)}
REGIONS = {"w": (slice(2),), "steps": ()}


def faults(weight: float = 1.0, **arrays: Any) -> list[str]:
    update = Update(arrays={**GOOD, **arrays}, regions=REGIONS, weight=weight)
    return [str(fault) for fault in check_update(SUPERNET, update)]


def test_a_whole_reply_has_no_faults() -> None:
    assert faults() == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found_unless_values_are_not_asked_for(bad: float) -> None:
    array = np.ones((2, 3), np.float32)
    array[1, 2] = bad
    assert faults(w=array) == [
        "w='NaN or infinity': the training diverged. "
        "Lower the client's learning rate or clip its gradients"
    ]
    update = Update(arrays={**GOOD, "w": array}, regions=REGIONS)
    assert check_update(SUPERNET, update, values=False) == []


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_must_be_positive_and_finite(weight: float) -> None:
    assert len(faults(weight=weight)) == 1
    assert "cannot be a weight in an average" in faults(weight=weight)[0]


def test_wrong_shapes_kinds_and_names() -> None:
    assert "its region has shape (2, 3)" in faults(w=np.ones((3, 2), np.float32))[0]
    assert "has another number type" in faults(w=np.ones((2, 3), np.int64))[0]
    assert "the supernet has no array of this name" in faults(v=np.ones(1))[0]


def test_missing_and_surplus_arrays_are_all_named() -> None:
    update = Update(arrays={"steps": GOOD["steps"]}, regions={"w": ()})
    problems = [fault.problem for fault in check_update(SUPERNET, update)]
    assert problems == ["is not part of the architecture sent", "is missing in the reply"]


def test_a_region_outside_the_supernet_is_a_fault_not_a_crash() -> None:
    update = Update(arrays={"w": np.ones((5, 3), np.float32)}, regions={"w": (slice(5),)})
    (fault,) = check_update(SUPERNET, update)
    assert fault.key == "w"
    assert "reaches outside" in fault.problem


def test_weights() -> None:
    assert update_weight("uniform", 250) == 1.0
    assert update_weight("examples", 250) == 250.0
