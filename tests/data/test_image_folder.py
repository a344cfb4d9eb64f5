from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from corolla.data import image_folder
from corolla.errors import RefusedError
from tests.data.conftest import MakeFolder, write_image


def reds(images: image_folder.Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def texts(faults: list[image_folder.Fault]) -> str:
    return "\n".join(str(fault) for fault in faults)


def test_labels_and_pixels_follow_the_class_folders(animals: Path, folder: MakeFolder) -> None:
    dataset = folder(animals)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels().tolist() == [0, 0, 1, 1, 1]
    assert dataset.sites() is None
    assert dataset.train_size() is None
    images = dataset.images([4, 0, 2])
    assert reds(images) == [50, 10, 30]
    assert images.labels.tolist() == [1, 0, 1]
    assert images.pixels.shape == (3, 3, 4, 4)
    assert dataset.mean == (0.5, 0.5, 0.5)
    assert dataset.check([0, 1, 2, 3, 4]) == []
    assert len(dataset.images([])) == 0


def test_labels_need_no_decoding(animals: Path, folder: MakeFolder) -> None:
    (animals / "dog" / "1.png").write_text("damaged")
    dataset = folder(animals)
    assert len(dataset.labels()) == 5
    assert dataset.check() == dataset.check([]) == []
    assert reds(dataset.images([0, 4])) == [10, 50]


def test_unreadable_images_are_named_when_they_are_asked_for(
    animals: Path, folder: MakeFolder
) -> None:
    (animals / "dog" / "1.png").write_text("damaged")
    dataset = folder(animals)
    faults = dataset.check(range(5))
    assert [(fault.key, fault.value) for fault in faults] == [("dataset.root", "dog/1.png")]
    assert "image cannot be decoded (cannot identify image file '1.png')" in str(faults[0])
    with pytest.raises(RefusedError, match=r"dog/1\.png"):
        dataset.images([3])


def test_class_order_can_be_given_and_unknown_folders_are_refused_by_name(
    animals: Path, folder: MakeFolder
) -> None:
    dataset = folder(animals, classes=["dog", "horse", "cat"])
    assert dataset.labels().tolist() == [2, 2, 0, 0, 0]
    assert dataset.check() == []  # no horse is fine
    faults = folder(animals, classes=["dog", "cats"]).check()
    assert texts(faults).endswith(
        "class folder 'cat' is unknown. Rename the folder, or list it in dataset.classes. "
        "Did you mean 'cats'? Known: cats, dog"
    )


def test_train_and_test_are_pooled_training_images_first(
    tmp_path: Path, folder: MakeFolder
) -> None:
    for part, value in (("test", 3), ("train", 1), ("val", 2)):
        for name in ("a", "b"):
            write_image(tmp_path / "set" / part / name / "x.png", value)
    dataset = folder(tmp_path / "set")
    assert dataset.class_names == ("a", "b")
    assert reds(dataset.images(range(6))) == [1, 1, 2, 2, 3, 3]
    assert dataset.train_size() == 2
    (tmp_path / "set" / "test" / "c").mkdir()
    write_image(tmp_path / "set" / "test" / "c" / "x.png", 1)
    assert "class folder 'c' is missing in train/" in texts(folder(tmp_path / "set").check())


def test_train_may_be_the_name_of_a_class(tmp_path: Path, folder: MakeFolder) -> None:
    for name in ("train", "test"):
        write_image(tmp_path / "set" / name / "x.png", 1)
    assert folder(tmp_path / "set").class_names == ("test", "train")


def test_tiny_imagenet_has_a_folder_between(tmp_path: Path, folder: MakeFolder) -> None:
    for name in ("n01", "n02"):
        write_image(tmp_path / "set" / name / "images" / "x.JPEG", 1)
        (tmp_path / "set" / name / "boxes.txt").write_text("ignored")
    write_image(tmp_path / "set" / ".hidden" / "x.png", 1)
    assert folder(tmp_path / "set").labels().tolist() == [0, 1]


def test_sites(tmp_path: Path, folder: MakeFolder) -> None:
    for site, name in (("lyon", "b"), ("bern", "b"), ("bern", "a")):
        write_image(tmp_path / "set" / site / name / "x.png", 1)
    dataset = folder(tmp_path / "set", sites=True)
    assert dataset.sites() == ["bern", "bern", "lyon"]
    assert dataset.labels().tolist() == [0, 1, 1]
    assert "set dataset.sites=true" in texts(folder(tmp_path / "set").check())
    (tmp_path / "set" / "oslo" / "a").mkdir(parents=True)
    assert "site 'oslo' holds no images" in texts(folder(tmp_path / "set", sites=True).check())


def test_folders_that_cannot_be_used(tmp_path: Path, animals: Path, folder: MakeFolder) -> None:
    missing = folder(tmp_path / "no").check()
    assert texts(missing).endswith("folder does not exist. Give a folder of class folders")
    assert missing[0].key == "dataset.root"
    assert "is not a folder" in texts(folder(animals / "cat" / "0.png").check())
    (tmp_path / "empty").mkdir()
    assert "holds no class folders. Arrange as root/<class>/" in texts(
        folder(tmp_path / "empty").check()
    )
    shutil.rmtree(animals / "dog")
    assert "only one class, 'cat'" in texts(folder(animals).check())
    (animals / "dog").mkdir()
    assert "class folder 'dog' holds no images" in texts(folder(animals).check())
    assert "no folder given. Set dataset.root=PATH" in texts(folder(None).check())
    with pytest.raises(RefusedError, match="no folder given"):
        folder(None).labels()


def test_wrong_settings_are_told_all_at_once(animals: Path, folder: MakeFolder) -> None:
    faults = folder(
        animals,
        channels=2,
        resolution=0,
        mean=[0.1, 0.2, 0.3],
        std=0,
        classes=["cat", "dog", "cat"],
    ).check()
    assert [fault.key.removeprefix("dataset.") for fault in faults] == [
        "channels",
        "resolution",
        "mean",
        "std",
        "classes",
    ]


def test_positions_outside_the_pool_are_refused(animals: Path, folder: MakeFolder) -> None:
    for bad in ([5], [-1]):
        with pytest.raises(IndexError, match="of a pool of 5 images"):
            folder(animals).images(bad)


def test_decoded_images_come_from_the_cache_until_a_file_changes(
    animals: Path, folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    real = image_folder.decode_files

    def counting(paths: list[str], **settings: int) -> object:
        decoded.append(len(paths))
        return real(paths, **settings)

    monkeypatch.setattr(image_folder, "decode_files", counting)
    assert reds(folder(animals).images([1, 3])) == [20, 40]
    assert reds(folder(animals).images([1, 3])) == [20, 40]
    assert decoded == [2]
    assert reds(folder(animals).images([3, 1])) == [40, 20]  # another order is another block
    folder(animals, resolution=2).images([1, 3])
    folder(animals, channels=1).images([1, 3])
    assert reds(folder(animals).images([1, 3])) == [20, 40]
    folder(animals, resolution=2).images([1, 3])
    assert decoded == [2, 2, 2, 2]
    before = (animals / "dog" / "1.png").stat()
    write_image(animals / "dog" / "1.png", 77)
    os.utime(animals / "dog" / "1.png", ns=(0, before.st_mtime_ns + 1))
    assert reds(folder(animals).images([1, 3])) == [20, 77]
    assert reds(folder(animals, cache_dir="none").images([1, 3])) == [20, 77]
    assert decoded == [2] * 6
    in_memory = folder(animals, cache_dir="none", memory_mib=1)
    assert in_memory.images([0]) is in_memory.images([0])


def test_the_fingerprint_is_that_of_a_copy_elsewhere(
    animals: Path, tmp_path: Path, folder: MakeFolder
) -> None:
    mine = folder(animals).fingerprint()
    shutil.copytree(animals, tmp_path / "copy", copy_function=shutil.copyfile)
    assert folder(tmp_path / "copy", resolution=8).fingerprint() == mine
    (tmp_path / "copy" / "cat" / "0.png").rename(tmp_path / "copy" / "cat" / "9.png")
    assert folder(tmp_path / "copy").fingerprint() != mine
    assert folder(animals, classes=["dog", "cat"]).fingerprint() != mine


def test_labels_are_int64(animals: Path, folder: MakeFolder) -> None:
    assert folder(animals).labels().dtype == np.int64
