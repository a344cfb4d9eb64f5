"""Thinner copies of a network: channels by hand, windows that roll, the Scaler, what is refused."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import cut, paste, region_shape
from corolla.aggregation.rolling import rolling_regions
from corolla.aggregation.updates import Update
from corolla.errors import RefusedError
from corolla.spaces.architecture import Architecture
from corolla.spaces.narrowing import ScaledBatchNorm, kept_channels
from corolla.spaces.width_sliced import WidthSlicedSpace, require_width_sliced
from corolla.types import Arrays
from tests.conftest import make_space

WIDEST = "stages.3.1.expand.conv.weight"
QUARTER = Architecture((2,))
BASES: dict[str, dict[str, Any]] = {
    "mobilenetv2_8": {},
    "mobilenetv3_8": {},
    "elastic_resnet": {"resolution": 8},
    "resnet18": {"width": 8, "resolution": 8},
    "elastic_cnn": {"resolution": 16, "norm": "none"},  # GroupNorm sees what is masked
    "cnn_fedrep": {"channels": [6, 10]},  # behind its convolutions 25 numbers of each channel
}


@cache
def _space(base: str, scaler: bool = False) -> WidthSlicedSpace:
    whole = make_space(base, **BASES[base])
    return WidthSlicedSpace(
        name="thin",
        num_classes=10,
        in_channels=whole.in_channels,
        base=whole,
        rates=[1 / 16, 1 / 8, 1 / 4, 1 / 2, 1],
        scaler=scaler,
    )


@cache
def _state(base: str) -> Arrays:
    """Weights with a residual branch, which fresh ones may not have, and statistics to tell apart."""
    rng = np.random.default_rng(0)
    return {
        name: (np.abs(rng.normal(0, 0.3, array.shape)) + (0.5 if "var" in name else 0.0)).astype(
            np.float32
        )
        * (1 if array.ndim < 2 else rng.choice([-1, 1], array.shape).astype(np.float32))
        for name, array in _space(base).initial_state(0).items()
    }


def _images(space: WidthSlicedSpace, count: int) -> Tensor:
    shape = (count, space.in_channels, space.resolution, space.resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_channels_by_hand() -> None:
    """A quarter of 16, 8, 16*4=64 (squeezed to 16), 32, 64: image, classes and kernels stay whole."""
    shapes = make_space("mobilenetv2_width_8").shapes(QUARTER)
    assert shapes["stem.conv.weight"] == (4, 1, 3, 3)
    assert shapes["stages.0.0.shortcut.weight"] == (2, 4, 1, 1)
    assert "stages.0.0.expand.conv.weight" not in shapes
    assert shapes["stages.0.0.depthwise.conv.weight"] == (4, 1, 3, 3)
    assert shapes["stages.1.1.expand.conv.weight"] == (16, 4, 1, 1)
    assert shapes["stages.1.1.depthwise.conv.weight"] == (16, 1, 5, 5)
    assert shapes["stages.1.1.depthwise.bn.running_var"] == (16,)
    assert shapes["stages.1.1.se.reduce.weight"] == (4, 16, 1, 1)
    assert shapes["stages.1.1.se.expand.bias"] == (16,)
    assert shapes["stages.1.1.project.conv.weight"] == (4, 16, 1, 1)
    assert shapes["head.classifier.weight"] == (10, 16)
    assert shapes["head.classifier.bias"] == (10,)


def test_channels_are_rounded_up() -> None:
    assert [kept_channels(8, rate) for rate in (1 / 16, 1 / 8, 1 / 4, 1)] == [1, 1, 2, 8]
    assert kept_channels(9, 0.5) == 5
    assert kept_channels(100, 0.07) == 7  # 0.07 * 100 is a little above 7
    assert kept_channels(3, 1e-12) == 1


@pytest.mark.parametrize("name", ["8", "small", "full"])
def test_the_whole_network_is_the_base_spaces_largest(name: str) -> None:
    tail = "" if name == "full" else f"_{name}"
    thin = make_space(f"mobilenetv2_width{tail}", in_channels=1)
    base = make_space(f"mobilenetv2{tail}", in_channels=1)
    assert thin.supernet_shapes == base.supernet_shapes
    assert thin.costs(thin.largest()).macs == base.costs(base.largest()).macs
    if name == "8":
        fresh, expected = thin.initial_state(3), base.initial_state(3)
        assert all(np.array_equal(fresh[key], array) for key, array in expected.items())


def test_costs_grow_with_the_rate() -> None:
    space = make_space("mobilenetv2_width_8")
    found = [space.costs(architecture) for architecture in space.enumerate()]
    assert [c.params for c in found] == sorted({c.params for c in found})
    assert [c.macs for c in found] == sorted({c.macs for c in found})
    assert [c.training_memory_mib for c in found] == sorted({c.training_memory_mib for c in found})


@pytest.mark.parametrize("shift", [0, 1, 13])
@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("base", BASES)
def test_a_window_computes_what_the_whole_does_with_everything_else_masked(
    base: str, rate: int, shift: int
) -> None:
    """So depthwise convolutions, squeeze-and-excite and shortcuts own the channels they meet."""
    space, state = _space(base), _state(base)
    regions = space.window(Architecture((rate,)), shift)
    part = cut(state, regions)
    masked = paste({name: np.zeros_like(array) for name, array in state.items()}, part, regions)
    images = _images(space, 2)
    with torch.no_grad():
        whole = space.load(space.largest(), masked).eval()(images)
        thin = space.load(Architecture((rate,)), part).eval()(images)
    assert thin.abs().max() > 0.01
    torch.testing.assert_close(thin, whole, rtol=1e-4, atol=1e-5)


def test_windows_by_hand() -> None:
    state = {"weight": np.arange(20.0).reshape(5, 4), "bias": np.arange(5.0)}
    regions = rolling_regions(
        {"weight": (2, 3), "bias": (2,)}, {"weight": (5, 4), "bias": (5,)}, shift=4
    )
    part = cut(state, regions)
    # Rows (0 + 4, 1 + 4) mod 5 = 4, 0; columns (0 + 4, 1 + 4, 2 + 4) mod 4 = 0, 1, 2.
    np.testing.assert_array_equal(part["weight"], [[16, 17, 18], [0, 1, 2]])
    np.testing.assert_array_equal(part["bias"], [4, 0])


def test_an_axis_that_is_used_whole_stays_in_its_order() -> None:
    shapes = {"weight": (3, 1, 3, 3)}
    assert rolling_regions(shapes, shapes, shift=2).places["weight"].whole
    kernels = rolling_regions({"w": (1, 1, 3, 3)}, {"w": (2, 1, 5, 5)}, shift=1)
    assert kernels["w"] == (slice(1, 2), slice(0, 1), slice(1, 4), slice(1, 4))


@settings(max_examples=12)
@given(
    draws=st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 100)), min_size=1, max_size=4),
    shift=st.integers(0, 100),
)
def test_cut_then_averaged_back_leaves_everything_bit_identical(
    draws: list[tuple[int, float]], shift: int
) -> None:
    space, state = _space("mobilenetv2_8"), _state("mobilenetv2_8")
    updates = []
    for number, (rate, weight) in enumerate(draws):
        regions = space.window(Architecture((rate,)), shift)
        arrays = cut(state, regions)
        updates.append(Update(arrays=arrays, regions=regions, weight=weight, client=str(number)))
    after = coverage_average(state, updates)
    for name, array in state.items():
        assert after[name].tobytes() == array.tobytes(), name


def test_every_channel_is_covered_after_as_many_rounds_and_not_before() -> None:
    space = _space("mobilenetv2_8")
    smallest = space.smallest()
    longest = max(shape[0] for shape in space.supernet_shapes.values())
    seen = {name: np.zeros(shape, bool) for name, shape in space.supernet_shapes.items()}
    for shift in range(1, longest + 1):
        if shift == longest - space.shapes(smallest)[WIDEST][0]:
            assert not seen[WIDEST].all()
        for name, place in space.window(smallest, shift).places.items():
            seen[name][place.key] = True
    rows = {name: found.reshape(len(found), -1).any(1) for name, found in seen.items()}
    assert all(found.all() for found in rows.values())
    assert (space.shapes(smallest)[WIDEST][0], longest) == (9, 144)  # 3 * 48, of which a sixteenth


def test_the_leading_channels_do_not_move() -> None:
    space = _space("mobilenetv2_8")
    for architecture in space.enumerate():
        regions, leading = space.window(architecture, 0), space.regions(architecture)
        assert list(regions) == list(leading)
        state = _state("mobilenetv2_8")
        ours, wanted = cut(state, regions), cut(state, leading)
        assert all(np.array_equal(ours[name], wanted[name]) for name in wanted)
        size = sum(
            math.prod(region_shape(region, state[name].shape)) for name, region in regions.items()
        )
        assert 4 * size == space.costs(architecture).payload_bytes


class _Division(nn.Module):
    """HeteroFL's Scaler as it is written in the paper."""

    def __init__(self, layer: nn.Module, rate: float) -> None:
        super().__init__()
        self.layer, self.rate = layer, rate

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x / self.rate)  # type: ignore[no-any-return]


