"""Class priors and BN statistics in models that are scored and deployed; numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from corolla.errors import RefusedError
from corolla.training.prior import classifier_of, fold, log_prior
from corolla.training.scoring import Scoring, require_bias, takes_prior
from tests.training.conftest import Affine, colourful, convolutional, dots, sgd, state_of

# Of three images of class 0 and one of class 1: (3.5 and 1.5) of 5.
SKEWED = [math.log(0.7), math.log(0.3)]


def scoring(labels: list[int], **settings: Any) -> Scoring:
    given = {"statistics": "recalibrate", "prior": "auto", "loss": "cross_entropy", **settings}
    return Scoring(
        trainer=sgd(loss=given.pop("loss")),
        train=dots([0] * len(labels), labels),
        batch_size=4,
        classes=2,
        **given,
    )


def test_half_an_image_is_added_to_every_class() -> None:
    found = log_prior(torch.tensor([0, 0, 1]), 3)
    assert found.tolist() == pytest.approx(
        [math.log(2.5 / 4.5), math.log(1.5 / 4.5), math.log(0.5 / 4.5)]
    )
    assert found.exp().sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="labels go up to 3; there are 3 classes"):
        log_prior(torch.tensor([3]), 3)


def test_the_prior_is_added_to_the_bias_of_the_last_layer_with_a_row_per_class() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 3))
    assert classifier_of(model, 2) is model[1]
    fold(model, torch.tensor([1.0, 2.0, 3.0]))
    assert classifier_of(model, 3) is model[2]
    bare = Affine()  # without biases
    assert classifier_of(bare, 2) is None
    with pytest.raises(ValueError, match="Affine has no linear layer with a bias per class"):
        fold(bare, torch.zeros(2))


@pytest.mark.parametrize(
    ("prior", "loss", "shared", "taken"),
    [
        ("auto", "cross_entropy", True, False),
        ("auto", "balanced_softmax", True, True),
        ("auto", "balanced_softmax_client", False, True),
        ("auto", "masked_cross_entropy", False, False),
        ("client", "cross_entropy", True, True),
        ("client", "cross_entropy", False, False),  # the client's own training taught it already
        ("client", "balanced_softmax", False, True),
        ("none", "balanced_softmax", True, False),
    ],
)
def test_who_gets_the_prior(prior: Any, loss: str, shared: bool, taken: bool) -> None:
    assert takes_prior(prior, loss=loss, shared=shared) is taken


def test_a_model_that_knows_nothing_else_guesses_the_most_frequent_class() -> None:
    model = Affine(bias=(0.0, 0.0))
    balanced = scoring([0, 0, 0, 1], loss="balanced_softmax")
    test, trainer = dots([0, 0, 0], [1, 0, 1]), sgd()
    with balanced.applied(model, shared=True):
        assert model.biases() == pytest.approx(SKEWED)
        found = trainer.evaluate(model, test)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.loss == pytest.approx(-(2 * SKEWED[1] + SKEWED[0]) / 3)
    assert model.biases() == [0.0, 0.0]
    balanced.apply(model, shared=True)
    assert model.biases() == pytest.approx(SKEWED)


def test_the_loss_that_last_trained_the_model_decides() -> None:
    plain, balanced = scoring([0, 1]), scoring([0, 1], loss="balanced_softmax")
    assert plain.offset(shared=True) is None
    assert plain.offset(shared=True, loss="balanced_softmax_client") is not None
    assert balanced.offset(shared=False) is not None
    assert balanced.offset(shared=False, loss="cross_entropy") is None  # after fine-tuning


@pytest.mark.parametrize("statistics", ["recalibrate", "aggregate"])
def test_a_model_that_is_trained_on_or_sent_stays_as_it_is(statistics: Any) -> None:
    model, alike, images = convolutional(), convolutional(), colourful(12)
    trainer = sgd(loss="balanced_softmax")
    found = Scoring(
        trainer=trainer, train=images, batch_size=6, classes=4, statistics=statistics, prior="auto"
    )
    before = state_of(model)
    trainer.recalibrate(alike, images, batch_size=6)
    with found.applied(model, shared=True):
        stale = torch.equal(model[1].running_mean, before["1.running_mean"])
        assert stale is (statistics == "aggregate")
        if not stale:
            assert torch.equal(model[4].running_var, alike[4].running_var)
        offset = model[10].bias - before["10.bias"]
        assert torch.allclose(offset, log_prior(images.labels, 4))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with found.with_prior(model, shared=True):
        assert torch.equal(model[1].running_mean, before["1.running_mean"])
        assert not torch.equal(model[10].bias, before["10.bias"])
    assert torch.equal(model[10].bias, before["10.bias"])


def test_a_space_whose_classifier_cannot_carry_the_prior_is_refused() -> None:
    settings: dict[str, Any] = {"prior": "auto", "classes": 2}
    require_bias(Affine(), loss="cross_entropy", **settings)
    require_bias(Affine(bias=(0.0, 0.0)), loss="balanced_softmax", **settings)
    with pytest.raises(RefusedError, match=r"evaluation\.prior='auto': Affine has no .*prior=none"):
        require_bias(Affine(), loss="balanced_softmax", **settings)
