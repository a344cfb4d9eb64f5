from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from corolla.errors import RefusedError
from tests.conftest import make_space
from tests.strategies.conftest import run


class NIIDBenchNet(nn.Module):
    """LeNet as NIID-Bench and Flower's baseline of it have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.conv1(images)))
        x = self.pool(torch.relu(self.conv2(x))).view(-1, 400)
        logits: torch.Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return logits


def test_lenet_is_niid_benchs_with_the_same_start_outputs_and_gradients() -> None:
    space = make_space("lenet")
    state = space.initial_state(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        reference = NIIDBenchNet()
    model = space.load(space.largest(), state)
    pairs = list(zip(model.parameters(), reference.parameters(), strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)  # torch's own initialisation
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert torch.equal(logits, reference(images))
    for network in (model, reference):
        nn.functional.cross_entropy(network(images), torch.arange(4)).backward()
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        # 32 pixels, 28 after the first convolution, 14, 10, 5 after the second pooling
        (
            "lenet",
            (75 * 6 + 6) + (150 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (840 + 10),
            784 * 75 * 6 + 100 * 150 * 16 + 400 * 120 + 120 * 84 + 840,
        ),
        (
            "cnn_fedavg",
            (75 * 32 + 32) + (800 * 64 + 64) + (1600 * 512 + 512) + (5120 + 10),
            784 * 75 * 32 + 100 * 800 * 64 + 1600 * 512 + 5120,
        ),
        (
            "cnn_fedrep",
            (75 * 64 + 64) + (1600 * 64 + 64) + (1600 * 120 + 120) + (120 * 64 + 64) + 650,
            784 * 75 * 64 + 100 * 1600 * 64 + 1600 * 120 + 120 * 64 + 640,
        ),
    ],
)
def test_sizes(name: str, params: int, macs: int) -> None:
    costs = make_space(name).costs(make_space(name).largest())
    assert (costs.params, costs.macs, costs.payload_bytes) == (params, macs, 4 * params)


def test_there_is_one_architecture_named_by_its_widths() -> None:
    space = make_space("lenet")
    assert space.size == 1
    assert space.smallest() == space.sample(np.random.default_rng(0)) == space.largest()
    values = {"conv1.width": 6, "conv2.width": 16, "fc1.width": 120, "fc2.width": 84, "kernel": 5}
    assert space.values(space.largest()) == values
    assert space.fingerprint() != make_space("lenet", hidden=[120, 80]).fingerprint()


def test_gray_images_of_28_pixels_as_they_are() -> None:
    space = make_space("lenet", in_channels=1, resolution=28)
    assert space.supernet_shapes["convolutions.0.weight"] == (6, 1, 5, 5)
    assert space.supernet_shapes["hidden.0.weight"] == (120, 16 * 4 * 4)  # 28, 24, 12, 8, 4


def test_the_classifier_may_follow_the_convolutions() -> None:
    space = make_space("lenet", hidden=[])
    assert space.supernet_shapes["classifier.weight"] == (10, 400)
    assert space.parts["head"] == ("classifier.weight", "classifier.bias")


def test_a_round_on_digits_and_no_normalisation_to_keep_private(tmp_path: Path) -> None:
    small = ["method=fedavg", "space=lenet", "rounds=1", "clients=2", "batch_size=32"]
    directory = run(tmp_path / "run", *small, "evaluation.fine_tune_epochs=0")
    (line,) = directory.metrics()
    assert line["failures"] == 0  # 8 pixels are scaled to 32
    with pytest.raises(RefusedError, match="norm"):
        run(tmp_path / "refused", *small, "private=[norm]")
