"""Training that stops by itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.training.conftest import Affine, colourful, convolutional, dots, sgd, state_of

COMMON: dict[str, Any] = {"batch_size": 4, "lr": 0.1, "seed": (0, 1, 2)}


def test_goes_back_to_the_start_when_every_epoch_makes_it_worse() -> None:
    model = Affine()
    result = sgd().train_until_converged(
        model,
        dots([255], [0]),
        validate=partial(sgd().evaluate, images=dots([255], [1])),
        patience_epochs=3,
        epochs=50,
        **COMMON,
    )
    assert model.weights() == [0.0, 0.0]
    assert result.samples_processed == 3


def test_goes_on_to_the_end_when_every_epoch_makes_it_better() -> None:
    model, alike = Affine(), Affine()
    images = dots([255], [0])
    result = sgd().train_until_converged(
        model,
        images,
        validate=partial(sgd().evaluate, images=images),
        patience_epochs=1,
        epochs=5,
        **COMMON,
    )
    sgd().train(alike, images, epochs=5, **COMMON)
    assert model.weights() == alike.weights()
    # Accuracy was 1 from the start (argmax of equal logits is class 0): the loss decided.
    assert result.samples_processed == 5


def test_the_model_is_that_of_the_best_epoch() -> None:
    images, validation = colourful(24), colourful(24, seed=1)
    model, alike = convolutional(), convolutional()
    trainer = sgd(momentum=0.9)
    result = trainer.train_until_converged(
        model,
        images,
        validate=partial(trainer.evaluate, images=validation),
        patience_epochs=4,
        epochs=60,
        **COMMON,
    )
    epochs = result.samples_processed // 24
    assert 4 < epochs < 60
    trainer.train(alike, images, epochs=epochs - 4, **COMMON)
    expected = state_of(alike)
    assert all(torch.equal(tensor, expected[n]) for n, tensor in model.state_dict().items())
    assert trainer.evaluate(model, validation) == trainer.evaluate(alike, validation)


@pytest.mark.parametrize(("patience", "most"), [(0, 5), (5, 0)])
def test_limits_below_one_are_refused(patience: int, most: int) -> None:
    images = dots([255], [0])
    with pytest.raises(
        ValueError, match=f"patience_epochs={patience} epochs={most}: need 1 or more"
    ):
        sgd().train_until_converged(
            Affine(),
            images,
            validate=partial(sgd().evaluate, images=images),
            patience_epochs=patience,
            epochs=most,
            **COMMON,
        )
