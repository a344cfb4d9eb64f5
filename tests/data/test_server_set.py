"""What the server keeps of a pool, and what is left of it for the clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.data.digits import Digits
from corolla.data.partition.by_folder import ByFolder
from corolla.data.partition.dirichlet import Dirichlet
from corolla.data.partition.iid import Iid
from corolla.data.partition.partition import Partition
from corolla.data.partition.shards import Shards
from corolla.data.partition.spider_seed9 import SpiderSeed9
from corolla.data.remainder import Remainder
from corolla.data.server_set import HeldOut
from corolla.errors import RefusedError
from tests.data.conftest import FRACTIONS, Labels

RULES: list[Any] = [
    Iid(**FRACTIONS),
    Dirichlet(**FRACTIONS, alpha=1.0, balanced=False, images_per_client=None, max_draws=100),
    Dirichlet(**FRACTIONS, alpha=1.0, balanced=True, images_per_client=40, max_draws=1),
    Shards(**FRACTIONS, shards_per_client=2),
    SpiderSeed9(**FRACTIONS, alpha=1.0, data_seed=9, images=None, min_images=10, max_draws=100),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_rule_gives_a_held_out_image_to_anybody(rule: Any) -> None:
    pool = Labels([0, 1, 2] * 100)
    held = HeldOut(images=60, seed=3).held_out(300)
    partition = rule.split(pool, clients=3, seed=0, held_out=held)
    given_away = np.concatenate([part.all() for part in partition.clients.values()])
    assert not set(given_away) & set(held)
    assert len(set(given_away)) == len(given_away)
    assert partition.fingerprint == pool.fingerprint()
    assert partition.held_out.tolist() == held.tolist()
    counted = partition.label_counts(pool.labels(), 3)
    for client, splits in counted.items():
        assert {s: c.tolist() for s, c in splits.items()} == partition.counts[client]
    whole = rule.split(pool, clients=3, seed=0)
    assert set(np.concatenate([part.all() for part in whole.clients.values()])) & set(held)


def test_positions_left_of_a_pool_by_hand() -> None:
    pool = Labels([0, 1, 2, 0, 1, 2], sites=list("aabbcc"))
    rest = Remainder(pool, [4, 1])
    assert rest.labels().tolist() == [0, 2, 0, 2]
    assert rest.sites() == ["a", "b", "b", "c"]
    assert rest.in_whole([3, 0, 1]).tolist() == [5, 0, 2]
    with pytest.raises(IndexError):
        rest.in_whole([4])
    with pytest.raises(IndexError):
        Remainder(pool, [6])
    digits = Digits()
    part = Remainder(digits, range(10))
    assert part.images([0, 1]).pixels.equal(digits.images([10, 11]).pixels)
    assert (part.train_size(), part.fingerprint() == digits.fingerprint()) == (None, False)

    class Official(Labels):
        def train_size(self) -> int:
            return 4

    assert Remainder(Official([0, 1, 2, 0, 1, 2]), [1, 5]).train_size() == 3


def test_sites_keep_their_clients() -> None:
    pool = Labels([0, 1] * 30, sites=["b"] * 30 + ["a"] * 30)
    partition = ByFolder(**FRACTIONS).split(pool, clients=2, seed=0, held_out=range(20))
    assert partition.sites == {"0": "a", "1": "b"}
    assert sorted(partition.clients["1"].all()) == list(range(20, 30))


@given(pool=st.integers(3, 500), seed=st.integers(0, 2**32), data=st.data())
def test_a_smaller_set_is_part_of_a_larger_one(pool: int, seed: int, data: Any) -> None:
    few, many = sorted(data.draw(st.lists(st.integers(2, pool - 1), min_size=2, max_size=2)))
    small, large = (HeldOut(images=n, seed=seed).held_out(pool).tolist() for n in (few, many))
    assert set(small) <= set(large)
    assert large == sorted(set(large))
    assert len(large) == many
    assert 0 <= large[0] <= large[-1] < pool


def test_every_image_is_as_likely() -> None:
    drawn = np.concatenate([HeldOut(images=5, seed=seed).held_out(20) for seed in range(2000)])
    counts = np.bincount(drawn, minlength=20)
    assert np.abs(counts - 500).max() < 100  # 5 standard deviations of a binomial(2000, 1/4)


def test_a_file_that_gives_the_servers_images_away_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "partition.json"
    Iid(**FRACTIONS).split(Labels([0, 1] * 30), clients=2, seed=0, held_out=[7]).save(path)
    assert Partition.load(path).held_out.tolist() == [7]
    row = Partition.load(path).clients["0"].train[0]
    record = json.loads(path.read_text().replace("[7]", f"[{row}]"))
    del record["crc32"]  # as one who changes it on purpose
    path.write_text(json.dumps(record))
    with pytest.raises(
        RefusedError, match=f"image {row} is in the server's images and in client 0"
    ):
        Partition.load(path)
