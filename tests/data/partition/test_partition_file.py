from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corolla.data.partition import Partition
from corolla.data.partition.by_folder import ByFolder
from corolla.data.partition.file import File
from corolla.data.partition.iid import Iid
from corolla.errors import RefusedError
from tests.data.conftest import FRACTIONS, Labels

POOL = Labels([0, 1, 2] * 20)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "partition.json"
    Iid(**FRACTIONS).split(POOL, clients=3, seed=5).save(path)
    return path


def change(path: Path, **changes: Any) -> Path:
    content = json.loads(path.read_text())
    content.pop("crc32", None)  # as a person does who changes it on purpose
    path.write_text(json.dumps(content | changes))
    return path


def test_a_position_that_flipped_on_the_disk_is_refused(saved: Path) -> None:
    text = saved.read_text()
    digit = text.index('"train": [', text.index('"clients"')) + len('"train": [')
    saved.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    assert "its checksum does not match). Restore it; if you changed it" in refusal(saved)


def test_a_saved_partition_comes_back_whole(saved: Path) -> None:
    drawn = Iid(**FRACTIONS).split(POOL, clients=3, seed=5)
    read = File(path=saved).split(POOL, clients=3, seed=99)
    for name in ("dataset", "fingerprint", "seed", "class_names", "notes", "counts", "sites"):
        assert getattr(read, name) == getattr(drawn, name), name
    assert read.partitioner == drawn.partitioner
    for client, part in drawn.clients.items():
        for split in ("train", "validation", "test"):
            mine = getattr(read.clients[client], split)
            assert mine.tolist() == getattr(part, split).tolist()
            assert mine.dtype == "int64"
    assert [path.name for path in saved.parent.iterdir()] == ["partition.json"]


def test_the_file_has_one_line_per_client(saved: Path) -> None:
    lines = saved.read_text().splitlines()
    assert sum(line.startswith('  "') for line in lines) == 3
    row = json.loads(saved.read_text())["clients"]["0"]
    assert sum(row["label_counts"]["train"]) == len(row["train"]) == 12


def test_sites_are_kept(tmp_path: Path) -> None:
    pool = Labels([0, 1] * 10, sites=["b"] * 10 + ["a"] * 10)
    ByFolder(**FRACTIONS).split(pool, clients=2, seed=0).save(tmp_path / "p.json")
    assert Partition.load(tmp_path / "p.json").sites == {"0": "a", "1": "b"}


def refusal(path: Path | None, clients: int = 3, pool: Labels = POOL) -> str:
    with pytest.raises(RefusedError) as caught:
        File(path=path).split(pool, clients=clients, seed=0)
    return str(caught.value)


def test_another_data_set_is_refused(saved: Path) -> None:
    other = Labels([0, 1, 2] * 21)
    assert "was drawn for another data set (labels, fingerprint labels-60-60; this labels has" in (
        refusal(saved, pool=other)
    )


def test_another_number_of_clients_is_refused(saved: Path) -> None:
    assert refusal(saved, clients=4) == (
        "clients=4: the partition file has 3 clients. Set clients=3"
    )


def test_overlapping_splits_are_refused(saved: Path) -> None:
    rows = json.loads(saved.read_text())["clients"]
    position = rows["2"]["test"][0]
    rows["0"]["train"].append(position)
    problem = f"image {position} is in client 0 train and in client 2 test"
    assert problem in refusal(change(saved, clients=rows))


@pytest.mark.parametrize("position", [60, -1])
def test_positions_outside_the_pool_are_refused(saved: Path, position: int) -> None:
    rows = json.loads(saved.read_text())["clients"]
    rows["1"]["train"].append(position)
    assert "gives client 1 positions outside 0..59" in refusal(change(saved, clients=rows))


def test_an_empty_split_is_refused(saved: Path) -> None:
    rows = json.loads(saved.read_text())["clients"]
    rows["1"]["validation"] = []
    assert "leaves client 1 without data (12 train, 0 validation, 4 test)" in (
        refusal(change(saved, clients=rows))
    )


def test_other_classes_are_refused(saved: Path) -> None:
    assert "names other classes" in refusal(change(saved, class_names=["x", "y", "z"]))


def test_files_that_are_no_partitions(saved: Path, tmp_path: Path) -> None:
    assert "partition.path=None: no file given" in refusal(None)
    assert "cannot be read (No such file" in refusal(tmp_path / "no.json")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text(saved.read_text()[:100])
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    for name in ("list", "half", "binary"):
        assert "is not a partition file" in refusal(tmp_path / f"{name}.json")
    assert "has format 2, not 1" in refusal(change(saved, format=2))
    assert "is damaged" in refusal(change(saved, format=1, clients={"0": {"train": ["x"]}}))
