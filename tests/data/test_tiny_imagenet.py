"""Tiny-ImageNet's published layout, in miniature."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from corolla.data.partition.lda_official import LdaOfficial
from corolla.data.tiny_imagenet import TinyImageNet
from corolla.errors import RefusedError
from tests.data.conftest import write_image

WORDS = """n00000001\tgoldfish, Carassius auratus
n00000002\tcrane
n00000003\tcrane
n00000009\tnot among the classes
"""


def tiny(root: Path | None, **changes: Any) -> TinyImageNet:
    own: dict[str, Any] = {"resolution": 32, "parts": ["train", "val"], "memory_mib": 0}
    return TinyImageNet(root=root, cache_dir="none", cache_gib=1, **(own | changes))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three classes, five training and two validation images each; red is 80 for val, 20 * label added."""
    root = tmp_path / "tiny-imagenet-200"
    ids = ["n00000003", "n00000001", "n00000002"]  # not in order, as published
    rows = []
    for wnid in ids:
        label = int(wnid[-1]) - 1
        for image in range(5):
            path = root / "train" / wnid / "images" / f"{wnid}_{image}.JPEG"
            write_image(path, 20 * label, size=(64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("ignored\t0\t0\t1\t1\n")
        for image in range(2):
            name = f"val_{2 * image + 5 * label}.JPEG"
            write_image(root / "val" / "images" / name, 80 + 20 * label, size=(64, 64))
            rows.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(ids))
    (root / "words.txt").write_text(WORDS)
    write_image(root / "test" / "images" / "test_0.JPEG", 255, size=(64, 64))
    return root


def reds(dataset: TinyImageNet, positions: Any) -> list[int]:
    """Return the images' colour, to the nearest multiple of 20: JPEG does not keep it exactly."""
    pixels = dataset.images(positions).pixels
    return [20 * round(value / 20) for value in pixels[:, 0, 9, 9].tolist()]


def told(dataset: TinyImageNet) -> str:
    (fault,) = dataset.check()
    assert fault.key == "dataset.root"
    assert fault.remedy.startswith(
        "Give Tiny-ImageNet's folder tiny-imagenet-200: wnids.txt, train"
    )
    with pytest.raises(RefusedError):
        dataset.labels()
    return fault.problem


def test_training_images_come_first_then_those_to_test_on(archive: Path) -> None:
    dataset = tiny(archive)
    assert dataset.check(range(21)) == []
    # Validation images in the order of their names: 0, 2; 10, 12; 5, 7 are 0, 10, 12, 2, 5, 7.
    assert dataset.labels().tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [0, 2, 2, 0, 1, 1]
    assert reds(dataset, range(21)) == [
        *[0] * 5, *[20] * 5, *[40] * 5, 80, 120, 120, 80, 100, 100
    ]  # fmt: skip
    assert dataset.train_size() == 15
    assert dataset.sites() is None
    assert dataset.images([0]).pixels.shape == (1, 3, 32, 32)
    assert tiny(archive, resolution=64).images([0, 20]).pixels.shape == (2, 3, 64, 64)
    assert len(dataset.mean) == len(dataset.std) == dataset.channels == 3


def test_images_are_scaled_once_and_kept(archive: Path, tmp_path: Path, monkeypatch: Any) -> None:
    settings: dict[str, Any] = {"resolution": 32, "parts": "train", "cache_gib": 1, "memory_mib": 0}
    kept = {**settings, "cache_dir": str(tmp_path / "cache")}
    first = TinyImageNet(root=archive, **kept).images([3, 8])
    monkeypatch.delattr("corolla.data.image_folder.decode_files")  # may not be needed again
    again = TinyImageNet(root=archive, **kept).images([3, 8])
    assert again.pixels.equal(first.pixels)


def test_one_part_alone(archive: Path) -> None:
    train, val = tiny(archive, parts="train"), tiny(archive, parts=["val"])
    assert (len(train.labels()), train.train_size()) == (15, 15)
    assert (len(val.labels()), val.train_size()) == (6, 0)
    assert len({train.fingerprint(), val.fingerprint(), tiny(archive).fingerprint()}) == 3
    assert tiny(archive, parts=["val", "train"]).fingerprint() == tiny(archive).fingerprint()
    shutil.rmtree(archive / "val")
    assert tiny(archive, parts="train").check() == []
    (fault,) = tiny(archive, parts=["test"]).check()
    assert fault.key == "dataset.parts"
    assert "there is no part 'test'" in fault.problem


def test_classes_are_called_by_their_first_word(archive: Path) -> None:
    names = ("goldfish", "crane (n00000002)", "crane (n00000003)")
    assert tiny(archive).class_names == names
    (archive / "words.txt").write_text("n00000002\tcrane, bird\n")
    assert tiny(archive).class_names == ("n00000001", "crane", "n00000003")
    (archive / "words.txt").unlink()
    assert tiny(archive).class_names == ("n00000001", "n00000002", "n00000003")


def test_it_is_shared_out_by_its_official_parts(archive: Path) -> None:
    rule = LdaOfficial(
        alpha=100.0, validation=0.3, max_draws=100, min_train=1, min_validation=1, min_test=1
    )
    partition = rule.split(tiny(archive), clients=2, seed=0)
    tested = [i for part in partition.clients.values() for i in part.test.tolist()]
    assert sorted(tested) == list(range(15, 21))


def test_it_is_not_there(archive: Path, tmp_path: Path) -> None:
    (fault,) = tiny(None).check()
    assert str(fault).startswith(
        "dataset.root=None: no folder given. Set dataset.root=PATH, Tiny-I"
    )
    assert told(tiny(tmp_path / "gone")) == "folder does not exist"
    assert told(tiny(archive / "words.txt")) == "is not a folder"
    (archive / "wnids.txt").unlink()
    assert told(tiny(archive)) == "wnids.txt cannot be read (No such file or directory)"
    (archive / "wnids.txt").write_text("\n")
    assert told(tiny(archive)) == "wnids.txt names no class"
    (archive / "wnids.txt").write_bytes(b"\xff\xfe")
    assert told(tiny(archive)) == "wnids.txt cannot be read (not a text file)"
    (archive / "wnids.txt").write_text("n00000001 n00000001 n00000002 n00000003")
    assert told(tiny(archive)) == "wnids.txt names twice n00000001"


def test_training_images_half_unpacked(archive: Path) -> None:
    shutil.rmtree(archive / "train" / "n00000002")
    assert told(tiny(archive, parts="train")) == "no images of n00000002"
    write_image(archive / "train" / "n00000007" / "images" / "x.JPEG", 1)
    (fault,) = tiny(archive).check()
    assert "class folder 'n00000007' is unknown. Rename or remove" in str(fault)
    shutil.rmtree(archive / "train")
    assert "no class folders in train/" in told(tiny(archive))


def test_validation_images_half_unpacked(archive: Path) -> None:
    annotations = archive / "val" / "val_annotations.txt"
    rows = annotations.read_text()
    (archive / "val" / "images" / "val_10.JPEG").unlink()
    assert told(tiny(archive)) == "val/images lacks val_10.JPEG"
    annotations.write_text("".join(r for r in rows.splitlines(True) if "val_1" not in r))
    assert told(tiny(archive)) == "not in val/val_annotations.txt, but in val/images: val_12.JPEG"
    annotations.write_text(rows + "val_99.JPEG\tn00000008\t0\t0\t0\t0\n")
    problem = "wnids.txt does not name what is in val/val_annotations.txt: n00000008"
    assert told(tiny(archive)) == problem
    annotations.write_text("val_0.JPEG n00000001\n")
    assert told(tiny(archive)).startswith("val/val_annotations.txt is not a table of file and wnid")
    annotations.unlink()
    assert told(tiny(archive)).startswith("val/val_annotations.txt cannot be read (No such file")
    annotations.write_text(rows)
    shutil.rmtree(archive / "val" / "images")
    assert told(tiny(archive)) == "val/images cannot be read (No such file or directory)"


def test_damaged_images_are_named(archive: Path) -> None:
    (archive / "val" / "images" / "val_0.JPEG").write_bytes(b"damaged")
    (fault,) = tiny(archive).check(range(21))
    assert fault.value == "val/images/val_0.JPEG"
    assert "image cannot be decoded" in fault.problem
