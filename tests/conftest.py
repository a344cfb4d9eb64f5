"""Fixtures that several folders share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hydra.utils import get_class

from corolla.config.compose import compose_values
from corolla.spaces.mobilenetv3 import MobileNetV3Space

# A law that holds does not fail because the machine is busy.
hypothesis.settings.register_profile(
    "corolla", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("corolla")

CONF = Path(__file__).resolve().parents[1] / "conf"


@cache
def _composed(name: str) -> dict[str, Any]:
    """Return the supernet's node; a file may build on another one."""
    settings: dict[str, Any] = compose_values([f"space={name}"])["space"]["supernet"]
    return settings


def make_space(name: str, **changes: Any) -> Any:
    """Build a space from its YAML, for digits (names that end in _8) or colour images."""
    settings = dict(_composed(name))
    kind = get_class(settings.pop("_target_"))
    settings |= {"name": name, "num_classes": 10, "in_channels": 1 if name.endswith("_8") else 3}
    return kind(**(settings | changes))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_space() -> MobileNetV3Space:
    return make_space("mobilenetv3_8")
