"""Training in pieces: the optimiser's state goes from one call into the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer
from tests.training.conftest import Affine, colourful, convolutional, dots, sgd, state_of

SETTINGS = [
    TrainerSettings(optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, augment="crop_flip"),
    TrainerSettings(optimizer="adamw", lr=0.01, weight_decay=0.05),
]
LOOPS = [
    LoopSettings(channels_last=True, fused=True),
    LoopSettings(channels_last=False, fused=False),
    LoopSettings(channels_last=True, fused=False, foreach=True),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("loop", LOOPS)
def test_two_pieces_give_the_bits_of_one_training(
    settings: TrainerSettings, loop: LoopSettings
) -> None:
    trainer = LocalTrainer(settings=settings, loop=loop)
    common: dict[str, Any] = {"batch_size": 8, "lr": settings.lr, "seed": (0, 1, 2)}
    whole = convolutional(dropout=0.3)
    trainer.train(whole, colourful(20), epochs=3, **common)

    pieces = convolutional(dropout=0.3)
    first = trainer.train(pieces, colourful(20), epochs=1, keep_optimizer_state=True, **common)
    assert first.optimizer_state is not None
    # As after a way through files: plain layout, and a model built anew.
    saved = first.optimizer_state
    tensors = [t for entry in saved.values() for t in entry.values()]
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in tensors)
    again = convolutional(seed=1, dropout=0.3)
    again.load_state_dict({name: t.contiguous() for name, t in pieces.state_dict().items()})
    trainer.train(again, colourful(20), epochs=2, first_epoch=1, optimizer_state=saved, **common)
    for name, expected in state_of(whole).items():
        assert torch.equal(expected, again.state_dict()[name]), name


def test_the_state_is_a_copy_and_the_present_lr_counts() -> None:
    trainer, model = sgd(momentum=0.5), Affine()
    common: dict[str, Any] = {"epochs": 1, "batch_size": 1, "seed": (0,)}
    images = dots([255], [0])
    state = trainer.train(
        model, images, lr=0.0, keep_optimizer_state=True, **common
    ).optimizer_state
    assert state is not None
    momentum = next(iter(state.values()))["momentum_buffer"]
    assert momentum.flatten().tolist() == pytest.approx([-0.5, 0.5])  # p - y
    trainer.train(model, images, lr=1.0, optimizer_state=state, **common)
    # Still at zero weights: v = 1/2 (-1/2, 1/2) + (-1/2, 1/2), at the new lr of 1.
    assert model.weights() == pytest.approx([0.75, -0.75])
    assert momentum.flatten().tolist() == pytest.approx([-0.5, 0.5])


def test_a_state_of_another_model_is_refused() -> None:
    trainer = sgd(momentum=0.5)
    common: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.1, "seed": (0,)}
    state = trainer.train(
        convolutional(), colourful(4), keep_optimizer_state=True, **common
    ).optimizer_state
    with pytest.raises(
        ValueError,
        match="optimizer_state has entries for 10 parameters that the model does not train; the first",
    ):
        trainer.train(Affine(), dots([1], [0]), optimizer_state=state, **common)
    assert state is not None
    name = next(name for name, _ in Affine().named_parameters())
    short = {name: next(iter(state.values()))}
    with pytest.raises(
        ValueError, match=r"optimizer_state\[.*\].momentum_buffer has shape \(8, 3, 3, 3\), its"
    ):
        trainer.train(Affine(), dots([1], [0]), optimizer_state=short, **common)
