"""FedorAS's space: costs by hand, and which operations have a shortcut."""

from __future__ import annotations

import pytest
import torch

from corolla.spaces.architecture import Architecture
from corolla.spaces.choice_blocks import OPERATIONS, ChoiceBlockSpace
from tests.conftest import make_space

NAMES = list(OPERATIONS)
OUTSIDE = 4 * 9 * 16 + (4 * 9 + 4 * 6 + 4 * 6 * 4) * 4 + 6 * 3  # stem, reduction, classifier


def space(resolution: int = 4) -> ChoiceBlockSpace:
    return ChoiceBlockSpace(
        name="one_block",
        num_classes=3,
        in_channels=1,
        resolution=resolution,
        stages=[{"width": 4, "blocks": 1}],
        outputs=6,
    )


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("identity", 0),
        ("conv_1", 4 * 4 * 16),
        ("separable_3_half", (2 * 2 * 9 + 2 * 4) * 16),  # two channels into each of two groups
        ("separable_3_2", (8 * 9 + 8 * 4) * 16),
        ("excited_1_2", (4 * 8 + 8 * 4) * 16 + 2 * 8 * 8),
        ("excited_3_half", (4 * 2 * 9 + 2 * 4) * 16 + 2 * 2 * 2),
    ],
)
def test_multiply_accumulates_by_hand(name: str, macs: int) -> None:
    assert space().macs(Architecture((NAMES.index(name),))) == OUTSIDE + macs


@pytest.mark.parametrize("name", NAMES)
def test_all_operations_but_the_plain_convolution_have_a_shortcut(name: str) -> None:
    operation = OPERATIONS[name](4).eval()
    for parameter in operation.parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.randn(1, 4, 4, 4)
    expected = torch.zeros_like(images) if name == "conv_1" else images
    assert torch.equal(operation(images), expected)


def test_the_published_space_has_about_twice_the_parameters_that_may_be_sent() -> None:
    """16 blocks of 9; clients of the paper get at most 11.4 million."""
    whole = make_space("fedoras")
    numbers = sum(torch.Size(shape).numel() for shape in whole.supernet_shapes.values())
    assert len(whole.dimensions) == 16
    assert 11.4e6 < numbers < 2 * 11.4e6
    assert whole.supernet_shapes["classifier.weight"] == (10, 324)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 2 pixels"):
        space(resolution=5)
