"""The NASViT space against the specification's numbers, and its blocks against a reference of our own.

What holds for every space (regions, cut and aggregate, the elastic supernet) is tested for all at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from corolla.spaces.architecture import Architecture
from corolla.spaces.nasvit_blocks import TalkingHeadsAttention, TransformerPlan
from corolla.types import Arrays
from tests.conftest import make_space
from tests.spaces import from_values

FULL = make_space("nasvit")
SMALL = make_space("nasvit_32", resolution=[16, 24, 32])  # attention on 4, 6, 8 and 2, 3, 4 rows
STATE = SMALL.initial_state(0)
ARCHITECTURES = st.integers(0, 2**32).map(lambda seed: SMALL.sample(np.random.default_rng(seed)))


def test_full_size_matches_the_specification() -> None:
    # specs: 31 dimensions, 23 with a choice, 80 logits, 4.8e10 architectures.
    assert len(FULL.dimensions) == 31
    assert sum(len(d) > 1 for d in FULL.dimensions) == 23
    assert FULL.num_logits == 80
    # By hand, resolution to last: 4 * 2 * (2*2*2) * (2*3*2*3) * (2*4*3) * (2*4*3) * (3*7*3) * (4*6)
    # * (3*4) * 2.
    assert FULL.size == 4 * 2 * 8 * 36 * 24 * 24 * 63 * 24 * 12 * 2 == 48_157_949_952


@pytest.mark.parametrize(
    ("architecture", "params_m", "mmacs", "specified_params_m", "specified_mmacs"),
    [(FULL.smallest(), 6.63, 180, 7.4, 188), (FULL.largest(), 15.88, 1811, 15.8, 1880)],
)
def test_full_size_costs(
    architecture: Architecture,
    params_m: float,
    mmacs: int,
    specified_params_m: float,
    specified_mmacs: int,
) -> None:
    costs = FULL.costs(architecture)
    assert (round(costs.params / 1e6, 2), round(costs.macs / 1e6)) == (params_m, mmacs)
    # The specification's are of the public code, which does not cut attention: the largest agree.
    close = 0.05 if architecture == FULL.largest() else 0.12
    assert costs.params / 1e6 == pytest.approx(specified_params_m, rel=close)
    assert costs.macs / 1e6 == pytest.approx(specified_mmacs, rel=close)


def test_transformer_block_costs_by_hand() -> None:
    plan = TransformerPlan(name="b", outputs=16, head_dim=8, hidden=32, kernel=3, out_side=2)
    state = plan.build(functional.silu).state_dict()
    sizes = {name: tensor.numel() for name, tensor in state.items()}
    # Position 2 * 3 * 3, two mixings 2 * 2, norm 2 * 16, query, key, value 16 * 16 each, values'
    # convolution 16 * 9, projection 16 * 16 + 16; norm 2 * 16, widening 16 * 32 + 32, narrowing + 16.
    assert sum(sizes.values()) == 18 + 8 + 32 + 768 + 144 + 272 + 32 + 544 + 528
    # 4 positions: four 16 x 16 layers, the convolution, two layers of 16 x 32; 16 pairs: scores and
    # weighted values of 16 channels, two mixings of 2 x 2.
    assert plan.macs() == 4 * (1024 + 144 + 1024) + 16 * (32 + 8)


@settings(max_examples=12)
@given(architecture=ARCHITECTURES, seed=st.integers(0, 100))
def test_subnet_equals_the_supernets_weights_run_at_the_architecture(
    architecture: Architecture, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    state = {
        name: rng.uniform(0.5, 2.0, array.shape).astype(np.float32)
        if name.endswith("running_var")
        else (array + rng.normal(0, 0.05, array.shape)).astype(np.float32)
        for name, array in STATE.items()
    }
    images = torch.from_numpy(rng.normal(size=(2, 3, 32, 32)).astype(np.float32))
    subnet = SMALL.load(architecture, SMALL.cut(state, architecture)).eval()
    with torch.no_grad():
        expected = _reference(state, SMALL.values(architecture), images)
        torch.testing.assert_close(subnet(images), expected, rtol=1e-3, atol=1e-4)


def _reference(state: Arrays, values: dict[str, Any], images: Tensor) -> Tensor:
    """The network from the whole supernet's weights, by what was chosen; shares no code with ours."""
    whole = {name: torch.from_numpy(array) for name, array in state.items()}
    size = (values["resolution"],) * 2
    x = functional.interpolate(images, size=size, mode="bilinear") if size != (32, 32) else images
    x = functional.silu(_conv_bn(whole, "stem", x, values["stem.width"]))
    for number in range(1, 6):
        width, expand = values[f"mb{number}.width"], values[f"mb{number}.expand"]
        kernel, attention = values[f"mb{number}.kernel"], number >= 3
        for position in range(values[f"mb{number}.depth"]):
            name = f"stages.{number - 1}.{position}"
            if attention and position > 0:
                x = x + _attention(whole, f"{name}.attention", x, kernel)
                x = x + _perceptron(whole, f"{name}.perceptron", x, width * expand)
                continue
            stride = {1: 2, 2: 2, 4: 2}.get(number, 1) if position == 0 else 1
            x = _inverted_residual(whole, name, x, width, expand, kernel, stride)
    x = functional.silu(_conv_bn(whole, "head.expand", x, 6 * x.shape[1])).mean((2, 3))
    mix = whole["head.mix.weight"][: values["last.width"], : x.shape[1]]
    x = functional.silu(x @ mix.T)
    return x @ whole["head.classifier.weight"][:, : x.shape[1]].T + whole["head.classifier.bias"]


