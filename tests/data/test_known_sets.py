from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets

from corolla.data.cifar10 import Cifar10
from corolla.data.cifar100 import Cifar100
from corolla.data.digits import Digits
from corolla.data.fashion_mnist import FashionMnist
from corolla.data.torchvision_pool import TorchvisionPool

SETS = [Cifar10, Cifar100, FashionMnist]


def dump(path: Path, content: dict[str, Any]) -> tuple[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path.name, hashlib.md5(path.read_bytes()).hexdigest()


def plane(red: int) -> np.ndarray:
    """Return one CIFAR row: 1024 red, 1024 green, 1024 blue values; row 5, column 7 differs."""
    values = np.repeat(np.array([red, 1, 2], np.uint8), 1024)
    values[5 * 32 + 7] += 1
    return values


def test_digits_are_spread_over_0_to_255() -> None:
    digits = Digits()
    assert len(digits.labels()) == 1797
    images = digits.images([0, 1796])
    assert images.pixels.shape == (2, 1, 8, 8)
    assert images.labels.tolist() == [0, 8]
    # The first row of the first digit is 0 0 5 13 9 1 0 0 of 16; 5 * 255 / 16 = 79.7
    assert images.pixels[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    everything = digits.images(range(1797)).pixels.double() / 255
    assert everything.mean().item() == pytest.approx(digits.mean[0], abs=1e-4)
    assert everything.std().item() == pytest.approx(digits.std[0], abs=1e-4)
    assert digits.check() == []
    assert digits.fingerprint() == Digits().fingerprint()


def test_cifar10_pools_training_then_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "cifar-10-batches-py"
    train = [
        dump(base / f"data_batch_{n}", {"data": np.stack([plane(10 * n)] * 2), "labels": [n, 0]})
        for n in (1, 2)
    ]
    test = [dump(base / "test_batch", {"data": plane(99)[np.newaxis], "labels": [9]})]
    meta = dump(base / "batches.meta", {"label_names": list(Cifar10.class_names)})
    loader = torchvision.datasets.CIFAR10
    monkeypatch.setattr(loader, "train_list", train)
    monkeypatch.setattr(loader, "test_list", test)
    monkeypatch.setattr(loader, "meta", {**loader.meta, "filename": meta[0], "md5": meta[1]})
    dataset = Cifar10(root=tmp_path, download=False)
    assert dataset.check() == []
    assert dataset.labels().tolist() == [1, 0, 2, 0, 9]
    assert dataset.train_size() == 4
    images = dataset.images([4, 0])
    assert images.pixels.shape == (2, 3, 32, 32)
    assert images.pixels[:, :, 5, 7].tolist() == [[100, 1, 2], [11, 1, 2]]
    assert images.pixels[:, 0, 7, 5].tolist() == [99, 10]
    (base / "test_batch").write_bytes(b"damaged")
    faults = Cifar10(root=tmp_path, download=False).check()
    assert "cifar10 is not there or damaged (Dataset not found or corrupted" in str(faults[0])


def test_cifar100_takes_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "cifar-100-python"
    rows = {"data": np.stack([plane(1), plane(2)]), "fine_labels": [99, 3], "coarse_labels": [0, 0]}
    train, test = dump(base / "train", rows), dump(base / "test", rows)
    meta = dump(base / "meta", {"fine_label_names": list(Cifar100.class_names)})
    loader = torchvision.datasets.CIFAR100
    monkeypatch.setattr(loader, "train_list", [train])
    monkeypatch.setattr(loader, "test_list", [test])
    monkeypatch.setattr(loader, "meta", {**loader.meta, "md5": meta[1]})
    dataset = Cifar100(root=tmp_path, download=False)
    assert dataset.labels().tolist() == [99, 3, 99, 3]
    assert dataset.class_names[99] == "worm"
    assert len(dataset.class_names) == 100
    assert list(dataset.class_names) == sorted(dataset.class_names)


def test_fashion_mnist_reads_idx_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, labels in (("train", [9, 0, 1]), ("t10k", [2])):
        number = len(labels)
        sizes = np.array([number, 28, 28], ">i4").tobytes()
        pixels = np.arange(number, dtype=np.uint8).repeat(28 * 28).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + pixels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + bytes(labels))
    dataset = FashionMnist(root=tmp_path, download=False)
    assert dataset.labels().tolist() == [9, 0, 1, 2]
    images = dataset.images([2, 3])
    assert images.pixels.shape == (2, 1, 28, 28)
    assert images.pixels[:, 0, 27, 27].tolist() == [2, 0]
    assert dataset.class_names[9] == "Ankle boot"
    (raw / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"still packed"))
    assert "fashion_mnist is not there or damaged" in str(
        FashionMnist(root=tmp_path, download=False).check()[0]
    )


@pytest.mark.parametrize("kind", SETS)
def test_missing_files_name_the_root_and_the_download(
    kind: type[TorchvisionPool], tmp_path: Path
) -> None:
    (fault,) = kind(root=tmp_path, download=False).check()
    assert fault.key == "dataset.root"
    assert fault.value == str(tmp_path)
    assert fault.remedy == f"Put {kind.files} there, or set dataset.download=true"
    (fault,) = kind(root=None, download=True).check()
    assert str(fault).startswith("dataset.root=None: no folder given. Put ")


def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    (fault,) = Cifar10(root=tmp_path, download=True).check()
    assert "could not be downloaded or read (network is unreachable)" in str(fault)


@pytest.mark.parametrize("kind", SETS)
def test_constants_fit_the_channels(kind: type[TorchvisionPool]) -> None:
    assert len(kind.mean) == len(kind.std) == kind.channels
    assert all(0 < value < 1 for value in (*kind.mean, *kind.std))
