from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.data.partition import Partition
from corolla.data.partition.spider_seed9 import SpiderSeed9
from corolla.errors import RefusedError
from tests.data.conftest import FRACTIONS, Labels

CIFAR10 = Labels(np.repeat(np.arange(10), 5000))
# Images of each client by class, as the published code shares out CIFAR-10's training images
PUBLISHED = [
    [1261, 0, 680, 0, 1, 68, 374, 146, 0, 1421],
    [56, 1, 0, 1, 44, 875, 3084, 78, 644, 0],
    [110, 2155, 32, 15, 699, 17, 1538, 543, 2149, 0],
    [1480, 0, 156, 27, 2542, 2914, 0, 0, 0, 0],
    [925, 12, 2, 756, 1157, 270, 1, 0, 212, 3554],
    [2, 2500, 7, 22, 556, 496, 0, 299, 54, 25],
    [129, 14, 4122, 798, 0, 1, 1, 507, 1941, 0],
    [1037, 318, 1, 3381, 1, 359, 2, 3427, 0, 0],
]


def spider(**changes: Any) -> SpiderSeed9:
    own = {"alpha": 0.2, "data_seed": 9, "images": None, "min_images": 10, "max_draws": 1000}
    return SpiderSeed9(**(FRACTIONS | own | changes))


def sizes(partition: Partition) -> list[int]:
    return [len(part.all()) for part in partition.clients.values()]


def table(partition: Partition) -> list[list[int]]:
    """Return images per client and label, all splits together."""
    return [np.sum(list(counts.values()), axis=0).tolist() for counts in partition.counts.values()]


def splits(partition: Partition) -> list[list[int]]:
    parts = partition.clients.values()
    return [each.tolist() for part in parts for each in (part.train, part.validation, part.test)]


def test_cifar10_is_shared_out_as_published() -> None:
    partition = spider().split(CIFAR10, clients=8, seed=0)
    assert sizes(partition) == [3951, 4783, 7258, 7119, 6889, 3961, 7513, 8526]
    assert table(partition) == PUBLISHED
    assert sorted(i for part in splits(partition) for i in part) == list(range(50_000))
    # 20 % of 3951 are 790.2, of 4783 956.6
    assert partition.clients["0"].sizes() == (2371, 790, 790)
    assert partition.clients["1"].sizes() == (2869, 957, 957)


@pytest.mark.parametrize("order", [None, 1])
def test_cifar100_is_shared_out_as_published_whatever_the_order(order: int | None) -> None:
    labels = np.repeat(np.arange(100), 500)
    if order is not None:  # as in the files, where labels are mixed
        labels = np.random.default_rng(order).permutation(labels)
    partition = spider().split(Labels(labels), clients=8, seed=0)
    assert sizes(partition) == [6609, 6566, 6324, 6694, 6250, 5425, 5824, 6308]


def test_the_order_of_the_images_changes_no_count() -> None:
    mixed = Labels(np.random.default_rng(0).permutation(CIFAR10.labels()))
    assert table(spider().split(mixed, clients=8, seed=0)) == PUBLISHED


def test_the_data_seed_alone_decides() -> None:
    pool = Labels(np.arange(600) % 6)
    first = spider().split(pool, clients=4, seed=0)
    assert splits(spider().split(pool, clients=4, seed=5)) == splits(first)
    assert splits(spider(data_seed=10).split(pool, clients=4, seed=0)) != splits(first)
    assert first.seed == first.partitioner["data_seed"] == 9


def test_nothing_is_drawn_from_the_global_generator() -> None:
    pool = Labels(np.arange(600) % 6)
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    first = spider().split(pool, clients=4, seed=0)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]
    np.random.seed(2)
    assert splits(spider().split(pool, clients=4, seed=0)) == splits(first)


