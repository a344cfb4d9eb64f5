from __future__ import annotations

import numpy as np
import pytest

from corolla.state import State
from tests.states import differences


def test_states_of_the_same_bits_are_the_same() -> None:
    one = State({"a": np.array([np.nan, -0.0])}, {"x": [1, {"y": float("nan")}]})
    two = State({"a": np.array([np.nan, -0.0])}, {"x": [1, {"y": float("nan")}]})
    assert not differences(one, two)


@pytest.mark.parametrize(
    ("left", "right", "told"),
    [
        (State({"a": np.zeros(2)}), State({"a": np.array([0.0, 1.0])}), "1 of 2 entries"),
        (State({"a": np.zeros(1)}), State({"a": np.array([-0.0])}), "array 'a'"),
        (State({"a": np.zeros(1)}), State({"a": np.zeros(1, np.float32)}), "float64(1,)"),
        (State({"a": np.zeros(1)}), State({"a": np.zeros(())}), "float64()"),
        (State({"a": np.zeros(1)}), State({"b": np.zeros(1)}), "array names"),
        (State(meta={"n": 1}), State(meta={"n": True}), "meta.n: 1 and True"),
        (State(meta={"n": 1}), State(meta={"n": 1.0}), "meta.n: 1 and 1.0"),
        (State(meta={"n": [1, 2]}), State(meta={"n": [1, 3]}), "meta.n[1]: 2 and 3"),
        (State(meta={"n": [1]}), State(meta={"n": [1, 3]}), "1 and 2 items"),
        (State(meta={"n": 1}), State(meta={"m": 1}), "keys ['n'] and ['m']"),
    ],
)
def test_a_difference_is_named(left: State, right: State, told: str) -> None:
    (line,) = differences(left, right)
    assert told in line
    assert differences(left, right)


def test_the_order_of_arrays_counts() -> None:
    a, b = np.zeros(1), np.ones(1)
    assert differences(State({"a": a, "b": b}), State({"b": b, "a": a}))


def test_part_takes_the_prefix_off() -> None:
    state = State({"model/w": np.zeros(1), "optimizer/w": np.ones(1)})
    assert list(state.part("model/")) == ["w"]
    assert state.part("model/")["w"] is state.arrays["model/w"]
