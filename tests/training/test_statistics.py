"""BatchNorm's running statistics, recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corolla.spaces.layers import BatchNorm
from corolla.training.batches import shuffled_batches
from corolla.training.results import NoBatchError
from corolla.training.statistics import recalibrate
from tests.training.conftest import Affine, colourful, convolutional, dots, sgd, state_of


def column(*values: float) -> Tensor:
    """Return a batch of one-pixel images."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_equal_batches_average_their_means_and_unbiased_variances(norm: type[Any]) -> None:
    layer = norm(1)
    layer.running_mean.fill_(100.0)
    layer.running_var.fill_(100.0)
    recalibrate(layer, [column(0, 2), column(4, 10)])
    assert layer.running_mean.item() == pytest.approx((1 + 7) / 2)
    assert layer.running_var.item() == pytest.approx((2 + 18) / 2)
    assert layer.momentum == 0.1


def test_batches_weigh_by_their_images() -> None:
    layer = BatchNorm(1)
    recalibrate(layer, [column(0, 3, 6), column(1, 3)])  # means 3, 2; variances 9, 2
    assert layer.running_mean.item() == pytest.approx((3 * 3 + 2 * 2) / 5)
    assert layer.running_var.item() == pytest.approx((3 * 9 + 2 * 2) / 5)


def test_later_layers_see_what_earlier_ones_normalise_by_the_batch() -> None:
    model = nn.Sequential(BatchNorm(1), BatchNorm(1))
    model[0].eps = 1e-12
    with torch.no_grad():
        model[0].weight.fill_(3.0)
        model[0].bias.fill_(5.0)
    recalibrate(model, [column(0, 2), column(4, 10)])
    # Each batch becomes 5 -+ 3 whatever its own mean and spread: mean 5, unbiased variance 18.
    assert model[1].running_mean.item() == pytest.approx(5.0)
    assert model[1].running_var.item() == pytest.approx(18.0)


def test_statistics_to_keep_stay_and_are_what_later_layers_see() -> None:
    """By the first layer's own mean 1 and variance 4, x becomes (x - 1) / 2: means 0, 3 of the batches."""
    model = nn.Sequential(BatchNorm(1), BatchNorm(1))
    model[0].eps = 1e-12
    model[0].running_mean.fill_(1.0)
    model[0].running_var.fill_(4.0)
    recalibrate(model, [column(0, 2), column(4, 10)], keep={"0.running_mean", "0.running_var"})
    assert (model[0].running_mean.item(), model[0].running_var.item()) == (1.0, 4.0)
    assert model[1].running_mean.item() == pytest.approx((0 + 3) / 2)
    assert model[1].running_var.item() == pytest.approx((0.5 + 4.5) / 2)
    assert model[0].training


def test_only_statistics_change() -> None:
    model = convolutional(dropout=0.5)
    model[1].momentum = None
    model.eval()
    before = state_of(model)
    sgd().recalibrate(model, colourful(9), batch_size=4)
    changed = {n for n, tensor in state_of(model).items() if not torch.equal(tensor, before[n])}
    assert changed == {f"{i}.running_{what}" for i in (1, 4) for what in ("mean", "var")}
    assert (model[1].momentum, model[4].momentum) == (None, 0.1)
    assert int(model[1].num_batches_tracked) == 0
    assert not any(module.training for module in model.modules())
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())


def test_trainer_recalibrates_with_normalised_images_in_a_fixed_order() -> None:
    model = nn.Sequential(BatchNorm(1), Affine())
    images = dots([0, 0, 255, 255], [0, 0, 1, 1], 0.5, 0.25)  # stored class by class
    sgd().recalibrate(model, images, batch_size=2)
    values = torch.tensor([-2.0, -2.0, 2.0, 2.0])
    batches = shuffled_batches(4, 2, seed=(0,), epoch=0, drop_single=True)
    variances = [values[batch].var().item() for batch in batches]
    assert model[0].running_mean.item() == pytest.approx(0.0, abs=1e-6)
    assert model[0].running_var.item() == pytest.approx(sum(variances) / 2)
    once = state_of(model)
    sgd().recalibrate(model, images, batch_size=2)
    assert all(torch.equal(once[name], tensor) for name, tensor in model.state_dict().items())


def test_a_layer_without_running_statistics_is_left_alone() -> None:
    calls: list[int] = []
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), Affine())
    model.register_forward_hook(lambda *_: calls.append(1))
    recalibrate(model, [column(0, 2)])
    assert calls == []


def test_one_image_is_too_few() -> None:
    sgd().recalibrate(Affine(), dots([1], [0]), batch_size=8)  # nothing to do
    with pytest.raises(NoBatchError, match="no batch: 1 images, batch_size=8; BatchNorm needs"):
        sgd().recalibrate(BatchNorm(1), dots([1], [0]), batch_size=8)
