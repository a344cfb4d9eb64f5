"""APFL: a step by hand, both ends of alpha bit for bit, and what public code of it gets wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corolla.launch import plan_run
from corolla.training.interpolation import InterpolationSettings, train_interpolated
from tests.clients.test_own_model import _Client
from tests.strategies.conftest import small
from tests.training.conftest import PLAIN, Affine, dots, quadratic_loss, sgd

TWO = ("clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")


@pytest.fixture
def quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corolla.training.losses.classification_loss", quadratic_loss)


def _trained(batches: int = 1, **changed: Any) -> tuple[list[float], list[float], float]:
    """Return v, w and alpha; v begins at (3, 0), w at (0, 0), a step is 0.1, alpha 0.25."""
    own, shared = Affine((3.0, 0.0)), Affine((0.0, 0.0))
    settings: dict[str, Any] = {"alpha": 0.25, "alpha_lr": 0.0, "mix": "weights", **changed}
    _, _, alpha = train_interpolated(
        own,
        shared,
        dots([255] * batches, [0] * batches),
        alpha=settings["alpha"],
        settings=InterpolationSettings(**settings),
        trainer=sgd(PLAIN),
        lr=0.1,
        epochs=1,
        batch_size=1,
        seed=(0,),
    )
    return own.weights(), shared.weights(), alpha


@pytest.mark.usefixtures("quadratic")
def test_a_step_by_hand() -> None:
    """w = (0.1, -0.2) first. u = v / 4 + 3 w / 4 = (0.825, -0.15), its gradient (-0.175, 1.85).

    v takes 0.1 * 0.25 of that; at v itself (PFLlib's gradient) it would be (2, 2). alpha goes against
    (v - w) g = 2.9 * -0.175 + 0.2 * 1.85 = -0.1375.
    """
    v, w, alpha = _trained(alpha_lr=0.5)
    assert w == pytest.approx([0.1, -0.2])  # one step: FL-bench's w takes two
    assert v == pytest.approx([3 + 0.025 * 0.175, -0.025 * 1.85])
    assert alpha == pytest.approx(0.25 + 0.5 * 0.1375)
    assert _trained(alpha_lr=0.0)[2] == 0.25


@pytest.mark.usefixtures("quadratic")
def test_alpha_moves_at_the_first_batch_alone_and_stays_a_share() -> None:
    first, more = _trained(alpha_lr=0.5)[2], _trained(batches=3, alpha_lr=0.5)[2]
    assert first == more
    assert _trained(alpha_lr=100.0)[2] == 1.0
    v, _, _ = _trained(batches=2, alpha_lr=100.0)  # the second batch is v's own: alpha is 1
    once, _, _ = _trained(alpha_lr=100.0)
    assert v == pytest.approx([a - 0.1 * (a - b) for a, b in zip(once, [1, -2], strict=True)])


@pytest.mark.usefixtures("quadratic")
def test_outputs_are_mixed_before_both_steps() -> None:
    """u = v / 4 = (0.75, 0), its gradient (-0.25, 2); alpha against 3 * -0.25 + 0 * 2."""
    v, w, alpha = _trained(mix="outputs", alpha_lr=0.2)
    assert w == pytest.approx([0.1, -0.2])
    assert v == pytest.approx([3 + 0.025 * 0.25, -0.025 * 2])
    assert alpha == pytest.approx(0.25 + 0.2 * 0.75)


def test_the_personalised_model_is_mixed_with_the_model_of_now(tmp_path: Path) -> None:
    """Kept is v, not the mixture (PFLlib). Statistics of BN are mixed, too; so is a stranger's first v."""
    client, stranger = _Client("apfl", tmp_path), _Client("apfl", tmp_path / "other")
    client.built().fit(client.task(1), client.arrays())
    kept = client.site.store and client.site.store.load("1", 2)
    assert kept
    first = client.space.cut(client.space.initial_state(0), client.architecture)
    for one, v in ((client, kept[1].part("model/")), (stranger, first)):
        one.received = {n: (a * 1.5).astype(a.dtype) for n, a in one.received.items()}
        for name, array in one.model(3).items():
            if array.dtype.kind == "f":
                middle = (v[name] + one.received[name]) / 2
                np.testing.assert_allclose(array, middle, rtol=1e-5, atol=1e-6)


def test_alpha_is_kept_and_told(tmp_path: Path) -> None:
    """A round that is repeated starts from the alpha that it first started from."""
    client = _Client("apfl", tmp_path)
    config = plan_run(small("method=apfl", "method.alpha_lr=1.0", "run_dir=unused")).config
    client.site = replace(client.site, config=config)
    told = [
        client.built().fit(client.task(round), client.arrays()).metrics["mixing_alpha"]
        for round in (1, 2, 2)
    ]
    assert told[1] == told[2]
    assert len({0.5, *told}) == 3
