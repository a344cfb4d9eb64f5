"""FedProx: nearer to the received model than FedAvg; and the page that adds it."""

from __future__ import annotations

import re
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


def test_the_page_on_adding_a_method_shows_the_files_as_they_are() -> None:
    page = (ROOT / "docs" / "add-a-method.md").read_text()
    client, node = (
        (ROOT / name).read_text() for name in ("clients/fedprox.py", "conf/method/fedprox.yaml")
    )
    python, yaml = (  # the page has blocks of the user's own parts, too
        next(one for one in re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) if one in whole)
        for kind, whole in (("python", client), ("yaml", node))
    )
    assert len((python + yaml).splitlines()) < 40
