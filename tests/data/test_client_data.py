"""A client's splits, and the training on validation images once nothing is chosen on them any more."""

from __future__ import annotations

import torch

from corolla.data.client_data import ClientData
from corolla.data.images import Images


def images(first: int, count: int) -> Images:
    """Return images of one pixel whose values and labels count on from ``first``."""
    values = torch.arange(first, first + count)
    return Images(values.to(torch.uint8).view(-1, 1, 1, 1), values, (0.5,), (0.25,))


def client(train: int = 3, validation: int = 2, test: int = 4) -> ClientData:
    return ClientData(
        client="7",
        train=images(0, train),
        validation=images(100, validation),
        test=images(200, test),
        class_names=("a", "b"),
    )


def test_validation_images_are_trained_on_after_the_others() -> None:
    data = client()
    merged = data.train_on_validation()
    assert merged.train.labels.tolist() == [0, 1, 2, 100, 101]
    assert merged.train.pixels.flatten().tolist() == [0, 1, 2, 100, 101]
    # They stay where they were: a method may report on them, and the test split is never touched.
    assert merged.validation is data.validation
    assert merged.test is data.test
    assert (merged.client, merged.class_names) == ("7", ("a", "b"))
    assert (merged.train.mean, merged.train.std) == ((0.5,), (0.25,))


def test_the_data_it_came_from_stays_as_it_was() -> None:
    data = client()
    merged = data.train_on_validation()
    assert data.train.labels.tolist() == [0, 1, 2]
    merged.train.pixels.zero_()
    assert data.train.pixels.flatten().tolist() == [0, 1, 2]
    assert data.validation.pixels.flatten().tolist() == [100, 101]


def test_a_client_without_validation_images_trains_on_what_it_has() -> None:
    assert client(validation=0).train_on_validation().train.labels.tolist() == [0, 1, 2]


def test_bytes_of_all_splits() -> None:
    data = client()  # one byte of pixel and eight of label each
    assert data.bytes_ == 9 * 9
    assert data.train_on_validation().bytes_ == 9 * 11
