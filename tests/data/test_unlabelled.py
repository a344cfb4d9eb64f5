"""Pictures of the server's own without labels, and other data sets whose labels are dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corolla.config.build import build_server_set
from corolla.config.compose import compose_values
from corolla.config.schema import parse_config
from corolla.data.digits import Digits
from corolla.data.server_set import HeldOut, OtherImages
from corolla.data.unlabelled import UnlabelledImages
from corolla.errors import Fault, RefusedError
from corolla.server_side import ServerSide
from tests.data.conftest import MakeFolder, write_image


def unlabelled(root: Path | str | None, **changes: Any) -> UnlabelledImages:
    own: dict[str, Any] = {"max_images": None, "seed": 0, "cache_dir": "none", "cache_gib": 1}
    return UnlabelledImages(root=root, **(own | changes))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures at three depths (red 1 to 5, in the order of their paths), and what is none."""
    root = tmp_path / "pictures"
    for value, path in enumerate(("a/b/1.png", "a/x.PNG", "b.png", "c/2.bmp", "d.png"), start=1):
        write_image(root / path, value, size=(9, 5))
    write_image(root / ".hidden" / "x.png", 200)
    write_image(root / "a" / ".x.png", 200)
    (root / "a" / "notes.txt").write_text("ignored")
    (root / "a" / "round").symlink_to(root)
    return root


def reds(loaded: Any) -> list[int]:
    return loaded.images.pixels[:, 0, 0, 0].tolist()  # type: ignore[no-any-return]


def text(faults: list[Fault]) -> str:
    return "\n".join(str(fault) for fault in faults)


# --- pictures -----------------------------------------------------------------------------------------------


def test_all_pictures_at_any_depth_with_the_runs_shape(
    pictures: Path, animals: Path, folder: MakeFolder
) -> None:
    dataset = folder(animals, mean=0.1, std=0.2)
    own = unlabelled(pictures)
    assert own.check(dataset, pool=True) == []
    loaded = own.load(dataset)
    assert loaded.images.pixels.shape == (5, 3, 4, 4)
    assert reds(loaded) == [1, 2, 3, 4, 5]
    assert loaded.images.labels.tolist() == [-1] * 5
    assert (loaded.labelled, own.labelled) == (False, False)
    assert (loaded.images.mean, loaded.images.std) == ((0.1,) * 3, (0.2,) * 3)
    assert loaded.class_names == ("cat", "dog")
    assert own.held_out(100, 80).tolist() == []
    gray = own.load(Digits())
    assert gray.images.pixels.shape == (5, 1, 8, 8)


def test_so_many_pictures_are_drawn(pictures: Path, animals: Path, folder: MakeFolder) -> None:
    dataset = folder(animals)
    drawn = {
        tuple(reds(unlabelled(pictures, max_images=3, seed=s).load(dataset))) for s in range(9)
    }
    assert all(len(set(each)) == 3 and list(each) == sorted(each) for each in drawn)
    assert len(drawn) > 3
    assert {value for each in drawn for value in each} == {1, 2, 3, 4, 5}
    again = [reds(unlabelled(pictures, max_images=2, seed=4).load(dataset)) for _ in range(2)]
    assert again[0] == again[1]
    assert set(again[0]) <= set(reds(unlabelled(pictures, max_images=3, seed=4).load(dataset)))
    assert reds(unlabelled(pictures, max_images=6).load(dataset)) == [1, 2, 3, 4, 5]


def test_decoded_pictures_are_kept(pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    cache = str(tmp_path / "cache")
    assert unlabelled(pictures, cache_dir=cache).check(Digits(), pool=True) == []
    monkeypatch.delattr("corolla.data.image_folder.decode_files")  # may not be needed again
    assert len(unlabelled(pictures, cache_dir=cache).load(Digits()).images) == 5


def test_no_pictures(tmp_path: Path) -> None:
    (fault,) = unlabelled(None).check(Digits(), pool=True)
    assert str(fault) == (
        "server_set.root=None: no folder given. Set server_set.root=PATH, a folder of pictures"
    )
    (fault,) = unlabelled(tmp_path / "gone").check(Digits(), pool=False)
    assert str(fault).endswith("gone': folder does not exist. Give a folder of pictures")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "below" / "notes.txt").write_text("no picture")
    (fault,) = unlabelled(tmp_path / "empty").check(Digits(), pool=True)
    assert (fault.key, fault.problem) == ("server_set.root", "holds no pictures")
    assert fault.remedy.startswith("Put images (JPEG, PNG")
    (fault,) = unlabelled(tmp_path / "empty" / "below" / "notes.txt").check(Digits(), pool=True)
    assert fault.problem == "is not a folder"
    with pytest.raises(RefusedError, match="holds no pictures"):
        unlabelled(tmp_path / "empty").load(Digits())
    write_image(tmp_path / "one" / "1.png", 9)
    (fault,) = unlabelled(tmp_path / "one").check(Digits(), pool=True)
    assert (fault.problem, fault.remedy) == ("holds a single picture", "Put 2 or more there")


def test_unreadable_pictures_are_named(pictures: Path) -> None:
    for name in ("b.png", "a/x.PNG"):
        (pictures / name).write_bytes(b"damaged")
    faults = unlabelled(pictures).check(Digits(), pool=True)
    assert [(fault.key, fault.value) for fault in faults] == [
        ("server_set.root", "a/x.PNG"), ("server_set.root", "b.png")
    ]  # fmt: skip
    assert "image cannot be decoded" in faults[0].problem
    assert faults[0].remedy == "Replace the file or move it out of the folder"


