"""FedProx: nearer to the received model than FedAvg."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conftest import CONF
from tests.strategies.conftest import run
from tests.strategies.test_reductions import weights_of

ROOT = CONF.parent
TINY = (
    "clients=2",
    "clients_per_round=2",
    "rounds=1",
    "local_epochs=10",
    "evaluation.every=0",
    "trainer.momentum=0",
)
PREFIX = "strategy/model/"


def test_a_heavy_term_keeps_clients_near(tmp_path: Path) -> None:
    none, heavy = (
        weights_of(run(tmp_path / mu, "method=fedprox", f"method.mu={mu}", *TINY), PREFIX)
        for mu in ("0.0", "20.0")
    )
    start = weights_of(
        run(tmp_path / "still", "method=fedprox", "trainer.lr=1e-12", "trainer.lr_min=0", *TINY),
        PREFIX,
    )
    moved, kept = (
        sum(float(np.square(now[n] - start[n]).sum()) for n in start if "running" not in n)
        for now in (none, heavy)
    )
    assert kept < moved / 4  # lr * mu = 0.4: a step undoes 40 % of the way gone
