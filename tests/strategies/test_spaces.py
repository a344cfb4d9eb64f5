"""Every method runs on every kind of space, unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import CONF
from tests.strategies.conftest import NEEDS, run

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml") if path.stem not in NEEDS)
SPACES = {
    "elastic_resnet": ["space.supernet.resolution=8"],
    "nasvit_32": [],
    "darts_small": ["space.supernet.resolution=8"],
    "darts_s2_mixed_small": ["space.supernet.resolution=8"],
    "resnet18": ["space.supernet.resolution=8", "space.supernet.width=8"],
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS)
def test_a_round_on_another_space(method: str, space: str, tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run",
        f"method={method}",
        f"space={space}",
        *SPACES[space],
        "rounds=1",
        "clients=2",
        "evaluation.fine_tune_epochs=0",
        "partition.balanced=true",
        "partition.images_per_client=60",
    )
    summary = directory.summary()
    assert summary["space"] == space
    assert set(summary["test_accuracy"]["per_client"]) == {"0", "1"}
    (line,) = directory.metrics()
    assert line["failures"] == 0
