from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corolla.data.digits import Digits
from corolla.data.federation import FederationData
from corolla.data.partition import Partition
from corolla.data.partition.iid import Iid
from corolla.errors import RefusedError
from tests.data.conftest import FRACTIONS, MakeFolder, write_image


def divide(dataset: Any, clients: int) -> Partition:
    return Iid(**FRACTIONS).split(dataset, clients=clients, seed=1)


def test_a_client_gets_the_images_of_its_positions() -> None:
    digits = Digits()
    partition = divide(digits, 10)
    data = FederationData(digits, partition)
    assert data.clients == tuple("0123456789")
    client = data.client("3")
    for split in ("train", "validation", "test"):
        images = getattr(client, split)
        direct = digits.images(getattr(partition.clients["3"], split))
        assert images.labels.tolist() == direct.labels.tolist()
        assert images.pixels.equal(direct.pixels)
    assert client.client == "3"
    assert client.class_names == tuple("0123456789")
    assert (client.train.mean, client.test.std) == (digits.mean, digits.std)
    assert client.bytes_ == len(partition.clients["3"].all()) * (64 + 8)
    assert data.check() == []


def test_memory_is_bounded() -> None:
    digits = Digits()
    partition = divide(digits, 10)  # a client takes 180 * 72 = 12,960 bytes
    data = FederationData(digits, partition, memory_mib=26_000 / 2**20)
    first = data.client("0")
    assert data.client("0") is first
    data.client("1")
    data.client("2")
    assert data.client("0") is not first


def test_an_unknown_client_is_refused() -> None:
    digits = Digits()
    with pytest.raises(RefusedError, match="client='10': the partition has no such client"):
        FederationData(digits, divide(digits, 10)).client("10")


def many(root: Path, number: int) -> Path:
    for position in range(number):
        write_image(root / "ab"[position % 2] / f"{position:03}.png", position)
    return root


def test_another_copy_of_the_data_is_refused(tmp_path: Path, folder: MakeFolder) -> None:
    dataset = folder(many(tmp_path / "set", 20))
    partition = divide(dataset, 2)
    write_image(tmp_path / "set" / "a" / "new.png", 1)
    other = FederationData(folder(tmp_path / "set"), partition)
    with pytest.raises(RefusedError, match="but the partition was drawn for"):
        other.client("0")
    assert "Use the same files on every machine" in str(other.check()[0])


def test_check_decodes_everything_once_for_all_later_processes(
    tmp_path: Path, folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = folder(many(tmp_path / "set", 20))
    partition = divide(dataset, 2)
    assert FederationData(dataset, partition).check() == []
    monkeypatch.delattr("corolla.data.image_folder.decode_files")  # may not be needed again
    later = FederationData(folder(tmp_path / "set"), partition)
    reds = [
        value
        for client in later.clients
        for split in (later.client(client).train, later.client(client).validation)
        for value in split.pixels[:, 0, 0, 0].tolist()
    ]
    assert len(reds) == len(set(reds)) == 16


def test_unreadable_images_of_all_clients_are_listed_together(
    tmp_path: Path, folder: MakeFolder
) -> None:
    many(tmp_path / "set", 60)
    for position in range(30):
        (tmp_path / "set" / "ab"[position % 2] / f"{position:03}.png").write_text("damaged")
    dataset = folder(tmp_path / "set")
    faults = FederationData(dataset, divide(dataset, 3)).check()
    assert len(faults) == 21
    assert len({fault.value for fault in faults[:20]}) == 20
    assert str(faults[20]).startswith("dataset.root=10: as many more images cannot be decoded")


def test_check_stops_at_a_wrong_folder(tmp_path: Path, folder: MakeFolder) -> None:
    dataset = folder(many(tmp_path / "set", 20))
    partition = divide(dataset, 2)
    assert "does not exist" in str(FederationData(folder(tmp_path / "gone"), partition).check()[0])
