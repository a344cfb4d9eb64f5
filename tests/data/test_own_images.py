"""What people's own images are like: damaged files, files in odd places, a table instead of folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corolla.cli import main
from corolla.data.folder_listing import list_images
from corolla.errors import RefusedError
from corolla.records.run_directory import RunDirectory
from tests.data.conftest import MakeFolder, write_image
from tests.strategies.conftest import SMALL


def test_damaged_images_can_be_skipped_and_are_named(animals: Path, folder: MakeFolder) -> None:
    whole = folder(animals)
    (animals / "dog" / "1.png").write_bytes((animals / "dog" / "1.png").read_bytes()[:40])
    with pytest.raises(RefusedError, match=r"dog/1.png.*on_error=skip"):
        folder(animals).images(range(5))
    for _ in range(2):  # the second time from the list that the first one kept
        ours = folder(animals, on_error="skip")
        assert ours.labels().tolist() == [0, 0, 1, 1]
        assert ours.images(range(4)).pixels[:, 0, 0, 0].tolist() == [10, 20, 30, 50]
        (note,) = ours.notes()
        assert note.startswith("dog/1.png is skipped: it cannot be decoded (")
    assert ours.fingerprint() != whole.fingerprint()


def test_nothing_is_looked_for_with_settings_that_decode_nothing(
    animals: Path, folder: MakeFolder
) -> None:
    (fault,) = folder(animals, on_error="skip", resolution=0).check()
    assert fault.key == "dataset.resolution"
    for image in animals.rglob("*.png"):
        image.write_bytes(image.read_bytes()[:40])
    (fault,) = folder(animals, on_error="skip").check()
    assert fault.problem == "no image can be decoded"


def test_what_lies_deeper_or_is_no_image_is_counted_and_named(
    animals: Path, folder: MakeFolder
) -> None:
    write_image(animals / "cat" / "old" / "deep" / "7.png", 70)
    write_image(animals / "cat" / "old" / "8.png", 80)
    (animals / "dog" / "photo.heic").write_bytes(b"")
    assert folder(animals).notes() == (
        "Images left out in cat/old/: 2 (class folders are read one level deep).",
        "Files left out, no images by their names: 1 (dog/photo.heic).",
    )
    assert (
        len(list_images(animals, classes=None, sites=False, key="k", settings_key="d").paths) == 5
    )


def test_a_table_instead_of_class_folders(animals: Path, folder: MakeFolder) -> None:
    table = animals / "images.csv"
    table.write_text(
        "path,label,site\ndog/2.png,big,north\ncat/0.png,small,south\ndog/0.png,big,south\n"
    )
    ours = folder(None, table=table)
    assert ours.check(range(3)) == []
    assert ours.class_names == ("big", "small")
    assert ours.labels().tolist() == [0, 1, 0]
    assert ours.sites() == ["north", "south", "south"]
    assert ours.images([2, 0]).pixels[:, 0, 0, 0].tolist() == [30, 50]
    (animals / "tables").mkdir()
    other = animals / "tables" / "t.tsv"
    other.write_text("path\tlabel\ncat/0.png\tsmall\ndog/0.png\tbig\n")
    assert folder(animals, table=other).labels().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,label\na,b\n", "has no column 'path'"),
        ("path,label\n", "has no rows"),
        ("path,label\ncat/9.png,small\n", "line 2.*there is no file"),
        ("path,label\ncat/0.png,\n", "line 2.*label '' is unknown"),
    ],
)
def test_tables_that_cannot_be_used(
    text: str, expected: str, animals: Path, folder: MakeFolder
) -> None:
    (animals / "t.csv").write_text(text)
    (fault,) = folder(animals, table=animals / "t.csv").check()
    assert re.search(expected, str(fault))


def test_check_says_what_suits_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in range(2):
        for number in range(10):
            write_image(tmp_path / "own" / f"class{label}" / f"{number}.png", number, (70, 90))
    words = ["dataset=imagefolder", f"dataset.root={tmp_path / 'own'}", "dataset.cache_dir=none"]
    words += ["clients=1", "clients_per_round=1", "engine=inline"]
    assert main(["check", "--no-trial", *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Images are 70 pixels high or wide (median of 20 files): dataset.resolution=64" in out
    assert "images of 32 pixels are scaled to 8 inside space=mobilenetv3_8" in out


def test_sites_keep_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By folder: in the records, the terminal, the report, and for `corolla export`."""
    for site in ("north", "south"):
        for label in range(2):
            for number in range(10):
                path = tmp_path / "own" / site / f"class{label}" / f"{number}.png"
                write_image(path, 40 * label + number, (8, 8))
    few = [o for o in SMALL if not o.startswith(("partition", "clients", "rounds", "report"))]
    words = ["method=fedavg", "dataset=imagefolder", f"dataset.root={tmp_path / 'own'}"]
    words += ["dataset.resolution=8", "dataset.sites=true", "dataset.cache_dir=none", "rounds=1"]
    words += [
        "partition=by_folder",
        "clients=2",
        "clients_per_round=2",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert main(["run", *few, *words]) == 0
    out = capsys.readouterr().out
    assert "fedavg on imagefolder (own)" in out
    assert "│ north" in out
    facts = RunDirectory.open(tmp_path / "run").summary()["per_client"]
    assert [entry["site"] for entry in facts.values()] == ["north", "south"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "imagefolder (own)" in page
    assert "north" in page
    export = ["export", str(tmp_path / "run"), "--client", "south"]
    assert main(export) == 0
    card = (tmp_path / "run" / "south.safetensors.md").read_text()
    assert card.startswith(
        "# fedavg on imagefolder (own): the model of client south\n\n1\u00a0round of"
    )
    output = tmp_path / "new" / "model.safetensors"
    assert main([*export, "-o", str(output)]) == 0
    assert output.is_file()
    assert main([*export, "-o", str(output / "below.safetensors")]) == 2
    assert main(["check", "--no-trial", *few, *words]) == 0
    assert "│ south" in capsys.readouterr().out
