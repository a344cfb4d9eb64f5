"""The estimate of training memory against the measured peak of a training step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import make_space
from tests.measured_memory import measured_step_peak_mib


@pytest.mark.parametrize("name", ["mobilenetv3_8", "mobilenetv3_32"])
def test_estimate_is_near_the_measured_peak(name: str) -> None:
    space = make_space(name)
    ratios = []
    for architecture in (space.smallest(), space.largest(), space.sample(np.random.default_rng(0))):
        images = torch.randn(32, space.in_channels, space.resolution, space.resolution)
        peak = measured_step_peak_mib(
            space.subnet(architecture).train(),
            images,
            torch.zeros(32, dtype=torch.long),
            lambda parameters: torch.optim.AdamW(parameters),
        )
        ratios.append(peak / space.costs(architecture, batch_size=32).training_memory_mib)
    # Weights, gradients and moments are exact; of the activations the backward pass frees some before the
    # last gradients exist, and makes temporary ones.
    assert 0.85 < min(ratios) <= max(ratios) < 1.05