def test_the_clients_own_images_are_refused(
    animals: Path, tmp_path: Path, folder: MakeFolder
) -> None:
    dataset = folder(animals)
    (tmp_path / "link").symlink_to(animals / "dog")
    for root, count in ((animals, 5), (tmp_path, 5), (tmp_path / "link", 3)):
        (fault,) = unlabelled(root).check(dataset, pool=True)
        assert fault.key == "server_set.root"
        assert fault.problem.startswith(f"{count} of its pictures are the clients' own, ")
    assert unlabelled(animals).check(dataset, pool=False) == []  # real nodes have their own
    write_image(animals / "spare" / "1.png", 9)
    both = folder(animals, classes=["cat", "dog", "spare"])
    assert "1 of its" in text(unlabelled(animals / "spare").check(both, pool=True))


# --- other data sets ----------------------------------------------------------------------------------------


def letters(root: Path) -> Path:
    for value, name in enumerate("xyz"):
        path = root / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("L", (8, 8), 10 * value).save(path)
    return root


def test_labels_of_another_data_set_are_dropped(tmp_path: Path, folder: MakeFolder) -> None:
    other = folder(letters(tmp_path / "letters"), channels=1, resolution=8)
    (fault,) = OtherImages(dataset=other).check(Digits(), pool=True)
    assert fault.problem.startswith("has the classes x, y, z; the run's images have 0, 1")
    assert "or server_set.labelled=false to methods that read no labels" in fault.remedy
    own = OtherImages(dataset=other, labelled=False)
    assert own.check(Digits(), pool=True) == []
    loaded = own.load(Digits())
    assert reds(loaded) == [0, 10, 20]
    assert loaded.images.labels.tolist() == [-1] * 3
    assert other.images([2]).labels.tolist() == [2]  # the data set itself keeps them
    assert not loaded.labelled
    assert loaded.class_names == Digits.class_names


def test_unlabelled_images_must_have_the_runs_shape_too(animals: Path, folder: MakeFolder) -> None:
    faults = OtherImages(dataset=folder(animals), labelled=False).check(Digits(), pool=True)
    assert [fault.key for fault in faults] == [
        "server_set.dataset.channels", "server_set.dataset.resolution"
    ]  # fmt: skip
    assert "a folder takes server_set.dataset.resolution=8" in faults[1].remedy


def test_labels_stay_where_they_are_wanted() -> None:
    digits = Digits()
    held = HeldOut(images=20, seed=0)
    assert held.labelled
    loaded = held.load(digits)
    assert loaded.labelled
    assert loaded.images.labels.tolist() == digits.labels()[held.held_out(1797)].tolist()


def test_images_held_out_of_the_training_part_alone() -> None:
    held = HeldOut(images=50, seed=3, part="train")
    drawn = held.held_out(1000, 100)
    assert drawn.max() < 100
    assert drawn.tolist() == HeldOut(images=50, seed=3).held_out(100).tolist()
    assert np.array_equal(
        HeldOut(images=50, seed=3).held_out(1000, 100), HeldOut(images=50, seed=3).held_out(1000)
    )
    with pytest.raises(RefusedError, match="'train': the data set has no official training"):
        held.held_out(1000)
    with pytest.raises(
        RefusedError, match="the pool's training part holds 50 images: nothing would be"
    ):
        held.held_out(1000, 50)
    with pytest.raises(RefusedError, match=r"part='tain': is not known. Did you mean 'train'"):
        HeldOut(images=1, seed=0, part="tain")


def test_the_official_training_part_is_what_the_server_reads() -> None:
    class Official(Digits):
        def train_size(self) -> int:  # type: ignore[override]
            return 60

    held, dataset = HeldOut(images=30, seed=1, part="train"), Official()
    assert held.check(dataset, pool=True) == []
    expected = dataset.labels()[held.held_out(1797, 60)].tolist()
    assert held.load(dataset).images.labels.tolist() == expected


# --- in a run's configuration -------------------------------------------------------------------------------


def side(*overrides: str) -> ServerSide:
    config, faults = parse_config(compose_values([*overrides, "seed=7"]))
    assert config is not None, faults
    return ServerSide(config)


def test_the_configuration_builds_it_and_says_that_it_has_no_labels(pictures: Path) -> None:
    own = side("server_set=unlabelled", f"server_set.root={pictures}", "server_set.cache_dir=none")
    assert not own.labelled
    assert own.images.images.pixels.shape == (5, 1, 8, 8)
    assert build_server_set(own._config)._seed == 7  # type: ignore[union-attr]
    with pytest.raises(RefusedError) as caught:
        own.scorer("aggregate")
    assert str(caught.value) == (
        "server_set='corolla.data.unlabelled.UnlabelledImages': the server's images have no labels "
        "to score networks by. Use server_set=held_out, or server_set=dataset with "
        "server_set.labelled=true"
    )


def test_which_server_sets_have_labels() -> None:
    assert side("server_set=held_out").labelled
    assert side("server_set=dataset").labelled  # nothing is read to tell
    assert not side("server_set=dataset", "server_set.labelled=false").labelled
    assert not side("server_set=none").labelled
