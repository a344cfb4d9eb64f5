from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from corolla.spaces.layers import BatchNorm
from tests.conftest import make_space


def torchvisions(norm: Any) -> nn.Module:
    """Return torchvision's own ResNet-18 with a stem for small images."""
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10, norm_layer=norm)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_it_is_torchvisions_network(norm: str) -> None:
    space = make_space("resnet18", norm=norm)
    state = space.initial_state(0)
    reference = torchvisions(BatchNorm if norm == "batch" else lambda n: nn.GroupNorm(2, n))
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    reference.load_state_dict(tensors, strict=True)  # names and shapes are the same
    model = space.load(space.largest(), state)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for mode in (True, False):
        logits = model.train(mode)(images)
        assert logits.shape == (2, 10)
        torch.testing.assert_close(logits, reference.train(mode)(images))


def test_sizes() -> None:
    costs = make_space("resnet18").costs(make_space("resnet18").largest())
    # Each of the last three stages: 64*128*9 + 3*128*128*9 + 64*128 = 524,288 weights, times 1, 4, 16
    weights = 3 * 64 * 9 + 4 * 64 * 64 * 9 + 524_288 * (1 + 4 + 16)
    norms = 2 * 5 * (64 + 128 + 256 + 512)  # scale and shift of five layers: stem or shortcut, four
    assert costs.params == weights + norms + 512 * 10 + 10 == 11_173_962
    # ... seen 16 * 16, 8 * 8, 4 * 4 times, so each of them costs the same
    macs = 3 * 64 * 9 * 1024 + 4 * 64 * 64 * 9 * 1024 + 3 * 524_288 * 256 + 512 * 10
    assert costs.macs == macs == 555_422_720
    assert costs.payload_bytes == 4 * (11_173_962 + norms)  # a mean and a variance as well
    group = make_space("resnet18_gn")
    without = group.costs(group.largest())
    assert (without.params, without.macs, without.payload_bytes) == (
        11_173_962,
        macs,
        4 * 11_173_962,
    )
    small = make_space("resnet18", width=8)
    assert small.costs(small.largest()).params == 176_402


def test_there_is_one_architecture() -> None:
    space = make_space("resnet18")
    assert space.size == 1
    assert space.smallest() == space.middle() == space.largest()
    assert space.sample(np.random.default_rng(0)) == space.largest()
    assert space.values(space.largest()) == {"width": 64}
    assert space.fingerprint() != make_space("resnet18", width=8).fingerprint()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_no_layer_counts_batches_and_groups_keep_no_statistics(norm: str) -> None:
    names = make_space("resnet18", width=8, norm=norm).supernet_shapes
    assert not any(name.endswith("num_batches_tracked") for name in names)
    assert any(name.endswith("running_mean") for name in names) == (norm == "batch")


def test_weights_start_as_torchvisions() -> None:
    state = make_space("resnet18", width=16).initial_state(0)
    # He et al., ICCV 2015, by outputs: sqrt(2 / (128 channels * 9))
    assert state["layer4.0.conv2.weight"].std() == pytest.approx(0.04167, rel=0.01)
    assert state["layer4.0.downsample.0.weight"].std() == pytest.approx((2 / 128) ** 0.5, rel=0.03)


def test_images_of_another_size_are_scaled() -> None:
    space = make_space("resnet18", width=8, resolution=16)
    model = space.load(space.largest(), space.initial_state(0)).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scaled = nn.functional.interpolate(images, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(model(images), model(scaled))
