"""The MobileNetV2 space of HAPFNAS against the published counts, and the laws of the supernet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.architecture import Architecture
from corolla.spaces.layers import make_divisible
from corolla.spaces.mobilenetv2 import MobileNetV2Space
from corolla.spaces.mobilenetv2_blocks import DropConnect
from corolla.spaces.supernet import ElasticSupernet
from corolla.types import Arrays
from tests.conftest import make_space
from tests.spaces import trained_statistics

SPACES = ["mobilenetv2", "mobilenetv2_small", "mobilenetv2_8"]
FULL = make_space("mobilenetv2")
TINY = make_space("mobilenetv2_8")
TINY_STATE = TINY.initial_state(0)
ARCHITECTURES = st.integers(0, 2**32).map(lambda seed: TINY.sample(np.random.default_rng(seed)))


def _meta(space: MobileNetV2Space, architecture: Architecture) -> nn.Module:
    with torch.device("meta"):
        return space.subnet(architecture)


@pytest.mark.parametrize(
    ("classes", "which", "params", "macs", "thop"),
    [  # parameters and thop's counts: the public code's; MACs: the same without BatchNorm
        (10, "smallest", 2_050_130, 46_407_808, 49_920_128),
        (10, "largest", 4_985_514, 135_312_640, 145_155_328),
        (100, "smallest", 2_165_420, 46_523_008, 50_035_328),
        (100, "largest", 5_100_804, 135_427_840, 145_270_528),
        (200, "smallest", 2_293_520, 46_651_008, 50_163_328),
        (200, "largest", 5_228_904, 135_555_840, 145_398_528),
    ],
)
def test_full_size_has_the_published_counts(
    classes: int, which: str, params: int, macs: int, thop: int
) -> None:
    space = make_space("mobilenetv2", num_classes=classes)
    architecture = space.named(which)
    costs = space.costs(architecture)
    assert (costs.params, costs.macs) == (params, macs)
    assert _as_thop_counts(_meta(space, architecture)) == thop


def _as_thop_counts(module: nn.Module) -> int:
    """Count as the tool of the public code: BatchNorm 4 per number, convolutions without their bias."""
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            counts.append(4 * output.numel())
        elif isinstance(layer, nn.Conv2d):
            counts.append(output.numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.Linear):
            counts.append(layer.in_features * layer.out_features)

    for layer in module.modules():
        layer.register_forward_hook(count)
    module.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    return sum(counts)


def test_seventeen_dimensions_vary() -> None:
    varying = {d.name: d.choices for d in FULL.dimensions if len(d) > 1}
    assert varying == {
        "stem.width": (16, 24, 32),
        "mb3.width": (32, 40),
        "mb4.width": (48, 56, 64),
        "mb6.width": (96, 128, 160),
        "mb2.depth": (2, 3, 4),
        **{f"mb{i}.depth": (3, 4) for i in (3, 4, 5, 6)},
        **{f"mb{i}.kernel": (3, 5) for i in (2, 3, 4, 5, 6)},
        **{f"mb{i}.expand": (3, 4, 5, 6) for i in (2, 3, 4)},
    }
    assert FULL.features(FULL.largest()).tolist() == [1.0] * 17
    assert FULL.size == 3 * 2 * 3 * 3 * 3 * 2**4 * 2**5 * 4**3 == 5_308_416
    # Fixed dimensions are there, with one choice: stem and 7 stages of 4, resolution, last.
    assert len(FULL.dimensions) == 31


@pytest.mark.parametrize(
    ("name", "varying", "macs", "params"),
    [
        ("mobilenetv2_small", 15, (490_624, 3_492_480), (23_410, 167_298)),
        ("mobilenetv2_8", 12, (55_136, 343_616), (8_298, 73_202)),
    ],
)
def test_small_spaces_are_as_large_as_their_files_say(
    name: str, varying: int, macs: tuple[int, int], params: tuple[int, int]
) -> None:
    space = make_space(name)
    ends = space.costs(space.smallest()), space.costs(space.largest())
    assert len(space.features(space.largest())) == varying
    assert (ends[0].macs, ends[1].macs) == macs
    assert (ends[0].params, ends[1].params) == params


@settings(max_examples=25)
@given(architecture=ARCHITECTURES, seed=st.integers(0, 100))
def test_subnet_is_the_network_by_hand(architecture: Architecture, seed: int) -> None:
    """Independent of modules and cuts: the formulas, on leading channels and centres of kernels."""
    state = trained_statistics(TINY_STATE, 0.3)
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(3, 1, 8, 8)).astype(np.float32))
    subnet = TINY.load(architecture, TINY.cut(state, architecture)).eval()
    with torch.no_grad():
        expected = _by_hand(state, TINY.values(architecture), images)
        torch.testing.assert_close(subnet(images), expected, rtol=1e-4, atol=1e-4)


def _by_hand(state: Arrays, values: dict[str, Any], x: Tensor) -> Tensor:
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}

    def conv(name: str, x: Tensor, out: int, kernel: int = 1, stride: int = 1) -> Tensor:
        weight = tensors[name + ".weight"]
        edge = (weight.shape[2] - kernel) // 2
        depthwise = weight.shape[1] == 1 and x.shape[1] == out
        weight = weight[:out, : 1 if depthwise else x.shape[1]]
        weight = weight[:, :, edge : edge + kernel, edge : edge + kernel]
        groups = out if depthwise else 1
        return functional.conv2d(x, weight, None, stride, kernel // 2, groups=groups)

    def unit(name: str, x: Tensor, out: int, kernel: int = 1, stride: int = 1) -> Tensor:
        x = conv(f"{name}.conv", x, out, kernel, stride)
        gamma, beta, mean, var = (
            tensors[f"{name}.bn.{key}"][:out].view(1, -1, 1, 1)
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * gamma + beta

    def gate(name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        squeeze = make_divisible(channels // 4)
        inner = conv(f"{name}.reduce", x.mean((2, 3), keepdim=True), squeeze)
        inner = torch.relu(inner + tensors[f"{name}.reduce.bias"][:squeeze].view(1, -1, 1, 1))
        outer = conv(f"{name}.expand", inner, channels)
        outer = outer + tensors[f"{name}.expand.bias"][:channels].view(1, -1, 1, 1)
        return x * torch.clamp(outer / 6 + 0.5, 0, 1)

    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    x = swish(unit("stem", x, values["stem.width"], 3))
    for i, (stride, se) in enumerate([(1, False), (2, True), (2, False), (1, True)]):
        key = f"mb{i + 1}"
        kernel, width = values[f"{key}.kernel"], values[f"{key}.width"]
        for position in range(values[f"{key}.depth"]):
            name = f"stages.{i}.{position}"
            step = stride if position == 0 else 1
            around = functional.avg_pool2d(x, step)
            if x.shape[1] != width:
                around = conv(f"{name}.shortcut", around, width)
            if values[f"{key}.expand"] > 1:
                wide = make_divisible(x.shape[1] * values[f"{key}.expand"])
                x = swish(unit(f"{name}.expand", x, wide))
            x = swish(unit(f"{name}.depthwise", x, x.shape[1], kernel, step))
            x = gate(f"{name}.se", x) if se else x
            x = unit(f"{name}.project", x, width) + around
    x = swish(unit("head.last", x, values["last.width"])).mean((2, 3))
    return x @ tensors["head.classifier.weight"].T + tensors["head.classifier.bias"]


def test_residual_branches_start_at_zero() -> None:
    for name, array in TINY_STATE.items():
        if name.endswith("bn.weight"):
            assert (array == (0 if "project" in name else 1)).all(), name


def test_batch_norm_settings() -> None:
    layers = _meta(FULL, FULL.smallest()).modules()
    found = {(m.eps, m.momentum) for m in layers if isinstance(m, nn.BatchNorm2d)}
    assert found == {(1e-5, 0.1)}


def test_shortcut_is_a_bare_convolution_only_where_widths_differ() -> None:
    # Smallest: the stem and mb1, and mb5 and mb6, are equally wide. Largest: no two stages are.
    def found(architecture: Architecture) -> list[str]:
        return [name for name in FULL.shapes(architecture) if "shortcut" in name]

    differing = [f"stages.{i}.0.shortcut.weight" for i in range(7)]
    assert found(FULL.largest()) == differing
    assert found(FULL.smallest()) == differing[1:5] + differing[6:]


def test_where_only_the_largest_has_equal_widths_all_have_the_shortcut() -> None:
    stage = {"width": 16, "depth": 1, "kernel": 3, "expand": 2, "stride": 1, "se": False}
    space = make_space("mobilenetv2_8", stem=[8, 16], stages=[stage])
    for architecture in (space.smallest(), space.largest()):
        width = space.values(architecture)["stem.width"]
        assert space.shapes(architecture)["stages.0.0.shortcut.weight"] == (16, width, 1, 1)


def test_only_the_largest_has_dropout_and_only_in_training() -> None:
    space = make_space("mobilenetv2_8", dropout=0.5, drop_connect=0.9)
    plain, images = make_space("mobilenetv2_8"), torch.randn(8, 1, 8, 8)
    state = trained_statistics(TINY_STATE, 0.3)
    almost = list(space.largest().choices)
    almost[1] -= 1
    for architecture, drops in (
        (space.largest(), True),
        (Architecture(tuple(almost)), False),
        (space.smallest(), False),
    ):
        model = space.load(architecture, space.cut(state, architecture))
        elastic = ElasticSupernet(space, state)
        reference = plain.load(architecture, plain.cut(state, architecture))
        assert list(model.state_dict()) == list(reference.state_dict())
        torch.testing.assert_close(model.eval()(images), reference.eval()(images), rtol=0, atol=0)
        # In training BatchNorm takes its statistics from the batch: two passes agree without dropout.
        model.train(), elastic.train()
        assert (not torch.equal(model(images), model(images))) == drops
        twice = [elastic(images, architecture) for _ in range(2)]
        assert (not torch.equal(*twice)) == drops


def test_where_the_full_size_network_drops() -> None:
    network = _meta(FULL, FULL.largest())
    found = {name: m for name, m in network.named_modules() if isinstance(m, DropConnect)}
    # 22 blocks, four in mb6, one in mb7. Of mb6 the first has a stride, mb7's changes the width.
    expected = {f"stages.5.{i}.project.activation": 0.2 * (17 + i) / 22 for i in (1, 2, 3)}
    assert {name: m.rate for name, m in found.items()} == pytest.approx(expected)
    drop = network.get_submodule("head.dropout")
    assert isinstance(drop, nn.Dropout)
    assert drop.p == 0.2
    for kind in (DropConnect, nn.Dropout):
        assert not [m for m in _meta(FULL, FULL.smallest()).modules() if isinstance(m, kind)]


def test_branches_beside_a_stride_are_never_dropped() -> None:
    stage = {"width": 16, "kernel": 3, "expand": 2, "se": False}
    stages = [stage | {"depth": 1, "stride": 1}, stage | {"depth": 2, "stride": 2}]
    space = make_space("mobilenetv2_8", stem=[16], stages=stages, drop_connect=0.6)
    modules = space.subnet(space.largest()).named_modules()
    # Of three blocks the first has a rate of 0 of 3 parts, the second a stride.
    found = {name: m.rate for name, m in modules if isinstance(m, DropConnect)}
    assert found == pytest.approx({"stages.1.1.project.activation": 0.6 * 2 / 3})


def test_drop_connect_drops_whole_images_and_keeps_the_mean() -> None:
    drop, x = DropConnect(0.25), torch.ones(4000, 2, 3, 3)
    torch.manual_seed(0)
    dropped = drop.train()(x)
    images = dropped.flatten(1)
    assert (images == images[:, :1]).all()
    assert sorted(set(images[:, 0].tolist())) == [0.0, pytest.approx(1 / 0.75)]
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)  # 6 standard errors of 0.009
    assert drop.eval()(x) is x
