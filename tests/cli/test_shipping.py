"""A model that is shipped: every format answers as torch does, and says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from corolla.cli import main
from corolla.data.digits import Digits
from corolla.export import load_client_model
from corolla.export.card import model_card
from corolla.export.facts import facts_of
from corolla.export.predicting import Predictor
from corolla.records.run_directory import RunDirectory
from tests.strategies.conftest import run

FORMATS = ("onnx", "pt2", "safetensors")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five digits as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = Digits().images(range(5)).pixels.numpy()
    paths = [folder / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image[0]).save(path)
    return paths


@pytest.fixture(scope="module")
def shipped(finished: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with client 2's model in every format that this machine can write."""
    folder = tmp_path_factory.mktemp("shipped")
    for kind in FORMATS:
        pytest.importorskip("onnx")
        arguments = ["--client", "2", "--format", kind, "-o", str(folder / f"m.{kind}")]
        assert main(["export", str(finished.path), *arguments]) == 0
    return folder


def _by_torch(directory: RunDirectory, client: str, count: int) -> NDArray[np.float32]:
    images = Digits().images(range(count))
    mean, std = Digits.mean[0], Digits.std[0]
    with torch.no_grad():
        model = load_client_model(directory.path, client)
        logits: torch.Tensor = model((images.pixels.float() / 255 - mean) / std)
        found: NDArray[np.float32] = logits.softmax(dim=1).numpy()
        return found


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_answers_as_torch(
    kind: str, shipped: Path, finished: RunDirectory, pictures: Sequence[Path]
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    predictor = Predictor.open(shipped / f"m.{kind}")
    expected = _by_torch(finished, "2", 5)
    np.testing.assert_allclose(predictor.predict(pictures), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.predict(pictures[:1]), expected[:1], atol=1e-5)
    assert predictor.facts == facts_of(finished.path, "2")


def test_facts_are_those_of_the_client(finished: RunDirectory) -> None:
    facts, summary = facts_of(finished.path, "2"), finished.summary()
    given = facts["input"]
    assert (given["channels"], given["resolution"]) == (1, 8)
    assert (given["mean"], given["std"]) == ([0.3053], [0.3759])
    assert facts["classes"] == list("0123456789")
    assert facts["accuracy"]["test_accuracy"] == summary["test_accuracy"]["per_client"]["2"]
    counts = summary["per_client"]["2"]["label_counts"]
    assert facts["class_prior"]["frequencies"] == [n / sum(counts) for n in counts]
    assert facts["class_prior"]["added"] is True  # trained by a balanced softmax
    assert facts["costs"]["macs"] == summary["per_client"]["2"]["macs"]
    assert facts["choices"] == summary["per_client"]["2"]["choices"]


def test_files_carry_the_facts_and_a_card_beside_them(
    shipped: Path, finished: RunDirectory
) -> None:
    import onnx

    facts = facts_of(finished.path, "2")
    model = onnx.load(shipped / "m.onnx", load_external_data=False)
    assert json.loads({p.key: p.value for p in model.metadata_props}["corolla.facts"]) == facts
    assert not any(t.external_data for t in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any number of images
    onnx.checker.check_model(model)
    with safe_open(shipped / "m.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["corolla.facts"]) == facts
    weights = load_client_model(finished.path, "2").state_dict()
    assert load_file(shipped / "m.safetensors").keys() == weights.keys()
    card = (shipped / "m.onnx.md").read_text()
    assert "corolla predict m.onnx PICTURE" in card
    assert f"| test images | {100 * facts['accuracy']['test_accuracy']:.1f} |" in card
    assert sorted(path.name for path in shipped.iterdir()) == sorted(
        f"m.{kind}{end}" for kind in FORMATS for end in ("", ".md")
    )


def test_predict_prints_classes(
    shipped: Path, finished: RunDirectory, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _by_torch(finished, "2", 5)
    names = [str(path) for path in pictures]
    capsys.readouterr()
    assert main(["predict", str(finished.path), *names, "--client", "2", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    best = int(expected[3].argmax())
    assert lines[3].startswith(f"{names[3]}: {best} {100 * expected[3].max():.1f} %")
    assert lines[3].count("%") == 2
    assert main(["predict", str(shipped / "m.pt2"), names[3], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["class"] == str(best)
    assert sum(said["probabilities"].values()) == pytest.approx(1)


def test_what_cannot_be_asked_is_refused(
    shipped: Path,
    finished: RunDirectory,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = str(pictures[0])
    shutil.copy(Path(__file__), tmp_path / "broken.png")
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.pt2").write_bytes((shipped / "m.pt2").read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"no")
    for arguments, said in (
        ([str(tmp_path / "nowhere.onnx"), image], "no such file"),
        ([str(finished.path), image], "Give --client"),
        ([str(tmp_path / "foreign.safetensors"), image], "did not write it"),
        ([str(tmp_path / "cut.pt2"), image], "cannot be read"),
        ([str(tmp_path / "cut.safetensors"), image], "cannot be read"),
        ([image, image], "no file of these formats"),
        ([str(shipped / "m.safetensors"), str(tmp_path / "broken.png")], "broken.png"),
    ):
        assert main(["predict", *arguments]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_card_says_when_the_prior_is_inside(finished: RunDirectory) -> None:
    facts = facts_of(finished.path, "2")
    facts["class_prior"]["added"] = True
    assert "is in the last layer's bias: where" in model_card(facts, None)
    assert "corolla predict" not in model_card(facts, None)


@pytest.mark.slow
def test_attention_goes_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    directory = run(tmp_path / "run", "rounds=1", "space=nasvit_32")
    output = str(tmp_path / "model.onnx")
    export = ["export", str(directory.path), "--client", "2", "--format", "onnx", "-o", output]
    assert main(export) == 0
