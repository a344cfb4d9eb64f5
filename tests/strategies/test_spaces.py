"""Every method runs on every kind of space, unchanged."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from corolla.config.groups import methods
from tests.conftest import quick
from tests.strategies.conftest import NEEDS, run

METHODS = [name for name in methods() if name not in NEEDS]
DARTS = [
    f"space.supernet.{value}" for value in ("resolution=8", "channels=4", "cells=3", "nodes=2")
]
SPACES = {
    "elastic_cnn": ["space.supernet.resolution=8"],
    "elastic_resnet": ["space.supernet.resolution=8"],
    "nasvit_32": ["space.supernet.resolution=[16]"],
    "darts_small": DARTS,
    "darts_s2_mixed_small": DARTS,
    "resnet18": ["space.supernet.resolution=8", "space.supernet.width=8"],
    "vit_32": [f"space.supernet.{value}" for value in ("resolution=8", "width=16", "depth=2")],
}

# A hypernetwork is so many times as large as the network.
SMALLER = {"pfedhn": ["method.hypernetwork.hidden=2"]}


@pytest.mark.parametrize(
    ("method", "space"),
    quick(itertools.product(METHODS, SPACES), *zip(METHODS[::4], SPACES, strict=False)),
)
def test_a_round_on_another_space(method: str, space: str, tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run",
        f"method={method}",
        f"space={space}",
        *SPACES[space],
        *SMALLER.get(method, []),
        "rounds=1",
        "clients=2",
        "evaluation.fine_tune_epochs=0",
    )
    summary = directory.summary()
    assert summary["space"] == space
    assert set(summary["test_accuracy"]["per_client"]) == {"0", "1"}
    (line,) = directory.metrics()
    assert line["failures"] == 0