def _conv_bn(
    whole: dict[str, Tensor],
    name: str,
    x: Tensor,
    outputs: int,
    *,
    kernel: int = 0,
    stride: int = 1,
) -> Tensor:
    weight = whole[f"{name}.conv.weight"][:outputs]
    groups = outputs if kernel else 1
    if kernel:
        edge = (weight.shape[-1] - kernel) // 2
        weight = weight[:, :, edge : edge + kernel, edge : edge + kernel]
    else:
        weight = weight[:, : x.shape[1]]
    x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    scale, shift, mean, var = (
        whole[f"{name}.bn.{entry}"][:outputs, None, None]
        for entry in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def _inverted_residual(
    whole: dict[str, Tensor],
    name: str,
    x: Tensor,
    width: int,
    expand: int,
    kernel: int,
    stride: int,
) -> Tensor:
    inputs = x.shape[1]
    middle = inputs * expand  # widths are multiples of 8: nothing to round
    y = x
    if expand > 1:
        y = functional.silu(_conv_bn(whole, f"{name}.expand", y, middle))
    depthwise = _conv_bn(whole, f"{name}.depthwise", y, middle, kernel=kernel, stride=stride)
    y = functional.silu(depthwise)
    if f"{name}.se.reduce.weight" in whole:
        squeeze = max(8, int(middle / 4 + 4) // 8 * 8)
        squeeze += 8 if squeeze < 0.9 * (middle // 4) else 0
        gate = torch.einsum(
            "nc,sc->ns", y.mean((2, 3)), whole[f"{name}.se.reduce.weight"][:squeeze, :middle, 0, 0]
        )
        gate = functional.relu(gate + whole[f"{name}.se.reduce.bias"][:squeeze])
        gate = torch.einsum(
            "ns,cs->nc", gate, whole[f"{name}.se.expand.weight"][:middle, :squeeze, 0, 0]
        )
        gate = (gate + whole[f"{name}.se.expand.bias"][:middle]) / 6 + 0.5
        y = y * gate.clamp(0, 1)[:, :, None, None]
    y = _conv_bn(whole, f"{name}.project", y, width)
    if stride == 2:
        x = functional.avg_pool2d(x, 2, ceil_mode=True)
    # The first stage's is a convolution at equal widths too: 24 to 24 is its largest.
    if inputs != width or name == "stages.0.0":
        x = _conv_bn(whole, f"{name}.shortcut", x, width)
    return y + x


def _normed(whole: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """LayerNorm over the channels of a map."""
    width = x.shape[1]
    centred = x - x.mean(1, keepdim=True)
    x = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    weight, bias = (whole[f"{name}.norm.{entry}"][:width] for entry in ("weight", "bias"))
    return x * weight[:, None, None] + bias[:, None, None]


def _attention(whole: dict[str, Tensor], name: str, x: Tensor, kernel: int) -> Tensor:
    n, width, side, _ = x.shape
    heads = width // 8
    normed = _normed(whole, name, x)
    query, key, value = (
        torch.einsum("nchw,oc->nohw", normed, whole[f"{name}.{part}.weight"][:width, :width])
        for part in ("query", "key", "value")
    )
    scores = torch.einsum(
        "nhdyx,nhdvu->nhyxvu", *(m.view(n, heads, 8, side, side) for m in (query, key))
    ) / np.sqrt(8)
    table = whole[f"{name}.position"]
    centre = table.shape[-1] // 2
    for y in range(side):
        for z in range(side):
            for v in range(side):
                for u in range(side):
                    scores[:, :, y, z, v, u] += table[:heads, 0, centre + v - y, centre + u - z]
    before, after = (whole[f"{name}.{when}"][:heads, :heads] for when in ("before", "after"))
    scores = torch.einsum("gh,nhyxvu->ngyxvu", before, scores)
    weights = scores.exp() / scores.exp().sum((4, 5), keepdim=True)
    weights = torch.einsum("gh,nhyxvu->ngyxvu", after, weights)
    attended = torch.einsum(
        "nhyxvu,nhdvu->nhdyx", weights, value.view(n, heads, 8, side, side)
    ).reshape(n, width, side, side)
    local = whole[f"{name}.local.weight"][:width]
    edge = (local.shape[-1] - kernel) // 2
    local = local[:, :, edge : edge + kernel, edge : edge + kernel]
    attended = attended + functional.conv2d(value, local, padding=kernel // 2, groups=width)
    project = whole[f"{name}.project.weight"][:width, :width]
    y = torch.einsum("nchw,oc->nohw", functional.silu(attended), project)
    return y + whole[f"{name}.project.bias"][:width, None, None]


def _perceptron(whole: dict[str, Tensor], name: str, x: Tensor, hidden: int) -> Tensor:
    width = x.shape[1]
    widen, narrow = whole[f"{name}.widen.weight"], whole[f"{name}.narrow.weight"]
    y = torch.einsum("nchw,oc->nohw", _normed(whole, name, x), widen[:hidden, :width])
    y = functional.silu(y + whole[f"{name}.widen.bias"][:hidden, None, None])
    y = torch.einsum("nchw,oc->nohw", y, narrow[:width, :hidden])
    return y + whole[f"{name}.narrow.bias"][:width, None, None]


def _attention_bytes(architecture: Architecture) -> int:
    return 4 * sum(
        int(np.prod(shape))
        for name, shape in SMALL.shapes(architecture).items()
        if ".attention." in name or ".perceptron." in name
    )


@pytest.mark.parametrize(
    "dimension", ["resolution", "mb3.width", "mb3.kernel", "mb3.expand", "mb4.depth", "mb5.width"]
)
def test_a_smaller_choice_receives_less_and_computes_less_in_attention(dimension: str) -> None:
    largest = SMALL.largest()
    values = SMALL.values(largest)
    choices = next(d.choices for d in SMALL.dimensions if d.name == dimension)
    smaller = from_values(SMALL, values | {dimension: choices[-2]})
    assert _attention_bytes(smaller) < _attention_bytes(largest)
    assert SMALL.macs(smaller) < SMALL.macs(largest)


def test_a_smaller_resolution_owns_the_centre_of_the_position_table() -> None:
    name = "stages.2.1.attention.position"
    assert STATE[name].shape == (6, 1, 15, 15)  # 48 channels, offsets -7..7 of 8 rows
    values = SMALL.values(SMALL.largest()) | {"resolution": 16, "mb3.width": 40}
    part = SMALL.cut(STATE, from_values(SMALL, values))[name]
    # 16 pixels leave 4 rows, offsets -3..3; 40 channels are 5 heads.
    np.testing.assert_array_equal(part, STATE[name][:5, :, 4:11, 4:11])


def test_position_bias_of_a_pair_is_the_entry_of_its_offset() -> None:
    layer = TalkingHeadsAttention(width=8, head_dim=8, kernel=3, side=2, activation=functional.silu)
    layer.position.data = torch.arange(9.0).view(1, 1, 3, 3)  # rows -1, 0, 1; columns -1, 0, 1
    bias = layer._bias()[0].detach()
    # Positions (0,0), (0,1), (1,0), (1,1): to oneself 4, one to the right 5, one down 7, both 8.
    assert bias.tolist() == [[4, 5, 7, 8], [3, 4, 6, 7], [1, 2, 4, 5], [0, 1, 3, 4]]


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_gradient_reaches_every_parameter(which: str) -> None:
    torch.manual_seed(0)
    model = SMALL.subnet(SMALL.named(which)).train()
    labels = torch.arange(8) % 10
    functional.cross_entropy(model(torch.randn(8, 3, 32, 32)), labels).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
