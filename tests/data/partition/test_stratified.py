from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.data.partition.partition import ClientIndices
from corolla.data.partition.stratified import split_sizes, stratified_split


def split(labels: list[int], validation: float, test: float, seed: int = 0) -> ClientIndices:
    return stratified_split(
        np.arange(100, 100 + len(labels)),
        np.array(labels, np.int64),
        validation=validation,
        test=test,
        rng=np.random.default_rng(seed),
    )


def counts(labels: list[int], positions: np.ndarray) -> list[int]:
    return np.bincount(np.array(labels)[positions - 100], minlength=max(labels) + 1).tolist()


@pytest.mark.parametrize(
    ("images", "fractions", "sizes"),
    [
        (400, (0.125, 0.25), (250, 50, 100)),
        (100, (0.29, 0.57), (14, 29, 57)),  # 0.29 * 100 is 28.999... in floating point
        (10, (0.25, 0.25), (4, 3, 3)),  # 2.5: halves are rounded up
        (3, (0.2, 0.2), (1, 1, 1)),
        (2, (0.2, 0.2), (2, 0, 0)),
        (0, (0.2, 0.2), (0, 0, 0)),
    ],
)
def test_sizes(images: int, fractions: tuple[float, float], sizes: tuple[int, int, int]) -> None:
    assert split_sizes(images, validation=fractions[0], test=fractions[1]) == sizes


def test_every_label_is_shared_out_alike() -> None:
    labels = [0] * 40 + [1] * 20 + [2] * 20
    parts = split(labels, validation=0.2, test=0.3)
    assert counts(labels, parts.test) == [12, 6, 6]
    assert counts(labels, parts.validation) == [8, 4, 4]
    assert counts(labels, parts.train) == [20, 10, 10]


def test_a_single_image_of_a_label_is_trained_on() -> None:
    labels = [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]  # by proportion one of 1..5 would be tested
    for seed in range(20):
        parts = split(labels, validation=0.2, test=0.2, seed=seed)
        assert counts(labels, parts.train) == [1, 1, 1, 1, 1, 1]
    alone = [0, 1, 2, 3, 4]  # impossible here: sizes come first
    assert split(alone, validation=0.2, test=0.2).sizes() == (3, 1, 1)


def test_other_seeds_draw_other_images() -> None:
    labels = [0] * 30
    first, again, other = (split(labels, 0.2, 0.2, seed) for seed in (1, 1, 2))
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()


@settings(max_examples=100)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    validation=st.floats(0.01, 0.5),
    test=st.floats(0.01, 0.49),
    seed=st.integers(0, 99),
)
def test_splits_are_disjoint_whole_and_of_the_announced_sizes(
    labels: list[int], validation: float, test: float, seed: int
) -> None:
    parts = split(labels, validation, test, seed)
    assert parts.sizes() == split_sizes(len(labels), validation=validation, test=test)
    assert sorted(parts.all().tolist()) == list(range(100, 100 + len(labels)))
    for part in (parts.train, parts.validation, parts.test):
        assert part.tolist() == sorted(part.tolist())
