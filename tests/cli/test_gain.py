"""`corolla gain` as a user types it: matrix, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from corolla.cli import main
from corolla.config.build import build_trainer
from corolla.config.schema import parse_config
from corolla.export import load_client_model
from corolla.gain import measure
from corolla.gain.cells import Cell, CellFile
from corolla.gain.finished_run import FinishedRun
from corolla.records.run_directory import RunDirectory
from corolla.records.seals import read_sealed, sealed_config, write_sealed
from corolla.training.results import DivergedError
from tests.strategies.conftest import run
from tests.test_gain import FEW_IMAGES

CLIENTS = ["0", "1", "2"]
QUICK = ["--epochs", "2", "--lr", "0.05"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of SPIDER; tests work on copies."""
    extras = ["clients=3", "clients_per_round=3", "evaluation.fine_tune_epochs=0", *FEW_IMAGES]
    return run(tmp_path_factory.mktemp("gain") / "run", "method=spider", *extras).path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run in another place than it was made in."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def _gain(path: Path, *arguments: str) -> int:
    return main(["gain", str(path), *QUICK, *arguments])


def _refused(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> str:
    assert main(["gain", str(path), *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


def _result(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "gain.json").read_text())
    return found


@pytest.fixture(scope="module")
def measured(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run measured without a break; not to be changed."""
    copy = Path(shutil.copytree(finished, tmp_path_factory.mktemp("measured") / "run"))
    assert _gain(copy) == 0
    return copy


def test_matrix_of_both_starts(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gain(measured) == 0  # measures nothing, prints the tables again
    out = capsys.readouterr().out
    assert "cell" not in out.partition("Written")[0]
    assert "Mean gain in points, 2 epochs at lr=0.05" in out
    result = _result(measured)
    assert list(result) == ["clients", "epochs", "lr", "starts"]
    assert (result["clients"], result["epochs"], result["lr"]) == (CLIENTS, 2, 0.05)
    assert list(result["starts"]) == ["supernet", "own"]
    for start in result["starts"].values():
        assert list(start) == ["accuracy", "gains", "mean_gain", "best_epoch"]
        best = start["best_epoch"]
        assert list(best) == ["accuracy", "gains", "mean_gain"]
        for matrix in (start, best):
            p = matrix["accuracy"]
            by_hand = [  # eq. 6, written out for three clients
                ((p[0][0] - p[0][1]) + (p[0][0] - p[0][2])) / 2,
                ((p[1][1] - p[1][0]) + (p[1][1] - p[1][2])) / 2,
                ((p[2][2] - p[2][0]) + (p[2][2] - p[2][1])) / 2,
            ]
            assert matrix["gains"] == pytest.approx(by_hand)
            assert matrix["mean_gain"] == pytest.approx(sum(by_hand) / 3)
        pairs = zip(start["accuracy"], best["accuracy"], strict=True)
        assert all(b >= a for row, other in pairs for a, b in zip(row, other, strict=True))


def test_the_diagonal_of_own_is_what_the_run_scored(copy: Path) -> None:
    assert _gain(copy, "--start", "own") == 0
    result = _result(copy)
    assert list(result["starts"]) == ["own"]
    summary = RunDirectory.open(copy).summary()["test_accuracy"]["per_client"]
    config, _ = parse_config(yaml.safe_load(RunDirectory(copy).config_text()))
    assert config is not None
    opened = FinishedRun.open(copy, starts=["own"])
    for i, client in enumerate(CLIENTS):
        for matrix in (result["starts"]["own"], result["starts"]["own"]["best_epoch"]):
            assert matrix["accuracy"][i][i] == summary[client]
        data = opened.data.client(client)  # and the saved models are those that were scored
        score = build_trainer(config).evaluate(load_client_model(copy, client), data.test)
        assert score.accuracy == summary[client]


@pytest.mark.parametrize("cells", [11])
def test_stopped_and_started_again_it_finds_the_same(
    cells: int,
    measured: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = CellFile.append
    made: list[Cell] = []

    def stopping(file: CellFile, cell: Cell) -> None:
        if len(made) == cells:
            with file.path.open("a") as text:
                text.write('{"start": "own", "client": "0"')  # as a kill in mid-write leaves it
            raise KeyboardInterrupt
        made.append(cell)
        plain(file, cell)

    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "append", stopping)
        assert _gain(copy) == 130
    assert not (copy / "gain.json").exists()
    assert "carries on" in capsys.readouterr().err
    assert _gain(copy) == 0
    out = capsys.readouterr().out
    assert out.count("cell ") == 18 - cells
    assert "cell 18 of 18: start own, client 2, architecture 2: test" in out
    assert (copy / "gain.json").read_bytes() == (measured / "gain.json").read_bytes()


def test_one_start_after_the_other_is_both(measured: Path, copy: Path) -> None:
    assert _gain(copy, "--start", "own") == 0
    assert _gain(copy, "--start", "supernet") == 0
    assert (copy / "gain.json").read_bytes() == (measured / "gain.json").read_bytes()


def test_other_settings_are_refused_until_fresh(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gain(copy, "--start", "own") == 0
    before = (copy / "gain.json").read_bytes()
    message = _refused(capsys, copy, "--epochs", "1")
    for expected in ("epochs=1:", "--epochs 2", "--lr 0.05", "--fresh"):
        assert expected in message
    assert (copy / "gain.json").read_bytes() == before
    assert main(["gain", str(copy), "--epochs", "1", "--start", "own", "--fresh"]) == 0
    result = _result(copy)
    # One epoch at the step of the run's last round, which cosine has brought to a quarter.
    assert (result["epochs"], list(result["starts"])) == (1, ["own"])
    assert result["lr"] == FinishedRun.open(copy, starts=["own"]).federation.last_lr


def test_a_fine_tuning_that_diverges(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise DivergedError(loss=float("nan"), epoch=0, batch=1, lr=0.05)

    monkeypatch.setattr(measure, "fine_tune", diverge)
    assert _gain(copy, "--start", "own") == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "start=own: the architecture of client 1 diverges on the images of client 0" in message
    assert "in epoch 1 at lr=0.05. Give a lower --lr, with --fresh" in message
    assert len((copy / "gain_cells.jsonl").read_text().splitlines()) == 1  # the diagonal's


# --- refusals -------------------------------------------------------------------------------------------


def test_no_run_and_bad_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such directory" in _refused(capsys, tmp_path / "nowhere")
    message = _refused(capsys, tmp_path, "--epochs", "0", "--lr", "nan")
    assert "epochs=0: must be 1 or more" in message
    assert "lr=nan: must be a number above 0" in message


def test_unfinished_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "summary.json").unlink()
    assert "it is not finished. Finish it with `corolla resume" in _refused(capsys, copy)


def _change(copy: Path, key: str, value: Any) -> None:
    *groups, last = key.split(".")
    config = yaml.safe_load(RunDirectory(copy).config_text())
    node = config
    for group in groups:
        node = node[group]
    node[last] = value
    (copy / "config.yaml").write_text(sealed_config(yaml.safe_dump(config, sort_keys=False)))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("engine.kind", "superlink", "its clients are real nodes, whose images are not here"),
        ("clients", 1, "clients=1: there are no other clients to compare with"),
        ("clients", 4, "holds no architecture of client 3"),
        ("method.share", False, "kept their architectures to themselves"),
    ],
)
def test_runs_without_a_matrix(
    key: str, value: Any, expected: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _change(copy, key, value)
    assert expected in _refused(capsys, copy)
    assert not (copy / "gain_cells.jsonl").exists()


def test_weights_that_were_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extras = ["clients=2", "evaluation.return_models=false", *FEW_IMAGES]
    path = run(tmp_path / "run", "method=spider", *extras).path
    message = _refused(capsys, path)
    assert "start='own'" in message
    assert "holds no weights of clients 0, 1. Give --start supernet" in message
    assert main(["gain", str(path), "--epochs", "1", "--start", "supernet"]) == 0


def test_one_architecture_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(tmp_path / "run", "method=fedavg", "rounds=1", *FEW_IMAGES).path
    message = _refused(capsys, path)
    assert "method='fedavg': all 4 clients have the same architecture" in message
    assert "spider or perfedrlnas" in message


def test_weights_that_the_server_does_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path / "run", "method=perfedrlnas", "clients=3", *FEW_IMAGES).path
    assert main(["gain", str(path), "--epochs", "1", "--start", "supernet"]) == 0
    file = path / "clients" / "0" / "architecture.json"
    description = read_sealed(file)
    dimensions = RunDirectory.open(path).summary()["dimensions"]
    free = next(d for d, found in enumerate(dimensions) if len(found["choices"]) > 1)
    description["choices"][free] = int(not description["choices"][free])  # not its policy's
    write_sealed(file, description)
    message = _refused(capsys, path, "--fresh", "--epochs", "1")
    assert "the server of method 'perfedrlnas' has no weights for it. Give --start own" in message
    assert (path / "gain_cells.jsonl").is_file()  # nothing was forgotten
