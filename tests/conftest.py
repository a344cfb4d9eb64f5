"""Fixtures that several folders share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class

from corolla.spaces.mobilenetv3 import MobileNetV3Space

CONF = Path(__file__).resolve().parents[1] / "conf"


def make_space(name: str, **changes: Any) -> Any:
    """Build a space from its YAML, for digits (names that end in _8) or colour images."""
    settings = yaml.safe_load((CONF / "space" / f"{name}.yaml").read_text())["supernet"]
    kind = get_class(settings.pop("_target_"))
    settings |= {"name": name, "num_classes": 10, "in_channels": 1 if name.endswith("_8") else 3}
    return kind(**(settings | changes))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_space() -> MobileNetV3Space:
    return make_space("mobilenetv3_8")
