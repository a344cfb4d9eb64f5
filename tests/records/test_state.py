from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from corolla.state import Keeps, State, Stateful
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


class _Inner(Stateful):
    keeps: ClassVar[Keeps] = {"weights": "w/"}

    def __init__(self, value: float) -> None:
        self.weights = {"a": np.full(2, value)}


class _Parent(Stateful):
    keeps: ClassVar[Keeps] = {"model": "model/", "inner": "inner/", "none": "none"}

    def __init__(self, value: float) -> None:
        self.model = {"x": np.full(1, value)}
        self.inner, self.plain, self.none = _Inner(value), _Inner(-value), None
        self.graph, self.told = np.full((1, 1), value), [value]


class _Child(_Parent):
    keeps: ClassVar[Keeps] = {"graph": "graph", "told": "told", "inner": "own/", "plain": ""}


def test_what_a_class_and_its_parents_declare_is_the_state() -> None:
    one, other = _Child(1.0), _Child(2.0)
    state = one.state()
    # The parent's first; an attribute that the child names anew stays in its place.
    assert list(state.arrays) == ["model/x", "own/w/a", "graph", "w/a"]
    assert state.meta == {"own": {}, "told": [1.0]}
    other.load_state(state)
    assert not differences(other.state(), state)
    one.told.append(3.0)
    assert state.meta["told"] == other.told == [1.0]
    with pytest.raises(KeyError, match="told"):
        other.load_state(State(state.arrays, {"own": {}}))
    with pytest.raises(KeyError, match=r"_Child\.none is None and takes no state"):
        other.load_state(State(state.arrays, {**state.meta, "none": 3}))
