"""What holds for every training: repeatability, batches, modes, settings that must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.spaces.layers import BatchNorm
from corolla.training.results import NoBatchError, TrainResult
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer
from tests.training.conftest import PLAIN, Affine, colourful, convolutional, dots, sgd, state_of

FAST = LoopSettings()
SGD = TrainerSettings(optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3)
ADAMW = TrainerSettings(optimizer="adamw", lr=0.01, weight_decay=0.05)


class Spy(nn.Module):
    """Notes the first pixel of every image that it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.batches: list[list[int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append((images[:, 0, 0, 0] * 255).round().int().tolist())
        return self.inner(images)  # type: ignore[no-any-return]


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left | right)


def numbered(count: int) -> Images:
    return dots(list(range(count)), [index % 2 for index in range(count)])


def trained(
    settings: TrainerSettings,
    loop: LoopSettings,
    *,
    seed: tuple[int, ...] = (0, 1, 2),
    build: Callable[[], nn.Module] = convolutional,
    epochs: int = 2,
) -> tuple[dict[str, Tensor], TrainResult]:
    model = build()
    result = LocalTrainer(settings=settings, loop=loop).train(
        model, colourful(22), epochs=epochs, batch_size=8, lr=settings.lr, seed=seed
    )
    return state_of(model), result


@pytest.mark.parametrize("augment", ["none", "crop_flip_cutout"])
def test_the_same_seed_gives_the_same_bits_and_touches_no_global_generator(augment: str) -> None:
    settings = TrainerSettings(optimizer="sgd", lr=0.05, momentum=0.9, augment=augment)
    build = lambda: convolutional(dropout=0.5)  # noqa: E731
    torch.manual_seed(7)
    first, _ = trained(settings, FAST, build=build)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(8)
    second, _ = trained(settings, FAST, build=build)
    assert same_bits(first, second)
    for other in ((0, 1, 3), (0, 2, 2), (1, 1, 2)):
        third, _ = trained(settings, FAST, build=build, seed=other)
        assert not same_bits(first, third)


def test_batch_order_is_the_seeds_whatever_the_model() -> None:
    seen = []
    for inner, settings in (
        (Affine(), SGD),
        (nn.Sequential(nn.Flatten(), nn.Linear(1, 4), nn.Dropout(), nn.Linear(4, 2)), ADAMW),
    ):
        spy = Spy(inner)
        torch.manual_seed(len(seen))
        LocalTrainer(settings=settings, loop=FAST).train(
            spy, numbered(10), epochs=2, batch_size=4, lr=0.01, seed=(5, 6, 7)
        )
        seen.append(spy.batches)
    assert seen[0] == seen[1]
    epochs = [list(chain(*seen[0][:3])), list(chain(*seen[0][3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_the_rest_of_the_images_is_a_batch_too() -> None:
    spy = Spy(Affine())
    result = sgd().train(spy, numbered(5), epochs=1, batch_size=2, lr=0.1, seed=(0,))
    assert [len(batch) for batch in spy.batches] == [2, 2, 1]
    assert (result.num_examples, result.samples_processed) == (5, 5)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_a_rest_of_one_image_is_left_out_under_batch_norm(norm: type[nn.Module]) -> None:
    spy = Spy(nn.Sequential(norm(1), Affine()))
    result = sgd().train(spy, numbered(5), epochs=3, batch_size=2, lr=0.1, seed=(0,))
    assert [len(batch) for batch in spy.batches] == [2, 2] * 3
    assert (result.num_examples, result.samples_processed) == (5, 12)
    assert len({min(set(range(5)) - set(chain(*spy.batches[i : i + 2]))) for i in (0, 2, 4)}) > 1


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (8, 1)])
def test_batch_norm_refuses_batches_of_one(count: int, batch_size: int) -> None:
    model = nn.Sequential(BatchNorm(1), Affine())
    with pytest.raises(NoBatchError) as caught:
        sgd().train(model, numbered(count), epochs=1, batch_size=batch_size, lr=0.1, seed=(0,))
    assert str(caught.value) == (
        f"no batch: {count} images, batch_size={batch_size}; "
        "BatchNorm needs batches of 2 images or more"
    )
    assert model.training


def test_one_image_is_enough_without_batch_norm_and_none_is_not() -> None:
    sgd().train(Affine(), numbered(1), epochs=1, batch_size=8, lr=0.1, seed=(0,))
    with pytest.raises(NoBatchError, match="no batch: 0 images, batch_size=8; need 1 of each"):
        sgd().train(Affine(), numbered(2).select([]), epochs=1, batch_size=8, lr=0.1, seed=(0,))
    with pytest.raises(NoBatchError, match="nothing to evaluate on: 0 images"):
        sgd().evaluate(Affine(), numbered(2).select([]))


def test_modes_gradients_and_inputs_are_left_as_they_were() -> None:
    model, images = convolutional(dropout=0.5), colourful(10)
    pixels = images.pixels.clone()
    model.eval()
    model[4].train()
    modes = [module.training for module in model.modules()]
    seen: list[bool] = []
    model[9].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    trainer = sgd(augment="crop_flip_cutout")
    trainer.evaluate(model, images)
    trainer.train(model, images, epochs=1, batch_size=10, lr=0.1, seed=(0,))
    trainer.recalibrate(model, images, batch_size=10)
    assert seen == [False, True, False]
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    assert torch.equal(images.pixels, pixels)


def test_evaluation_changes_nothing() -> None:
    model = convolutional()
    before = state_of(model)
    LocalTrainer(settings=SGD, loop=FAST).evaluate(model, colourful(10))
    assert same_bits(before, state_of(model))


def test_gradients_left_by_the_caller_do_not_count() -> None:
    clean, used = convolutional(), convolutional()
    used(torch.rand(4, 3, 8, 8)).sum().backward()
    used.load_state_dict(clean.state_dict())
    for model in (clean, used):
        sgd().train(model, colourful(8), epochs=1, batch_size=8, lr=0.1, seed=(0,))
    assert same_bits(state_of(clean), state_of(used))


def test_frozen_parameters_stay() -> None:
    model = convolutional()
    model[0].weight.requires_grad_(False)
    before = state_of(model)
    LocalTrainer(settings=SGD, loop=FAST).train(
        model, colourful(8), epochs=1, batch_size=8, lr=0.1, seed=(0,)
    )
    assert torch.equal(before["0.weight"], model[0].weight)
    assert not torch.equal(before["3.weight"], model[3].weight)


@pytest.mark.parametrize("settings", [SGD, ADAMW])
@pytest.mark.parametrize(
    "loop",
    [
        LoopSettings(channels_last=True, fused=False),
        LoopSettings(channels_last=True, fused=True),
        LoopSettings(channels_last=False, fused=True),
        LoopSettings(channels_last=True, fused=False, foreach=True),
    ],
)
def test_loop_settings_change_no_result(settings: TrainerSettings, loop: LoopSettings) -> None:
    plain, plain_result = trained(settings, PLAIN)
    fast, fast_result = trained(settings, loop)
    for name, expected in plain.items():
        # AdamW divides by the gradient's size: where that is near 0, rounding decides the sign.
        torch.testing.assert_close(fast[name], expected, rtol=1e-3, atol=2e-3, msg=name)
    assert fast_result.train_loss == pytest.approx(plain_result.train_loss, rel=1e-3)
    assert fast_result.samples_processed == plain_result.samples_processed == 44


def test_bfloat16_trains_float32_weights_to_nearly_the_same_loss() -> None:
    _, plain = trained(SGD, PLAIN)
    weights, half = trained(SGD, LoopSettings(autocast="bfloat16"))
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}
    assert half.train_loss == pytest.approx(plain.train_loss, rel=0.05)
    assert half.train_loss != plain.train_loss


def test_arguments_out_of_range_are_named() -> None:
    images = colourful(4)
    common: dict[str, Any] = {"batch_size": 2, "seed": (0,)}
    with pytest.raises(ValueError, match="epochs=0: need 1 or more"):
        sgd().train(convolutional(), images, epochs=0, lr=0.1, **common)
    for lr in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"lr={lr}: need a finite number, 0 or more"):
            sgd().train(convolutional(), images, epochs=1, lr=lr, **common)
    grey = replace(images, mean=(0.0,), std=(1.0,))
    with pytest.raises(ValueError, match=r"mean=\(0.0,\) std=\(1.0,\): need 3 numbers each"):
        sgd().train(convolutional(), grey, epochs=1, lr=0.1, **common)