@settings(max_examples=30)
@given(
    labels=st.lists(st.integers(0, 4), min_size=200, max_size=400),
    clients=st.integers(1, 6),
    data_seed=st.integers(0, 2**32 - 1),
)
def test_any_pool_is_given_away_once(labels: list[int], clients: int, data_seed: int) -> None:
    partition = spider(data_seed=data_seed).split(Labels(labels), clients=clients, seed=0)
    assert sorted(i for part in splits(partition) for i in part) == list(range(len(labels)))
    assert min(sizes(partition)) >= 10


def test_splits_are_drawn_from_all_of_a_clients_images() -> None:
    pool = Labels(np.arange(100) % 2)
    partition = spider().split(pool, clients=1, seed=0)
    assert partition.clients["0"].sizes() == (60, 20, 20)
    shares = []
    for data_seed in range(40):
        part = spider(data_seed=data_seed).split(pool, clients=1, seed=0).clients["0"]
        shares.append(
            [float((each % 2).mean()) for each in (part.train, part.validation, part.test)]
        )
    # Shuffled, so each split holds half of label 1; not by label, so not exactly half
    assert np.mean(shares, axis=0).tolist() == pytest.approx([0.5] * 3, abs=0.05)
    assert (np.std(shares, axis=0) > 0.01).all()
    thirds = spider(validation=0.1, test=0.3).split(pool, clients=1, seed=0)
    assert thirds.clients["0"].sizes() == (60, 10, 30)


def test_a_subset_keeps_the_labels_proportions() -> None:
    pool = Labels([0] * 600 + [1] * 300 + [2] * 100)
    partition = spider(images=200).split(pool, clients=3, seed=0)
    given_away = [i for part in splits(partition) for i in part]
    assert len(set(given_away)) == len(given_away) == 200
    assert np.bincount(pool.labels()[given_away]).tolist() == [120, 60, 20]
    again = spider(images=200).split(pool, clients=3, seed=1)
    assert splits(again) == splits(partition)
    # Another pool of those class sizes is shared out alike
    small = Labels([0] * 120 + [1] * 60 + [2] * 20)
    assert table(spider().split(small, clients=3, seed=0)) == table(partition)


def test_the_whole_is_drawn_again_until_every_client_has_enough() -> None:
    pool = Labels(np.arange(300) % 5)
    refused = []
    for data_seed in range(10):
        try:
            spider(data_seed=data_seed, max_draws=1).split(pool, clients=6, seed=0)
        except RefusedError as error:
            refused.append(str(error))
        again = spider(data_seed=data_seed).split(pool, clients=6, seed=0)
        assert min(sizes(again)) >= 10
    assert refused
    expected = "no draw of 1 gave every client 10 images; too few in the last: client "
    assert all(expected in text for text in refused)


def test_a_client_without_a_split_is_refused_by_name() -> None:
    with pytest.raises(RefusedError) as caught:
        spider(min_images=2, validation=0.01).split(Labels([0, 1] * 8), clients=1, seed=0)
    assert str(caught.value) == (  # 16 * 0.01 = 0.16, 16 * 0.2 = 3.2
        "partition='spider_seed9': too few images for client 0 (13 train, 0 validation, 3 test); "
        "need 1 train, 1 validation, 1 test. Ask for fewer clients, a larger partition.alpha or "
        "partition.min_images, or other fractions or min_* in partition"
    )


def test_a_pool_that_is_too_small() -> None:
    pool = Labels([0, 1] * 20)
    with pytest.raises(RefusedError, match="min_images=10: 5 clients need 50 images, of 40"):
        spider().split(pool, clients=5, seed=0)
    with pytest.raises(RefusedError, match=r"partition\.images=41: the pool holds 40"):
        spider(images=41).split(pool, clients=2, seed=0)


def test_shares_that_all_fall_to_full_clients_are_drawn_again() -> None:
    # With so small an alpha nearly all 20 images of a label are drawn for one client, often a full one
    pool = Labels(np.arange(120) % 6)
    for data_seed in range(10):
        partition = spider(alpha=1e-3, data_seed=data_seed).split(pool, clients=3, seed=0)
        assert max(sizes(partition)) <= 39 + 20  # nobody who holds 40 gets more
