"""The MobileNetV3 space against the specification's numbers and the laws of the supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corolla.spaces.architecture import Architecture
from corolla.spaces.costs import saved_bytes
from corolla.spaces.mobilenetv3 import MobileNetV3Space
from corolla.spaces.supernet import ElasticSupernet, to_arrays
from corolla.types import Arrays
from tests.conftest import make_space
from tests.spaces import trained_statistics

SPACES = ["mobilenetv3", "mobilenetv3_32", "mobilenetv3_8"]
FULL = make_space("mobilenetv3")
SMALL = make_space("mobilenetv3_8")
STATE = SMALL.initial_state(0)
ARCHITECTURES = st.integers(0, 2**32).map(lambda seed: SMALL.sample(np.random.default_rng(seed)))


def test_full_size_matches_the_specification() -> None:
    # specs: 23 dimensions, 19 with a choice, 49 logits, 8,957,952 architectures.
    assert len(FULL.dimensions) == 23
    assert sum(len(d) > 1 for d in FULL.dimensions) == 19
    assert FULL.num_logits == 49
    assert FULL.size == 8_957_952


@pytest.mark.parametrize(
    ("architecture", "params_m", "mmacs"),
    [(FULL.smallest(), 1.04, 29), (FULL.largest(), 5.35, 270)],
)
def test_full_size_costs(architecture: Architecture, params_m: float, mmacs: int) -> None:
    # The specification's parameters count a shortcut convolution (and its BN) in every block that has
    # equal widths, which the public code holds and never runs. Ours hold none: add them for comparison.
    unused = sum(
        p.outputs * p.outputs + 2 * p.outputs
        for p in FULL.plan(architecture)
        if p.inputs == p.outputs
    )
    costs = FULL.costs(architecture)
    assert round((costs.params + unused) / 1e6, 2) == params_m
    assert round(costs.macs / 1e6) == mmacs


def test_saved_bytes_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3, bias=False)
            self.second = nn.Linear(3, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x)))

    # Kept: the input (5 x 4) for the first weight's gradient, relu's result (5 x 3), once. 4 bytes each.
    assert saved_bytes(Net(), (5, 4)) == 4 * (5 * 4 + 5 * 3)


@settings(max_examples=15)
@given(architecture=ARCHITECTURES, seed=st.integers(0, 100))
def test_subnet_equals_the_masked_supernet(architecture: Architecture, seed: int) -> None:
    """Independent of how we cut: zero all that the architecture does not own, skip its missing blocks."""
    state = trained_statistics(STATE)
    images = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(3, 1, 8, 8)).astype(np.float32)
    )
    subnet = SMALL.load(architecture, SMALL.cut(state, architecture)).eval()
    with torch.no_grad():
        expected = _masked(SMALL, state, architecture, images)
        torch.testing.assert_close(subnet(images), expected, rtol=1e-4, atol=1e-5)


def _masked(
    space: MobileNetV3Space, state: Arrays, architecture: Architecture, images: torch.Tensor
) -> torch.Tensor:
    shapes = space.shapes(architecture)
    masked: Arrays = {}
    for name, array in state.items():
        masked[name] = np.zeros_like(array)
        if name in shapes:
            block = []
            for axis, (size, whole) in enumerate(zip(shapes[name], array.shape, strict=True)):
                start = 0 if axis < 2 else (whole - size) // 2
                block.append(slice(start, start + size))
            masked[name][tuple(block)] = array[tuple(block)]
        if name.endswith("running_var"):
            masked[name][masked[name] == 0] = 1.0
    whole_net = space.supernet().eval()
    whole_net.load_state_dict({name: torch.from_numpy(a) for name, a in masked.items()})
    values = space.values(architecture)
    x = whole_net.stem(images)
    for number, stage in enumerate(whole_net.stages, start=1):
        inputs = int(values["stem.width"] if number == 1 else values[f"mb{number - 1}.width"])
        for depth in range(int(values[f"mb{number}.depth"])):
            block = stage[depth]
            y = block.expand(x) if block.expand is not None else x
            y = block.depthwise(y)
            y = block.se(y) if block.se is not None else y
            y = block.project(y)
            shortcut = x
            if block.stride > 1:
                shortcut = nn.functional.avg_pool2d(shortcut, block.stride, ceil_mode=True)
            widths_differ = depth == 0 and inputs != int(values[f"mb{number}.width"])
            if widths_differ:
                # Where the largest network has equal widths it has no shortcut convolution to mask.
                shortcut = block.shortcut(shortcut)
            else:
                missing = y.shape[1] - shortcut.shape[1]
                shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, max(missing, 0)))[
                    :, : y.shape[1]
                ]
            x = y + shortcut
    return whole_net.head(x)


def test_elastic_supernet_moves_running_statistics_of_the_region_in_training() -> None:
    architecture = SMALL.smallest()
    elastic = ElasticSupernet(SMALL, STATE).train()
    elastic(torch.randn(4, 1, 8, 8), architecture)
    name = "head.expand.bn.running_var"
    (channels,) = SMALL.shapes(architecture)[name]
    changed = elastic.state()[name]
    assert (changed[:channels] != 1).all()
    np.testing.assert_array_equal(changed[channels:], 1)


def test_load_refuses_arrays_of_another_architecture() -> None:
    arrays = SMALL.cut(STATE, SMALL.smallest())
    with pytest.raises(ValueError, match="arrays do not fit the architecture of 'mobilenetv3_8'"):
        SMALL.load(SMALL.largest(), arrays)


def test_state_dict_of_a_subnet_loads_back_into_a_plain_module() -> None:
    subnet = SMALL.subnet(SMALL.smallest())
    SMALL.subnet(SMALL.smallest()).load_state_dict(subnet.state_dict())
    assert not [name for name in to_arrays(subnet) if "num_batches" in name]
