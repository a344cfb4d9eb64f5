"""Equation 6 by hand and its laws; the cells' file; one cell against a training done by hand."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.config.build import build_dataset, build_partition, build_space, build_trainer
from corolla.data.federation import FederationData
from corolla.gain.cells import Cell, CellFile, setting_faults
from corolla.gain.finished_run import FinishedRun
from corolla.gain.matrix import described, gains
from corolla.gain.measure import _GAIN, fine_tune
from corolla.records.errors import CorruptStateError
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import to_arrays
from tests.conftest import quick
from tests.strategies.conftest import config_of, run, saved_state

FEW_IMAGES = ["partition.balanced=true", "partition.images_per_client=80"]
P = [[0.75, 0.50, 0.25], [0.50, 0.50, 1.00], [0.25, 0.00, 0.50]]


def test_equation_6_by_hand() -> None:
    # (0.25 + 0.5) / 2; (0 - 0.5) / 2; (0.25 + 0.5) / 2. Rows are images, columns architectures.
    assert gains(P) == [0.375, -0.25, 0.375]
    assert described(P) == {"accuracy": P, "gains": [0.375, -0.25, 0.375], "mean_gain": 0.5 / 3}


@pytest.mark.parametrize("accuracy", [[], [[0.5]], [[0.5, 0.5]], [[0.5, 0.5], [0.5]]])
def test_what_is_no_matrix_of_two_clients_or_more(accuracy: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="need a square matrix of 2 clients or more"):
        gains(accuracy)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.floats(-1, 1))
def test_laws(clients: int, seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    accuracy, order = rng.random((clients, clients)), rng.permutation(clients)
    plain = gains(accuracy.tolist())
    # How hard a client's images are does not matter, nor do the clients' numbers.
    harder = accuracy.copy()
    harder[0] += shift
    np.testing.assert_allclose(gains(harder.tolist()), plain, atol=1e-12)
    permuted = gains(accuracy[np.ix_(order, order)].tolist())
    np.testing.assert_allclose(permuted, np.array(plain)[order], atol=1e-12)
    np.testing.assert_allclose(gains([[0.5] * clients] * clients), 0)


def _cell(**changes: object) -> Cell:
    values = {"start": "own", "client": "0", "architecture_of": "1", "epochs": 2, "lr": 0.1}
    values |= {"accuracy": 0.5, "best_accuracy": 0.75, "best_epoch": 1, "cell_s": 1.5}
    return Cell(**(values | changes))  # type: ignore[arg-type]


def test_cells_come_back_and_a_torn_line_does_not_count(tmp_path: Path) -> None:
    file = CellFile(tmp_path)
    assert file.read() == {}
    cells = [_cell(), _cell(lr=0.1 + 0.2, client="site-a")]
    for cell in cells:
        file.append(cell)
    with file.path.open("a") as text:
        text.write('{"start": "own", "cli')
    assert list(file.read().values()) == cells
    file.append(_cell(client="2"))
    assert [key[1] for key in file.read()] == ["0", "site-a", "2"]


def test_a_line_that_is_no_cell_is_named(tmp_path: Path) -> None:
    file = CellFile(tmp_path)
    file.append(_cell())
    with file.path.open("a") as text:
        text.write('{"round": 1}\n')
    with pytest.raises(
        CorruptStateError, match=r"cells.jsonl, line 2 is damaged: it is no measured cell.*--fresh"
    ):
        file.read()


def test_other_settings_are_named_with_their_remedy() -> None:
    faults = setting_faults([_cell(), _cell(client="2")], Path("cells"), epochs=3, lr=0.2)
    assert [str(fault) for fault in faults] == [
        "epochs=3: the cells in cells were measured with epochs=2. "
        "Give --epochs 2, or --fresh to start again",
        "lr=0.2: the cells in cells were measured with lr=0.1. "
        "Give --lr 0.1, or --fresh to start again",
    ]
    assert setting_faults([_cell()], Path("cells"), epochs=2, lr=0.1) == []
    assert setting_faults([], Path("cells"), epochs=2, lr=0.1) == []


@pytest.mark.parametrize(
    ("method", "prefix"),
    quick(
        [("spider", "strategy/model/"), ("perfedrlnas", "strategy/supernet/")],
        ("spider", "strategy/model/"),
    ),
)
def test_a_cell_from_the_supernet_is_a_training_by_hand(
    method: str, prefix: str, tmp_path: Path
) -> None:
    """Architecture of client 1 on the images of client 0, from the checkpoint's own arrays."""
    extras = ["clients=3", "evaluation.fine_tune_epochs=0", *FEW_IMAGES]
    directory = run(tmp_path / "run", f"method={method}", *extras)
    config = config_of(directory)
    space, trainer, dataset = build_space(config), build_trainer(config), build_dataset(config)
    architecture = Architecture.of(directory.summary()["per_client"]["1"]["choices"])
    model = space.load(architecture, space.cut(saved_state(directory).part(prefix), architecture))
    data = FederationData(dataset, build_partition(config, dataset)).client("0")
    merged = data.train_on_validation().train
    trainer.recalibrate(
        model, merged, batch_size=config.batch_size
    )  # as every model of the server that is scored
    trainer.train(
        model, merged, epochs=3, batch_size=config.batch_size, lr=0.05, seed=(config.seed, 0, _GAIN)
    )
    scored = deepcopy(model)
    trainer.recalibrate(scored, merged, batch_size=config.batch_size)
    by_hand = trainer.evaluate(scored, data.test).accuracy

    finished = FinishedRun.open(directory.path, starts=["supernet"])
    found = space.load(architecture, finished.supernet().slice_of("1"))
    images = finished.training_data("0")
    accuracies = fine_tune(finished, images, found, shared=True, epochs=3, lr=0.05)
    assert len(accuracies) == 3
    assert accuracies[-1] == by_hand
    trained = to_arrays(model)
    for name, array in to_arrays(found).items():
        assert array.tobytes() == trained[name].tobytes(), name
