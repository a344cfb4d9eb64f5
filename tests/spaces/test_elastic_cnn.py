from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.conftest import make_space
from tests.spaces import from_values
from tests.strategies.conftest import run


def test_sizes_of_the_extremes() -> None:
    space = make_space("elastic_cnn")
    assert space.size == (3 * 2 * 2) ** 3 * 3 == 5184
    # Channels 4, 8, 16 read at 32, 16, 8 pixels by 3x3 kernels; 4 pixels are left.
    small = space.costs(space.smallest())
    weights = 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16)  # and GroupNorm's
    assert small.params == weights + (16 * 16 * 64 + 64) + (640 + 10) == 18_702
    macs = 9 * (3 * 4 * 1024 + 4 * 8 * 256 + 8 * 16 * 64)
    assert small.macs == macs + 16 * 16 * 64 + 640 == 275_072
    # Channels 16, 24, 48; the second convolution of each stage reads 16, 8, 4 pixels.
    large = space.costs(space.largest())
    weights = 25 * (3 * 16 + 16 * 16 + 16 * 24 + 24 * 24 + 24 * 48 + 48 * 48)
    norms = 2 * 2 * (16 + 24 + 48)
    assert large.params == weights + norms + (48 * 16 * 256 + 256) + (2560 + 10) == 317_786
    macs = 25 * (
        3 * 16 * 1024 + (16 * 16 + 16 * 24) * 256 + (24 * 24 + 24 * 48) * 64 + 48 * 48 * 16
    )
    assert large.macs == macs + 48 * 16 * 256 + 2560 == 9_210_368
    assert large.payload_bytes == 4 * large.params  # no statistics
    plain = make_space("elastic_cnn", norm="none")
    biases = 2 * (16 + 24 + 48)
    assert plain.costs(plain.largest()).params == large.params - norms + biases


@pytest.mark.parametrize("norm", ["group", "none"])
def test_shapes_costs_and_kept_numbers_in_closed_form_are_exact(norm: str) -> None:
    space = make_space("elastic_cnn", norm=norm, resolution=20)  # 10, 5, 2: an odd side
    for architecture in (space.smallest(), space.middle(), space.largest()):
        counted = super(type(space), space)
        assert space.macs(architecture) == counted.macs(architecture)
        assert space.activation_bytes(architecture, 3) == counted.activation_bytes(architecture, 3)
        assert list(space.shapes(architecture).items()) == list(
            counted.shapes(architecture).items()
        )


def test_a_subnet_is_the_supernet_with_all_else_masked() -> None:
    """Independent of how regions are cut: leading channels, the kernels' centres, in plain torch."""
    space = make_space("elastic_cnn", resolution=16)
    state = space.initial_state(0)
    generator = torch.Generator().manual_seed(0)
    arrays = {key: torch.from_numpy(value) for key, value in state.items()}
    values = space.values(space.smallest()) | {"stage2.depth": 2, "stage2.kernel": 5}
    architecture = from_values(space, values)
    images = torch.randn(2, 3, 16, 16, generator=generator)
    model = space.load(architecture, space.cut(state, architecture))
    x = images
    for name, width, kernel in [("0.0", 4, 3), ("1.0", 8, 5), ("1.1", 8, 5), ("2.0", 16, 3)]:
        whole = arrays[f"stages.{name}.conv.weight"]
        weight = torch.zeros_like(whole)  # 5x5, of all channels
        edge = (5 - kernel) // 2
        inside = slice(edge, 5 - edge)
        weight[:width, : x.shape[1], inside, inside] = whole[:width, : x.shape[1], inside, inside]
        read = functional.pad(x, (0, 0, 0, 0, 0, whole.shape[1] - x.shape[1]))
        hidden = functional.conv2d(read, weight, padding=2)[:, :width]
        if name.endswith(".0"):
            hidden = functional.max_pool2d(hidden, 2)
        scale = arrays[f"stages.{name}.norm.weight"][:width]
        shift = arrays[f"stages.{name}.norm.bias"][:width]
        flat = hidden.flatten(1)
        deviation = (flat.var(1, unbiased=False) + 1e-5).sqrt()
        flat = (flat - flat.mean(1, keepdim=True)) / deviation[:, None]
        normed = flat.view_as(hidden) * scale[:, None, None] + shift[:, None, None]
        x = normed.relu() if name.endswith(".0") else x + normed.relu()
    features = x.flatten(1)  # channel by channel: leading channels are leading features
    assert features.shape == (2, 16 * 2 * 2)
    hidden = (features @ arrays["fc.weight"][:64, :64].T + arrays["fc.bias"][:64]).relu()
    logits = hidden @ arrays["classifier.weight"][:, :64].T + arrays["classifier.bias"]
    torch.testing.assert_close(model(images), logits)


def test_one_convolution_more_is_added_to_what_it_reads() -> None:
    space = make_space("elastic_cnn", resolution=8)
    deep = from_values(space, space.values(space.smallest()) | {"stage3.depth": 2})
    state = space.initial_state(0)
    state["stages.2.1.norm.weight"][:] = 0  # GroupNorm then gives nothing
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = [space.load(a, space.cut(state, a))(images) for a in (space.smallest(), deep)]
    torch.testing.assert_close(*logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=hapfnas", "space=elastic_cnn", "space.supernet.resolution=8", "rounds=3"],
        ["method=heterofl", "space=elastic_cnn_width", "space.supernet.base.resolution=8"],
        ["method=fedrolex", "space=elastic_cnn_width", "space.supernet.base.resolution=8"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_round_of_methods_with_needs_of_their_own(overrides: list[str], tmp_path: Path) -> None:
    small = ["rounds=1", "clients=2", "batch_size=32", "evaluation.fine_tune_epochs=0"]
    directory = run(tmp_path / "run", *small, *overrides)
    assert [line["failures"] for line in directory.metrics()] == [0] * directory.summary()["rounds"]
