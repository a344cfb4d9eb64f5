"""Architectures are values; what a space does with them needs no weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.space import SearchSpace
from tests.spaces import from_values

SPACE = SearchSpace(
    name="toy",
    dimensions=(
        Dimension("width", (8, 16, 24)),
        Dimension("fixed", (3,)),
        Dimension("kernel", (3, 5)),
    ),
)


def test_counts_architectures_and_logits() -> None:
    assert SPACE.size == 3 * 1 * 2
    assert SPACE.num_logits == 3 + 1 + 2
    assert len(set(SPACE.enumerate())) == 6


def test_enumerate_refuses_a_large_space() -> None:
    with pytest.raises(ValueError, match="has 6 architectures, more than limit=5"):
        list(SPACE.enumerate(limit=5))


def test_values_round_trip_and_features() -> None:
    architecture = Architecture((1, 0, 1))
    assert SPACE.values(architecture) == {"width": 16, "fixed": 3, "kernel": 5}
    assert from_values(SPACE, SPACE.values(architecture)) == architecture
    assert Architecture.of(architecture.to_list()) == architecture
    np.testing.assert_array_equal(SPACE.features(architecture), [0.5, 1.0])  # index / (count - 1)
    np.testing.assert_array_equal(SPACE.one_hot(architecture), [0, 1, 0, 1, 0, 1])


def test_named_architectures() -> None:
    assert SPACE.named("largest").choices == (2, 0, 1)
    assert SPACE.named("smallest").choices == (0, 0, 0)
    assert SPACE.named("middle").choices == (1, 0, 1)
    assert SPACE.named([2, 0, 0]).choices == (2, 0, 0)
    with pytest.raises(ValueError, match="Did you mean 'largest'"):
        SPACE.named("larges")


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ((0, 0), "has 3 dimensions"),
        ((3, 0, 0), "width=3 is not an index"),
        ((0, 0, -1), "kernel=-1"),
    ],
)
def test_check_names_what_is_wrong(choices: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SPACE.check(Architecture(choices))


@given(seed=st.integers(0, 2**32))
def test_draws_depend_on_the_generator_alone_and_change_nothing(seed: int) -> None:
    first, second = (SPACE.sample(np.random.default_rng(seed)) for _ in range(2))
    assert first == second
    rng = np.random.default_rng(seed)
    mutant = SPACE.check(SPACE.mutate(first, rng, probability=0.5))
    child = SPACE.check(SPACE.cross(first, mutant, rng))
    assert first == second
    assert all(
        c in (a, b) for a, b, c in zip(first.choices, mutant.choices, child.choices, strict=True)
    )
    assert SPACE.mutate(first, rng, probability=0.0) == first


def test_fingerprint_changes_with_a_candidate() -> None:
    other = SearchSpace(
        name="toy", dimensions=(Dimension("width", (8, 16, 32)), *SPACE.dimensions[1:])
    )
    assert other.fingerprint() != SPACE.fingerprint()


def test_dimensions_must_be_distinct() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Dimension("width", (8, 8))
    with pytest.raises(ValueError, match="dimension names must be distinct"):
        SearchSpace(name="x", dimensions=(SPACE.dimensions[0], SPACE.dimensions[0]))
