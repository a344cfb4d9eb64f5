"""A teacher made of several models, one in memory at a time."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from corolla.spaces.layers import BatchNorm
from corolla.training.ensemble import Ensemble, NoTeacherError, augmented_view, ensemble_of
from corolla.training.results import NoBatchError
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer
from tests.training.conftest import Affine, colourful, convolutional, dots, sgd, state_of


def _ask(*models_and_images: Any, **arguments: Any) -> Ensemble:
    """With the models' own statistics unless it says otherwise."""
    return ensemble_of(*models_and_images, **{"recalibration_batch_size": None, **arguments})


def test_weighted_mean_by_hand() -> None:
    # x = 0, 1. First model: logits (1, 2) x; second: (5, 0) x + (0, 4); weights 30 and 10.
    models = [(30.0, Affine(weight=(1, 2))), (10.0, Affine(weight=(5, 0), bias=(0, 4)))]
    images = dots([0, 255], [-1, -1])
    for size in (1, 2, 100):
        found = _ask(models, images, trainer=sgd(eval_batch_size=size)).logits
        # (30 f + 10 g) / 40
        assert found.tolist() == [[0.0, 1.0], [2.0, 2.5]]
    assert (found.dtype, found.device.type, found.is_inference()) == (torch.float32, "cpu", False)


def test_one_model_speaks_for_itself_in_evaluation_mode_and_float32() -> None:
    model, images = convolutional(dropout=0.5).train(), colourful(7)
    before = state_of(model)
    trainer = LocalTrainer(
        settings=TrainerSettings(optimizer="sgd", lr=0.1, eval_batch_size=3),
        loop=LoopSettings(autocast="bfloat16"),
    )
    found = _ask([(0.3, model)], images, trainer=trainer).logits
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in state_of(model).items())
    floats = trainer.floats(images)
    with torch.no_grad():
        expected = model.eval()(floats.normalised(floats.pixels(slice(None))))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_models_order_does_not_matter() -> None:
    models = [(float(n), convolutional(n)) for n in (1, 7, 2, 5)]
    trainer = sgd()
    there = _ask(models, colourful(9), trainer=trainer).logits
    back = _ask(models[::-1], colourful(9), trainer=trainer).logits
    torch.testing.assert_close(there, back, rtol=2e-7, atol=1e-9)


def test_one_model_is_alive_at_a_time() -> None:
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    counts = []

    def models() -> Iterator[tuple[float, nn.Module]]:
        for number in range(6):
            counts.append(len(alive))  # of the earlier ones, none
            model = convolutional(number)
            alive.add(model)
            if number == 2:
                model[0].weight.data.fill_(math.inf)  # it is left out, and let go of as well
            yield 1.0, model
            del model

    assert _ask(models(), colourful(4), trainer=sgd()).left_out == (2,)
    assert counts == [0] * 6


def test_who_gives_no_finite_logits_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    mute = Affine(weight=(math.nan, 0))
    models = [
        (5.0, mute),
        (30.0, Affine(weight=(1, 2))),
        (7.0, mute),
        (10.0, Affine(weight=(5, 0))),
    ]
    found = _ask(models, dots([0, 255], [-1, -1]), trainer=sgd())
    assert found.left_out == (0, 2)
    assert found.logits.tolist() == [[0.0, 0.0], [2.0, 1.5]]
    assert caplog.text.count("left out of the ensemble") == 2
    with pytest.raises(NoTeacherError, match="with finite logits"):
        _ask([(5.0, mute)], dots([0], [0]), trainer=sgd())


def test_statistics_may_be_those_of_the_images_that_are_asked_about() -> None:
    def model() -> nn.Module:
        """Logits are normalised pixels and their negatives; the statistics fit no image."""
        norm = BatchNorm(1)
        norm.eps = 1e-12
        norm.running_mean.fill_(100.0)
        return nn.Sequential(norm, Affine(weight=(1, -1)))

    images = dots([0, 1, 3, 4], [-1] * 4, std=1 / 255)  # mean 2, unbiased variance 10 / 3
    own = _ask([(1.0, model())], images, trainer=sgd()).logits
    theirs = _ask([(1.0, model())], images, trainer=sgd(), recalibration_batch_size=4).logits
    assert own[:, 0].tolist() == pytest.approx([-100, -99, -97, -96])
    spread = math.sqrt(10 / 3)
    assert theirs[:, 0].tolist() == pytest.approx(
        [-2 / spread, -1 / spread, 1 / spread, 2 / spread]
    )
    assert torch.equal(theirs[:, 1], -theirs[:, 0])


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_impossible_weights_are_named(weight: float) -> None:
    with pytest.raises(ValueError, match=f"an ensemble's weight is {weight}: need a finite"):
        _ask([(weight, Affine())], dots([0], [0]), trainer=sgd())


def test_nothing_to_average_and_nothing_to_look_at() -> None:
    images = dots([0], [0])
    for models in ([], [(0.0, Affine())]):
        with pytest.raises(ValueError, match="an ensemble needs a model of weight above 0"):
            _ask(models, images, trainer=sgd())
    with pytest.raises(NoBatchError, match="answer on: 0 images"):
        _ask([(1.0, Affine())], images.select([]), trainer=sgd())
    pair = [(1.0, Affine()), (1.0, nn.Sequential(nn.Flatten(), nn.Linear(1, 3)))]
    with pytest.raises(ValueError, match=r"logits of shapes \(1, 2\) and \(1, 3\): need one"):
        _ask(pair, images, trainer=sgd())


def test_a_view_is_fixed_by_its_seed() -> None:
    images = colourful(30)
    settings = TrainerSettings(optimizer="sgd", lr=0.1, augment="crop_flip")
    common: dict[str, Any] = {"settings": settings}
    first = augmented_view(images, seed=(0, 1), **common)
    again = augmented_view(images, seed=(0, 1), **common)
    other = augmented_view(images, seed=(0, 2), **common)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert not torch.equal(first.pixels, images.pixels)
    assert torch.equal(first.labels, images.labels)
    assert torch.equal(images.pixels, colourful(30).pixels)  # the input was not written to
    plain = TrainerSettings(optimizer="sgd", lr=0.1)
    assert augmented_view(images, settings=plain, seed=(0,)) is images
    empty = images.between(0, 0)
    assert len(augmented_view(empty, seed=(0,), **common)) == 0
