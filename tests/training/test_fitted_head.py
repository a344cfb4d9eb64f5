"""The head fitted to one client: its minimum by hand, its conditions, what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from corolla.training.fitted_head import fit_head, solve
from corolla.training.knn import Embedded, embed
from tests.conftest import make_space
from tests.training.conftest import colourful, sgd


def _seen(features: torch.Tensor, labels: list[int], classes: int) -> Embedded:
    return Embedded(features.double(), torch.zeros(len(labels), classes), torch.tensor(labels))


def test_without_features_only_frequencies_are_learned() -> None:
    """Three images of one class, one of the other: the logits differ by log 3, and add up to 0."""
    weight, bias = solve([_seen(torch.zeros(4, 2), [0, 0, 0, 1], 2)], l2=1e-9)
    assert not weight.any()
    assert bias.tolist() == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-4)
    assert not solve([_seen(torch.zeros(4, 2), [0, 0, 0, 1], 2)], l2=1e-9, bias=False)[1].any()


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_at_the_minimum_no_gradient_is_left(l2: float) -> None:
    rng = torch.Generator().manual_seed(1)
    features = 5 * torch.randn(30, 4, generator=rng).double()
    logits = torch.randn(30, 3, generator=rng)
    labels = torch.randint(3, (30,), generator=rng)
    weight, bias = solve([Embedded(features, logits, labels)], l2=l2)
    scale = features.norm(dim=1).mean()
    scaled = (weight * scale).requires_grad_()
    bias.requires_grad_()
    summed = logits.double() + functional.linear(features / scale, scaled, bias)
    loss = functional.cross_entropy(summed, labels) + l2 * (scaled.square().sum() + bias @ bias)
    for gradient in torch.autograd.grad(loss, [scaled, bias]):
        assert float(gradient.abs().max()) < 1e-4
    strict, _ = solve([Embedded(features, logits, labels)], l2=1e6)
    assert float(strict.abs().max()) < 1e-6


def test_a_network_that_has_diverged_stays_as_it_is() -> None:
    space = make_space("mobilenetv2_8", num_classes=4, in_channels=3)
    model = space.subnet(space.smallest()).eval()
    classifier = model.get_submodule("head.classifier")
    before = classifier.weight.detach().clone()
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    assert fit_head(model, colourful(8), trainer=sgd(), classes=4, l2=0.01) == 8
    assert torch.equal(classifier.weight, before)


@pytest.mark.parametrize(("augment", "passes"), [("none", 1), ("flip", 2)])
def test_the_network_keeps_all_but_its_classifier(augment: str, passes: int) -> None:
    space = make_space("mobilenetv2_8", num_classes=4, in_channels=3)
    torch.manual_seed(0)
    model = space.subnet(space.smallest()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, trainer = colourful(8), sgd(augment=augment)
    old = embed(model, images, trainer=trainer, classes=4)
    assert fit_head(model, images, trainer=trainer, classes=4, l2=0.01) == 8 * passes
    new = embed(model, images, trainer=trainer, classes=4)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}
    torch.testing.assert_close(new.features, old.features)
    better = [functional.cross_entropy(one.logits, one.labels) for one in (old, new)]
    assert better[1] < better[0]
