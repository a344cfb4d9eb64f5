"""Counting on the meta device: quicker than torch's own walk, and to the same numbers."""

from __future__ import annotations

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch

from corolla.spaces import blank, costs
from corolla.spaces.supernet import Supernet
from tests.conftest import make_space


@pytest.mark.parametrize(
    "name", ["fedoras_small", "ofa_resnet_small", "resnet18_gn", "darts_small"]
)
def test_what_is_counted_without_norms_arithmetic_is_what_torch_counts(name: str) -> None:
    space = make_space(name)
    architecture = space.sample(np.random.default_rng(0))

    def counted() -> tuple[int, int]:
        return Supernet.macs(space, architecture), Supernet.activation_bytes(space, architecture, 8)

    quick = counted()
    with mock.patch.object(costs, "ShapesOnly", contextlib.nullcontext):
        assert quick == counted()


def test_a_network_without_values_cannot_be_trained() -> None:
    layer = torch.nn.BatchNorm2d(3, device="meta")
    with blank.ShapesOnly(), pytest.raises(RuntimeError, match="nothing to learn"):
        layer(torch.empty(2, 3, 4, 4, device="meta")).sum().backward()
