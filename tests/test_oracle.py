"""What architecture is worth: variances and gains on tables whose truth is known, and a run in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import oracle
from benchmarks.space_sizes import space_named
from benchmarks.variance_components import Table, components, expected_best, gains
from corolla.records.run_directory import RunDirectory


def made(rng: np.random.Generator, *, own: float, shared: float, noise: float) -> Table:
    """Return scores of 8 clients and 24 architectures with these standard deviations."""
    truth = rng.normal(0, 5, (8, 1)) + rng.normal(0, shared, (1, 24)) + rng.normal(0, own, (8, 24))
    return truth[..., None, None] + rng.normal(0, noise, (8, 24, 2, 2))


@pytest.mark.parametrize("own", [0.0, 1.5])
def test_variances_are_found_without_bias(own: float) -> None:
    rng = np.random.default_rng(0)
    found = [components(made(rng, own=own, shared=1.0, noise=4.0)) for _ in range(400)]
    for key, truth, error in (("interaction", own**2, 0.15), ("architecture", 1.0, 0.1)):
        values = [getattr(one, key) for one in found]
        assert np.mean(values) == pytest.approx(truth, abs=error)
        assert np.std(values) / 20 < error / 2  # the error allowed is two of the mean's or more
    assert np.mean([one.noise for one in found]) == pytest.approx(16.0, rel=0.03)


def test_variances_by_hand() -> None:
    """R is +-1 in the first training's first half, +-2 in the opposite one, 0 elsewhere.

    The sum of R R' is 8, in both orders 16; a quarter: 4. m is +-1 and +-2, the sum of m m' 4, in both
    orders 8; a quarter, less half the interaction: 0.
    """
    table = np.zeros((2, 2, 2, 2))
    table[:, :, 0, 0] = [[2.0, 0.0], [0.0, 2.0]]  # no column differs from the other
    table[:, :, 1, 1] = [[4.0, 0.0], [0.0, 4.0]]
    assert components(table).interaction == 4.0
    table[:, 0, 0, 0] += 2.0
    table[:, 0, 1, 1] += 4.0
    found = components(table)
    assert (found.interaction, found.architecture) == (4.0, 0.0)
    with pytest.raises(ValueError, match="need"):
        components(table[:1])


def test_gains_by_hand() -> None:
    """Client 0 is best with architecture 0 (by 4 points), client 1 with 1 (by 2); everything repeats."""
    table = np.zeros((2, 2, 2, 2))
    table[0, 0], table[1, 1] = 4.0, 2.0
    for retrained in (False, True):
        found = gains(table, retrained=retrained)
        assert (found.own, found.shared) == (1.5, 0.5)  # (2 + 1) / 2; architecture 0: (2 - 1) / 2
        assert found.error == pytest.approx(0.5)  # sd of 2 and 1 is 1 / sqrt(2)


def test_noise_gains_nothing_and_a_perfect_choice_what_the_bound_says() -> None:
    rng = np.random.default_rng(1)
    lots = [gains(made(rng, own=0, shared=0, noise=3.0), retrained=False).own for _ in range(200)]
    assert np.mean(lots) == pytest.approx(0.0, abs=0.15)
    exact = [gains(made(rng, own=2.0, shared=0, noise=0), retrained=True).own for _ in range(200)]
    assert np.mean(exact) == pytest.approx(2.0 * expected_best(24), abs=0.1)
    assert expected_best(2) == pytest.approx(np.pi**-0.5, abs=1e-6)


@pytest.mark.parametrize("track", ["a", "c"])
def test_architectures_differ_and_cost_the_same(track: str) -> None:
    space = space_named("elastic_cnn_64")
    drawn = oracle.equal_cost(space, 24, track=track)
    assert len(set(drawn)) == 24
    macs = np.array([space.costs(one).macs for one in drawn])
    middle, largest = (space.costs(one).macs for one in (space.middle(), space.largest()))
    assert np.abs(macs / (middle if track == "a" else 0.95 * largest / 16) - 1).max() <= 0.05
    assert track == "a" or macs.max() <= largest / 16


@pytest.mark.slow
def test_a_track_is_measured_once(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = oracle.overrides_of
    monkeypatch.setattr(oracle, "overrides_of", lambda *a: (*made(*a), *FEW))
    written: dict[str, Any] = {}
    monkeypatch.setattr(oracle, "read_raw", lambda _: written.get("raw", {}))
    monkeypatch.setattr(
        oracle, "write_result", lambda _, f, raw: written.update(raw=raw, figures=f)
    )
    work = tmp_path / "work"
    arguments = ["--root", str(pictures), "--work", str(work), "--tracks", "a", "--rounds", "1"]
    arguments += ["--clients", "2", "--architectures", "2"]
    oracle.main(arguments)
    figures = written["figures"]
    for key in ("gain", "gain_shared", "gain_retrained", "bound", "sd_noise"):
        assert f"oracle_{key}_a" in figures
        assert f"oracle_{key}_fine_tuned_a" in figures
    runs = sorted((work / "a-r1").glob("*/oracle.json"))
    assert len(runs) == 4
    partitions = {path.with_name("partition.json").read_text() for path in runs}
    assert len(partitions) == 1  # trainings differ, images do not
    scores = json.loads(runs[0].read_text())
    assert np.shape(scores["deployed"]) == np.shape(scores["fine_tuned"]) == (2, 2)
    own = RunDirectory.open(runs[0].parent).summary()["test_accuracy"]["per_client"]
    for client, halves in enumerate(scores["deployed"]):  # each of the model that came
        assert np.mean(halves) == pytest.approx(own[str(client)])
    assert len(list(oracle.lines(written["raw"]))) == 4
    before = [path.stat().st_mtime_ns for path in runs]
    oracle.main(arguments)
    assert [path.stat().st_mtime_ns for path in runs] == before


FEW = (
    "clients=4",
    "clients_per_round=2",
    "local_epochs=1",
    "partition.images_per_client=8",
    "partition.alpha=100",
)
