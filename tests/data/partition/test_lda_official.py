"""Official test images stay test images, and every client's are like its training images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from corolla.data.partition import Partition
from corolla.data.partition.file import File
from corolla.data.partition.lda_official import LdaOfficial, _alike
from corolla.data.server_set import FEWEST, HeldOut
from corolla.errors import RefusedError
from tests.data.conftest import Labels


class Official(Labels):
    """Labels of which the first are the training part."""

    def __init__(self, train: NDArray[np.int64] | list[int], test: Any) -> None:
        super().__init__([*train, *test])
        self._size: int | None = len(train)

    def train_size(self) -> int | None:
        return self._size


def rule(**changes: Any) -> LdaOfficial:
    own: dict[str, Any] = {"alpha": 0.5, "validation": 1 / 9, "max_draws": 100}
    least = {"min_train": 1, "min_validation": 1, "min_test": 1}
    return LdaOfficial(**(own | least | changes))


POOL = Official(np.arange(5000) % 10, np.arange(1000) % 10)  # CIFAR-10, a tenth of it


@settings(max_examples=15)
@given(
    clients=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    held=st.just(0) | st.integers(FEWEST, 500),
)
def test_parts_stay_apart_and_all_images_are_given_once(clients: int, seed: int, held: int) -> None:
    kept = HeldOut(images=held, seed=seed, part="train").held_out(6000, 5000) if held else ()
    partition = rule().split(POOL, clients=clients, seed=seed, held_out=kept)
    learned = np.concatenate(
        [np.r_[part.train, part.validation] for part in partition.clients.values()]
    )
    tested = np.concatenate([part.test for part in partition.clients.values()])
    assert sorted(learned) == sorted(set(range(5000)) - set(kept))
    assert sorted(tested) == list(range(5000, 6000))
    assert min(min(part.sizes()) for part in partition.clients.values()) >= 1
    again = rule().split(POOL, clients=clients, seed=seed, held_out=kept)
    for client, part in partition.clients.items():
        assert part.all().tolist() == again.clients[client].all().tolist()
    other = rule().split(POOL, clients=clients, seed=seed + 1, held_out=kept)
    train = partition.clients["0"].train.tolist()
    assert train != other.clients["0"].train.tolist()
    assert partition.held_out.tolist() == list(kept)


def test_every_split_has_the_clients_label_proportions() -> None:
    kept = HeldOut(images=500, seed=0, part="train").held_out(6000, 5000)
    partition = rule().split(POOL, clients=8, seed=0, held_out=kept)
    labels = POOL.labels()
    there = np.bincount(np.delete(labels[:5000], kept), minlength=10)
    for part in partition.clients.values():
        learned = np.bincount(labels[np.r_[part.train, part.validation]], minlength=10)
        # Of each label's 100 test images the share that the client has of its training images.
        tested = np.bincount(labels[part.test], minlength=10)
        assert (np.abs(tested - learned / there * 100) < 1).all()
        assert not (tested[learned == 0]).any()
        validation = np.bincount(labels[part.validation], minlength=10)
        assert (np.abs(validation - learned / 9) <= 1).all()
        assert len(part.validation) == round(learned.sum() / 9)
    sizes = [len(part.train) for part in partition.clients.values()]
    assert max(sizes) > 1.5 * min(sizes)  # Dir(0.5): they differ in size as well
    assert partition.partitioner["name"] == "lda_official"
    assert partition.partitioner["alpha"] == 0.5


def test_shares_of_test_images_by_hand() -> None:
    held = np.array([[30, 0, 1], [10, 5, 1], [0, 5, 1]])
    shared = _alike(held, np.array([8, 3, 2]), np.random.default_rng(0))
    # 3/4 and 1/4 of 8; halves of 3, who gets the odd one is drawn; 2 for three.
    assert shared[:, 0].tolist() == [6, 2, 0]
    assert shared[0, 1] == 0
    assert sorted(shared[1:, 1]) == [1, 2]
    assert sorted(shared[:, 2]) == [0, 1, 1]


def test_labels_that_cannot_be_learned_are_not_tested(caplog: pytest.LogCaptureFixture) -> None:
    pool = Official([0, 1] * 50, [0, 1, 2, 2, 3] * 4)
    with caplog.at_level(logging.WARNING):
        partition = rule().split(pool, clients=2, seed=0)
    tested = np.concatenate([part.test for part in partition.clients.values()])
    assert set(pool.labels()[tested]) == {0, 1}
    assert partition.notes == ("nobody is tested on c2, c3: there are no training images",)
    assert partition.notes[0] in caplog.text


def refused(pool: Any, match: str, *, clients: int = 2, held: Any = (), **changes: Any) -> None:
    with pytest.raises(RefusedError, match=match):
        rule(**changes).split(pool, clients=clients, seed=0, held_out=held)


def test_a_data_set_without_both_parts() -> None:
    one = Official([0, 1] * 50, [1])
    one._size = None
    refused(one, r"partition='lda_official': data set 'labels' has no official training and test")
    one._size = 101
    refused(one, r"has no official test part. Use one that has, with all parts in dataset.parts")
    one._size = 0
    refused(one, r"the pool of 'labels' has no training part")


def test_test_images_are_never_the_servers() -> None:
    anywhere = HeldOut(images=600, seed=0).held_out(6000)
    count = int((anywhere >= 5000).sum())
    assert 50 < count < 150
    match = rf"{count} of the 600 images held out for the server are test images. Set server_set.p"
    refused(POOL, match, held=anywhere)


def test_clients_left_short_are_named() -> None:
    refused(POOL, "clients=5001: more clients than training images", clients=5001)
    refused(POOL, "clients=0: must be 1 or more", clients=0)
    match = (
        r"no draw of 3 gave every client 1 train, 1 validation and 900 test images; too few in the "
        r"last: client 0 \(\d+ train, \d+ validation, \d+ test\), 1 \(.*larger partition.alpha"
    )
    refused(POOL, match, min_test=900, max_draws=3)


def test_the_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "partition.json"
    kept = HeldOut(images=50, seed=0, part="train").held_out(6000, 5000)
    drawn = rule().split(POOL, clients=3, seed=0, held_out=kept)
    drawn.save(path)
    read = File(path=path).split(POOL, clients=3, seed=9, held_out=kept)
    for client, part in drawn.clients.items():
        assert part.test.tolist() == read.clients[client].test.tolist()
    assert Partition.load(path).counts == drawn.counts
