from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from corolla.data.client_data import ClientData
from corolla.data.digits import Digits
from corolla.data.node import node_data
from corolla.errors import RefusedError
from tests.data.conftest import MakeFolder, write_image


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for position in range(20):
        write_image(tmp_path / "site" / "ab"[position % 2] / f"{position:03}.png", position)
    return tmp_path / "site"


def read(site: Path, dataset: Any, **changes: Any) -> ClientData:
    settings = {"client": "site-a", "seed": 3, "validation": 0.2, "test": 0.2, "state_dir": None}
    return node_data(site, dataset, **(settings | changes))


def reds(data: ClientData) -> list[list[int]]:
    return [s.pixels[:, 0, 0, 0].tolist() for s in (data.train, data.validation, data.test)]


def test_a_site_reads_its_own_folder_and_nothing_else(
    site: Path, tmp_path: Path, folder: MakeFolder
) -> None:
    elsewhere = folder(tmp_path / "not-there", classes=["b", "c", "a"], mean=0.1)
    data = read(site, elsewhere, state_dir=tmp_path / "state")
    assert data.client == "site-a"
    assert data.class_names == ("b", "c", "a")
    assert data.train.mean == (0.1, 0.1, 0.1)
    assert [len(part) for part in reds(data)] == [12, 4, 4]
    for images in (data.train, data.validation, data.test):
        for red, label in zip(images.pixels[:, 0, 0, 0], images.labels, strict=True):
            assert label == (2 if red % 2 == 0 else 0)  # even ones are "a"
        assert (images.labels == 0).sum() == len(images) // 2
    assert sorted(value for part in reds(data) for value in part) == list(range(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "state"]
    assert len(list((tmp_path / "state" / "decoded").iterdir())) == 1


def test_the_split_depends_on_seed_and_site(site: Path, folder: MakeFolder) -> None:
    dataset = folder(None, classes=["a", "b"])
    first = reds(read(site, dataset))
    assert reds(read(site, dataset)) == first
    assert reds(read(site, dataset, seed=4)) != first
    assert reds(read(site, dataset, client="site-b")) != first


def test_a_later_process_finds_the_decoded_images(
    site: Path, tmp_path: Path, folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = folder(None, classes=["a", "b"])
    first = reds(read(site, dataset, state_dir=tmp_path / "state"))
    monkeypatch.delattr("corolla.data.image_folder.decode_files")
    assert reds(read(site, dataset, state_dir=tmp_path / "state")) == first


def test_any_data_set_can_say_what_the_images_are(tmp_path: Path) -> None:
    for position in range(10):
        write_image(tmp_path / "site" / str(position % 2) / f"{position}.png", 100, (16, 16))
    data = read(tmp_path / "site", Digits())
    assert data.train.pixels.shape == (6, 1, 8, 8)
    assert (data.train.pixels == 30).all()  # 0.299 * 100
    assert data.class_names == tuple("0123456789")


def test_a_site_may_hold_one_class(site: Path, folder: MakeFolder) -> None:
    shutil.rmtree(site / "b")
    assert len(read(site, folder(None, classes=["a", "b"])).train) == 6


def refusal(site: Path, dataset: Any, **changes: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        read(site, dataset, **changes)
    return str(caught.value)


def test_what_a_site_can_get_wrong(site: Path, tmp_path: Path, folder: MakeFolder) -> None:
    known = folder(None, classes=["a", "b"])
    assert refusal(tmp_path / "gone", known).startswith("data-dir=")
    (tmp_path / "empty").mkdir()
    assert "holds no class folders" in refusal(tmp_path / "empty", known)
    assert "class folder 'b' is unknown" in refusal(site, folder(None, classes=["a", "d"]))
    assert "dataset.classes=None: real sites label their images by this list" in (
        refusal(site, folder(site))
    )
    assert read(site, folder(None), class_names=["a", "b"]).class_names == ("a", "b")
    (site / "a" / "000.png").write_text("damaged")
    assert refusal(site, known).startswith("data-dir='a/000.png': image cannot be decoded")
    for position in range(2, 20):
        (site / "ab"[position % 2] / f"{position:03}.png").unlink()
    assert "2 images are too few (2 train, 0 validation, 0 test)" in refusal(site, known)
