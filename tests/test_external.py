"""The partitions and figures of benchmarks/external.py, in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.client_labels import RULES, with_official_test, with_own_test
from benchmarks.external import CELLS, accuracies, compared, main
from corolla.config.compose import compose_values
from corolla.config.schema import parse_config
from corolla.config.unbuilt import check_unbuilt
from tests.data.conftest import Labels

LABELS = np.tile(np.arange(10), 60)


class Divided(Labels):
    """The last ten images are the official test images."""

    def train_size(self) -> int:
        return len(self.labels()) - 10


@pytest.mark.parametrize("rule", ["iid", "dir05", "2labels"])
def test_every_image_is_one_clients(rule: str) -> None:
    parts = RULES[rule](LABELS, 10, np.random.default_rng(42))
    assert sorted(np.concatenate(parts).tolist()) == list(range(600))
    again = RULES[rule](LABELS, 10, np.random.default_rng(42))
    assert all(np.array_equal(one, two) for one, two in zip(parts, again, strict=True))


def test_two_labels_are_shared_evenly_among_their_holders() -> None:
    parts = RULES["2labels"](LABELS, 10, np.random.default_rng(42))
    held = [np.unique(LABELS[part]) for part in parts]
    assert [len(labels) for labels in held] == [2] * 10
    assert all(client in labels for client, labels in enumerate(held))  # client k has label k
    for label in range(10):
        shares = [int((LABELS[part] == label).sum()) for part in parts if label in LABELS[part]]
        assert sum(shares) == 60
        assert max(shares) - min(shares) <= 1


def test_drawn_labels_are_shared_evenly_by_those_who_drew_them() -> None:
    parts = RULES["5labels_drawn"](LABELS, 10, np.random.default_rng(42))
    held = [np.unique(LABELS[part]).tolist() for part in parts]
    assert [len(labels) for labels in held] == [5] * 10
    for label in range(10):
        shares = [int((LABELS[part] == label).sum()) for part in parts if label in LABELS[part]]
        assert sum(shares) in (0, 60)  # nobody's, if nobody drew it
        assert not shares or max(shares) - min(shares) <= 1


def test_a_share_of_a_clients_own_images_is_to_test_on() -> None:
    parts = RULES["iid"](LABELS, 6, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    partition = with_own_test(Labels(LABELS), parts, share=0.83, rng=rng, seed=0, rule="x")
    own = list(partition.clients.values())
    assert [one.sizes() for one in own] == [(82, 1, 17)] * 6  # 83 and 17 of 100
    for one, part in zip(own, parts, strict=True):
        assert sorted([*one.train, *one.validation, *one.test]) == sorted(part.tolist())


def test_no_client_gets_a_label_beyond_its_even_share() -> None:
    parts = RULES["dir05"](LABELS, 10, np.random.default_rng(42))
    assert min(map(len, parts)) >= 10
    for part in parts:
        counts = np.bincount(LABELS[part], minlength=10)
        last = int(np.flatnonzero(counts)[-1])
        assert counts[:last].sum() < 60  # labels are dealt in order; a full client gets no more


def test_clients_are_tested_on_equal_shares_of_the_official_test_images() -> None:
    pool = Divided([*LABELS, *range(10)])
    parts = RULES["iid"](LABELS, 5, np.random.default_rng(0))
    partition = with_official_test(pool, parts, seed=0, rule="x")
    assert [part.sizes() for part in partition.clients.values()] == [(119, 1, 2)] * 5
    tested = np.concatenate([part.test for part in partition.clients.values()])
    assert tested.tolist() == list(range(600, 610))


def test_figures_are_means_over_seeds_of_the_best_round() -> None:
    runs = {"0": {"best": 63.0, "last": 60.0}, "1": {"best": 64.0, "last": 61.0}}
    figures = compared({"niid_fedavg_dir05": runs})
    assert figures["niid_fedavg_dir05"] == 63.5
    assert figures["niid_fedavg_dir05_last"] == 60.5
    assert figures["niid_fedavg_dir05_difference"] == pytest.approx(1.03)
    assert "fedrep_fedrep_5labels_difference" not in compared({"fedrep_fedrep_5labels": runs})


def test_accuracies_are_those_of_the_rounds_that_were_scored() -> None:
    def row(number: int, mean: float) -> dict[str, Any]:
        return {"round": number, "evaluation": {"global": {"test_accuracy": {"mean": mean}}}}

    rows = [row(1, 0.5), {"round": 2}, {"round": 3, "evaluation": None}, row(4, 0.625)]
    assert accuracies(rows, "global") == [(1, 50.0), (4, 62.5)]


@pytest.mark.parametrize("cell", list(CELLS))
def test_every_cell_is_a_run_that_could_start(cell: str) -> None:
    one = CELLS[cell]
    given = [f"experiment={one.experiment}", *one.method, "dataset.root=x", "partition.path=y"]
    config, faults = parse_config(compose_values(given))
    assert config is not None, faults
    check_unbuilt(config)
    assert one.partition in RULES


def test_a_cell_runs_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, images in (("train", 2), ("test", 1)):
        for number in range(10):
            for image in range(images):
                path = tmp_path / "images" / part / f"c{number}" / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (20 * number, image, 50)).save(path)
    work = tmp_path / "work"
    arguments = ["--root", str(tmp_path / "images"), "--work", str(work), "--rounds", "1"]
    main([*arguments, "niid_fedavg_iid"])
    summary = work / "niid_fedavg_iid-s0" / "summary.json"
    written = summary.stat().st_mtime_ns
    main([*arguments, "niid_fedavg_iid"])
    assert summary.stat().st_mtime_ns == written
    first, again = capsys.readouterr().out.strip().splitlines()[-2:]
    assert first == again
