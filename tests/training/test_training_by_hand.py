"""Training steps small enough to be done on paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from corolla.training.results import DivergedError
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer
from tests.training.conftest import PLAIN, Affine, dots, sgd

KERNELS = [PLAIN, LoopSettings(fused=True, foreach=False), LoopSettings(fused=False, foreach=True)]


@pytest.mark.parametrize("loop", KERNELS)
def test_one_step_of_sgd(loop: LoopSettings) -> None:
    model = Affine()
    result = sgd(loop).train(
        model, dots([255, 0], [0, 1]), epochs=1, batch_size=2, lr=0.2, seed=(0, 1, 2)
    )
    # Both images get p = (1/2, 1/2). dL/dw = mean of (p - y) x = ((-1/2, 1/2) * 1 + (..) * 0) / 2.
    assert model.weights() == pytest.approx([0.05, -0.05])
    assert result.train_loss == pytest.approx(math.log(2))
    assert (result.num_examples, result.samples_processed) == (2, 2)
    assert result.optimizer_state is None


def test_momentum_over_two_epochs() -> None:
    model = Affine()
    sgd(momentum=0.5).train(model, dots([255], [0]), epochs=2, batch_size=1, lr=1.0, seed=(0,))
    # Step 1: g = (-1/2, 1/2), w = (1/2, -1/2). Then p = softmax(w) = (s, 1 - s), s = 1/(1 + e^-1);
    # g = (s - 1, 1 - s), v = 1/2 (-1/2, 1/2) + g, w = w - v.
    s = 1 / (1 + math.exp(-1))
    assert model.weights() == pytest.approx([0.5 + 0.25 + 1 - s, -0.5 - 0.25 - 1 + s])


def test_pixels_are_normalised_by_mean_and_std() -> None:
    model = Affine()
    sgd().train(model, dots([51], [0], 0.5, 0.25), epochs=1, batch_size=1, lr=1.0, seed=(0,))
    # x = (51/255 - 0.5) / 0.25 = -1.2; w = -(p - y) x = (1/2) * -1.2
    assert model.weights() == pytest.approx([-0.6, 0.6])


@pytest.mark.parametrize(
    ("everything", "biases"),
    # (p - y) = (-1/2, 1/2); with decay the biases' gradient gets 0.5 * 1 on top.
    [(False, [1 + 0.05, 1 - 0.05]), (True, [1 - 0.1 * 0.0, 1 - 0.1 * 1.0])],
)
def test_weight_decay_of_sgd_spares_biases_unless_told(
    everything: bool, biases: list[float]
) -> None:
    model = Affine(weight=(1.0, 1.0), bias=(1.0, 1.0))
    # The pixel is 0, so weights have no gradient of their own: 1 - 0.1 * 0.5 * 1.
    sgd(weight_decay=0.5, decay_norm_and_bias=everything).train(
        model, dots([0], [0]), epochs=1, batch_size=1, lr=0.1, seed=(0,)
    )
    assert model.weights() == pytest.approx([0.95, 0.95])
    assert model.biases() == pytest.approx(biases)


@pytest.mark.parametrize("loop", KERNELS)
def test_weight_decay_of_adamw_is_apart_from_the_gradient(loop: LoopSettings) -> None:
    settings = TrainerSettings(optimizer="adamw", lr=1.0, weight_decay=0.5)
    model = Affine(weight=(1.0, 1.0), bias=(1.0, 1.0))
    LocalTrainer(settings=settings, loop=loop).train(
        model, dots([0], [0]), epochs=1, batch_size=1, lr=0.1, seed=(0,)
    )
    # Adam's first step is lr in the gradient's direction, whatever its size.
    assert model.weights() == pytest.approx([0.95, 0.95])
    assert model.biases() == pytest.approx([1.1, 0.9])


def test_batch_norm_parameters_are_spared_too() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.zeros_(model[2].weight)  # so gamma and beta get no gradient
    sgd(weight_decay=0.5).train(
        model, dots([0, 255], [0, 1]), epochs=1, batch_size=2, lr=0.1, seed=(0,)
    )
    assert (model[0].weight.item(), model[0].bias.item()) == (1.0, 0.0)


def test_label_smoothing_is_in_the_training_loss_only() -> None:
    model = Affine(bias=(math.log(3), 0.0))  # p = (3/4, 1/4)
    trainer = sgd(label_smoothing=0.2)
    images = dots([0], [0])
    evaluation = trainer.evaluate(model, images)
    result = trainer.train(model, images, epochs=1, batch_size=1, lr=0.0, seed=(0,))
    # Target (0.8 + 0.1, 0.1).
    assert result.train_loss == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))
    assert evaluation.loss == pytest.approx(-math.log(0.75))


def test_train_loss_weighs_batches_by_images() -> None:
    model = Affine(weight=(math.log(3), 0.0))  # x = 1: p = (3/4, 1/4)
    result = sgd().train(
        model, dots([255] * 3, [0, 0, 1]), epochs=1, batch_size=2, lr=0.0, seed=(0,)
    )
    assert result.train_loss == pytest.approx((-2 * math.log(0.75) - math.log(0.25)) / 3)


def test_hook_adds_to_the_gradient_before_clipping_and_the_step() -> None:
    model = Affine()

    def add(module: nn.Module) -> None:
        assert module is model
        assert model.linear.weight.grad is not None
        model.linear.weight.grad += torch.tensor([[3.5], [3.5]])

    images = dots([255], [0])
    sgd().train(model, images, epochs=1, batch_size=1, lr=0.1, seed=(0,), after_backward=add)
    # (-1/2, 1/2) + 3.5 = (3, 4)
    assert model.weights() == pytest.approx([-0.3, -0.4])

    model = Affine()
    sgd(clip_norm=1.0).train(
        model, images, epochs=1, batch_size=1, lr=0.1, seed=(0,), after_backward=add
    )
    # Its norm is 5, so it is divided by 5.
    assert model.weights() == pytest.approx([-0.06, -0.08], rel=1e-5)


def test_a_loss_that_is_not_finite_is_named() -> None:
    model = Affine()

    def overflow(_: nn.Module) -> None:
        model.linear.weight.grad = torch.full((2, 1), torch.inf)

    images = dots([255] * 4, [0, 1, 0, 1])
    with pytest.raises(DivergedError) as caught:
        sgd().train(
            model,
            images,
            epochs=3,
            first_epoch=5,
            batch_size=2,
            lr=0.25,
            seed=(3,),
            after_backward=overflow,
        )
    error = caught.value
    # The first batch was still sound: its loss came before the weights went to minus infinity.
    assert (error.epoch, error.batch, error.lr) == (5, 1, 0.25)
    assert str(error) == (
        "the loss is nan in epoch 5, batch 1 (both from 0) at lr=0.25. "
        "Lower trainer.lr, set trainer.clip_norm, or add trainer.warmup_rounds"
    )


def test_evaluation_counts_right_answers_and_averages_the_loss() -> None:
    model = Affine(weight=(math.log(3), 0.0))  # x = 1: p = (3/4, 1/4); x = 0: (1/2, 1/2), argmax 0
    images = dots([255, 255, 0, 0, 0], [0, 1, 0, 1, 1])
    for size in (1, 2, 5, 100):
        found = sgd(eval_batch_size=size).evaluate(model, images)
        assert found.accuracy == 2 / 5
        expected = (-math.log(0.75) - math.log(0.25) + 3 * math.log(2)) / 5
        assert found.loss == pytest.approx(expected)
        assert found.num_examples == 5
