"""Fixtures that several folders share."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf
from PIL import Image

from corolla.spaces.mobilenetv3 import MobileNetV3Space

# A law that holds does not fail because the machine is busy.
hypothesis.settings.register_profile(
    "corolla", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("corolla")

# A shell starts what runs in its background deaf to Ctrl-C, and so would be every process of the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CONF = Path(__file__).resolve().parents[1] / "conf"


@cache
def _composed(name: str) -> dict[str, Any]:
    """Return the supernet's node; a file may build on another one. The rest of a run is not composed."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        node = compose(f"space/{name}")
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    found: dict[str, Any] = settings["space"]["supernet"]
    return found


def make_space(name: str, **changes: Any) -> Any:
    """Build a space from its YAML, for digits (names that end in _8) or colour images."""
    settings = dict(_composed(name))
    kind = get_class(settings.pop("_target_"))
    settings |= {"name": name, "num_classes": 10, "in_channels": 1 if name.endswith("_8") else 3}
    return kind(**(settings | changes))


def quick(values: Iterable[Any], *only: Any) -> list[Any]:
    """Return a test's parameters, all but ``only`` marked slow: left to `make test-slow`.

    A tuple is one value of each of several parameters.
    """
    slow = [pytest.mark.slow]
    return [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=[] if v in only else slow)
        for v in values
    ]


def diagonal(rows: Sequence[Any], columns: Sequence[Any]) -> list[Any]:
    """Return the cells of a grid, all slow but a diagonal that visits every row and every column."""
    cells = []
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        visited = i % len(columns) == j or j % len(rows) == i
        cells.append(pytest.param(rows[i], columns[j], marks=[] if visited else [pytest.mark.slow]))
    return cells


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_space() -> MobileNetV3Space:
    return make_space("mobilenetv3_8")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty images of each of two classes, in the layout of CIFAR-10's class folders."""
    rng = np.random.default_rng(0)
    for number in range(2):
        for image in range(20):
            path = tmp_path / "source" / "train" / f"c{number}" / f"{image:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "source"