def test_the_scaler_is_a_division_in_training_and_nothing_in_scoring() -> None:
    torch.manual_seed(0)
    ours, plain = ScaledBatchNorm(3, rate=1 / 16), nn.BatchNorm2d(3)
    theirs = _Division(plain, 1 / 16)
    x = (0.01 * torch.randn(8, 3, 2, 2)).requires_grad_()  # so small that eps is felt
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(8, 3, 2, 2)
    outputs = [ours(x), theirs(y)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(x.grad, y.grad)
    assert not torch.allclose(nn.BatchNorm2d(3)(x), ours(x), rtol=1e-2)
    torch.testing.assert_close(ours.running_mean, 0.19 * x.mean((0, 2, 3)).detach())  # two batches
    alone = nn.BatchNorm2d(3).eval()
    alone.running_mean, alone.running_var = ours.running_mean, ours.running_var
    torch.testing.assert_close(ours.eval()(x), alone(x), rtol=0, atol=0)
    assert ours.eps == 1e-5


def test_the_scaler_stands_before_every_batch_norm_of_thin_networks_alone() -> None:
    space = _space("mobilenetv2_8", scaler=True)
    thin = [m for m in space.subnet(QUARTER).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(thin) > 10
    assert all(isinstance(m, ScaledBatchNorm) and m.rate == 0.25 for m in thin)
    whole = space.subnet(space.largest()).modules()
    assert not any(isinstance(module, ScaledBatchNorm) for module in whole)
    plain = _space("mobilenetv2_8").subnet(QUARTER).modules()
    assert not any(isinstance(module, ScaledBatchNorm) for module in plain)
    names = list(space.subnet(QUARTER).state_dict())
    assert names == list(space.shapes(QUARTER)) == list(space.supernet_shapes)


def test_building_a_space_draws_nothing() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    _space.__wrapped__("mobilenetv2_8")
    assert torch.random.get_rng_state().equal(before)


def test_the_fingerprint_changes_with_the_network() -> None:
    space = make_space("mobilenetv2_width_8")
    assert space.fingerprint() == make_space("mobilenetv2_width_8").fingerprint()
    assert space.fingerprint() != make_space("mobilenetv2_width_8", in_channels=3).fingerprint()
    assert space.fingerprint() != make_space("mobilenetv2_width_8", scaler=False).fingerprint()


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        (lambda: make_space("nasvit_32"), r"attention \(TalkingHeadsAttention\) has no channels"),
        (lambda: make_space("darts_small"), "joins channels"),
        (
            lambda: make_space("resnet18", width=8, resolution=8, norm="group", groups=2),
            r"bn1 \(GroupNorm\) has no channels",
        ),
        (lambda: 5, "must be a search space"),
        (lambda: {"_target_": "corolla.spaces.nowhere.Space"}, r"space\.supernet\.base="),
        (lambda: {"stages": []}, "has no _target_"),
    ],
    ids=["attention", "joins", "group_norm", "no_space", "no_such_target", "no_target"],
)
def test_networks_that_cannot_be_sliced_are_refused(base: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        WidthSlicedSpace(name="x", num_classes=10, in_channels=3, base=base(), rates=[0.5, 1.0])


def test_methods_that_need_rates_refuse_other_spaces() -> None:
    space = make_space("mobilenetv2_8")
    with pytest.raises(
        RefusedError, match=r"has no width rates, which HeteroFL gives.*space=mobile"
    ):
        require_width_sliced(space, "HeteroFL")
