from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.data.partition import Partition
from corolla.data.partition.by_folder import ByFolder
from corolla.data.partition.dirichlet import Dirichlet
from corolla.data.partition.iid import Iid
from corolla.data.partition.shards import Shards
from corolla.errors import RefusedError
from tests.data.conftest import FRACTIONS, Labels

TEN_CLASSES = Labels(np.arange(1000) % 10)


def iid(**changes: Any) -> Iid:
    return Iid(**(FRACTIONS | changes))


def shards(**changes: Any) -> Shards:
    return Shards(**(FRACTIONS | {"shards_per_client": 2} | changes))


def dirichlet(**changes: Any) -> Dirichlet:
    own = {"alpha": 0.3, "balanced": False, "images_per_client": None, "max_draws": 100}
    return Dirichlet(**(FRACTIONS | own | changes))


def balanced(**changes: Any) -> Dirichlet:
    return dirichlet(balanced=True, **changes)


RULES = [iid, shards, dirichlet, balanced]


def owned(partition: Partition) -> list[int]:
    return sorted(i for part in partition.clients.values() for i in part.all().tolist())


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15)
@given(clients=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_images_are_given_once_and_the_seed_decides(
    rule: Callable[..., Any], clients: int, seed: int
) -> None:
    partition = rule().split(TEN_CLASSES, clients=clients, seed=seed)
    assert list(partition.clients) == [str(client) for client in range(clients)]
    positions = owned(partition)
    assert len(positions) == len(set(positions))
    if rule is not balanced:  # which gives 1000 // clients to each
        assert positions == list(range(1000))
    again = rule().split(TEN_CLASSES, clients=clients, seed=seed)
    for client, part in partition.clients.items():
        assert part.all().tolist() == again.clients[client].all().tolist()
    other = rule().split(TEN_CLASSES, clients=clients, seed=seed + 1)
    assert partition.clients["0"].test.tolist() != other.clients["0"].test.tolist()
    assert partition.shared_images() is None


@pytest.mark.parametrize("rule", RULES)
def test_counts_say_what_each_split_holds(rule: Callable[..., Any]) -> None:
    partition = rule().split(TEN_CLASSES, clients=4, seed=0)
    computed = partition.label_counts(TEN_CLASSES.labels(), 10)
    for client, part in partition.clients.items():
        for split in ("train", "validation", "test"):
            by_hand = [int((getattr(part, split) % 10 == label).sum()) for label in range(10)]
            assert computed[client][split].tolist() == by_hand
            assert partition.counts[client][split] == by_hand


def test_iid_sizes_differ_by_at_most_one() -> None:
    partition = iid().split(Labels([0, 1] * 51), clients=4, seed=0)  # 102 = 26 + 26 + 25 + 25
    assert [len(part.all()) for part in partition.clients.values()] == [26, 26, 25, 25]


def test_shards_leave_few_labels_per_client() -> None:
    # 1000 images, 10 clients, 2 shards each: 20 shards of 50, each within one label of 100.
    partition = shards().split(TEN_CLASSES, clients=10, seed=3)
    for part in partition.clients.values():
        assert len(part.all()) == 100
        assert len(set((part.all() % 10).tolist())) <= 2
    with pytest.raises(RefusedError, match="2020 shards for 1010 clients, but only 1020 images"):
        shards().split(Labels([0, 1] * 510), clients=1010, seed=0)


def test_small_alpha_means_few_labels_and_large_alpha_nearly_iid() -> None:
    def largest_share(alpha: float) -> float:
        rule = balanced(alpha=alpha, images_per_client=20)
        counts = rule.split(TEN_CLASSES, clients=10, seed=0).counts
        return float(np.mean([max(c["train"]) / sum(c["train"]) for c in counts.values()]))

    assert largest_share(0.01) > 0.9
    assert largest_share(1000.0) < 0.2


def test_the_small_cifar_benchmark_is_exact() -> None:
    pool = Labels(np.arange(60_000) % 10)
    rule = balanced(images_per_client=400, validation=0.125, test=0.25)
    for seed in range(3):
        partition = rule.split(pool, clients=20, seed=seed)
        assert {part.sizes() for part in partition.clients.values()} == {(250, 50, 100)}
        assert partition.notes == ()
        # Each split has the client's own label distribution, to one image.
        for counts in partition.counts.values():
            whole = np.sum([counts[split] for split in counts], axis=0)
            for split, share in (("validation", 0.125), ("test", 0.25)):
                assert (np.abs(np.array(counts[split]) - whole * share) <= 1).all()


def test_balanced_uses_the_whole_pool_and_says_when_labels_ran_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        partition = balanced().split(TEN_CLASSES, clients=10, seed=0)
    assert owned(partition) == list(range(1000))
    assert {len(part.all()) for part in partition.clients.values()} == {100}
    (note,) = partition.notes
    assert note.startswith("labels ran short")
    assert note in caplog.text


def test_labels_that_are_nowhere_are_given_to_nobody() -> None:
    gap = Labels([0] * 50 + [3] * 50)
    for rule in RULES:
        partition = rule().split(gap, clients=2, seed=0)
        for counts in partition.counts.values():
            assert counts["train"][1:3] == [0, 0]
    few = balanced(images_per_client=10).split(gap, clients=2, seed=0)
    assert few.notes == ()  # nor is their share of the draws lost


def test_draws_are_repeated_until_every_client_has_enough() -> None:
    one = dirichlet(alpha=0.05, max_draws=1)
    many = dirichlet(alpha=0.05, max_draws=1000)
    refused = 0
    for seed in range(10):
        try:
            one.split(TEN_CLASSES, clients=8, seed=seed)
        except RefusedError:
            refused += 1
        many.split(TEN_CLASSES, clients=8, seed=seed)
    assert refused > 0


def test_clients_left_short_are_named_with_counts_and_a_remedy() -> None:
    with pytest.raises(RefusedError) as caught:
        iid().split(Labels([0, 1, 0, 1, 0, 1, 0, 1]), clients=3, seed=0)
    assert str(caught.value) == (  # 8 = 3 + 3 + 2
        "partition='iid': too few images for client 2 (2 train, 0 validation, 0 test); "
        "need 1 train, 1 validation, 1 test. "
        "Ask for fewer clients, or other fractions or min_* in partition"
    )
    with pytest.raises(RefusedError, match=r"larger partition\.alpha") as caught:
        dirichlet(alpha=1e-3, max_draws=3).split(TEN_CLASSES, clients=60, seed=0)
    assert "more; need" in str(caught.value)
    with pytest.raises(RefusedError, match="need 1 train, 30 validation, 1 test"):
        iid(min_validation=30).split(TEN_CLASSES, clients=10, seed=0)


def test_more_clients_than_images() -> None:
    for rule in RULES:
        with pytest.raises(RefusedError, match=r"clients=9: more clients than images \(8\)"):
            rule().split(Labels([0, 1] * 4), clients=9, seed=0)
        with pytest.raises(RefusedError, match="clients=0: must be 1 or more"):
            rule().split(TEN_CLASSES, clients=0, seed=0)


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(RefusedError, match="images_per_client=5: is for clients of equal sizes"):
        dirichlet(images_per_client=5)
    with pytest.raises(RefusedError, match=r"\{'validation': 0.5, 'test': 0.5\}: leave nothing"):
        iid(validation=0.5, test=0.5)


def test_more_images_per_client_than_there_are() -> None:
    with pytest.raises(RefusedError, match="10 clients need 1010 images, but there are 1000"):
        balanced(images_per_client=101).split(TEN_CLASSES, clients=10, seed=0)


def test_by_folder_makes_each_site_a_client() -> None:
    rule = ByFolder(**FRACTIONS)
    sites = Labels([0, 1] * 10, sites=["lyon"] * 12 + ["bern"] * 8)
    partition = rule.split(sites, clients=2, seed=0)
    assert partition.sites == {"0": "bern", "1": "lyon"}
    assert sorted(partition.clients["0"].all().tolist()) == list(range(12, 20))
    other = rule.split(sites, clients=2, seed=1)
    assert other.clients["1"].train.tolist() != partition.clients["1"].train.tolist()
    with pytest.raises(RefusedError, match=r"has 2 sites: bern, lyon. Set clients=2"):
        rule.split(sites, clients=3, seed=0)
    with pytest.raises(RefusedError, match=r"'labels' has no sites. Use dataset=imagefolder"):
        rule.split(TEN_CLASSES, clients=2, seed=0)


def test_settings_are_recorded(tmp_path: Path) -> None:
    partition = balanced(images_per_client=40).split(TEN_CLASSES, clients=2, seed=7)
    assert partition.seed == 7
    assert partition.partitioner["name"] == "dirichlet"
    assert partition.partitioner["images_per_client"] == 40
    assert partition.partitioner["validation"] == 0.2
