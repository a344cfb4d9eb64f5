"""Slices inside a slice: they lie as in the supernet; without them training is the usual one, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import to_arrays
from corolla.spaces.within import Within, inside
from corolla.training.inner_slices import InnerDraws, train_with_inner
from corolla.training.losses import classification_loss, soft_cross_entropy, split_counts
from tests.conftest import make_space
from tests.states import same
from tests.training.conftest import colourful, sgd

SPACE = make_space("mobilenetv2_8", num_classes=4, in_channels=3)
WHOLE = Architecture(tuple(max(0, len(d) - 2) for d in SPACE.dimensions))
INNER = SPACE.smallest()


def test_what_lies_inside_lies_as_in_the_supernet() -> None:
    assert inside(SPACE, INNER, WHOLE)
    assert not inside(SPACE, WHOLE, WHOLE)
    assert not inside(SPACE, SPACE.largest(), WHOLE)
    state = SPACE.initial_state(0)
    twice = Within(SPACE, WHOLE).cut(SPACE.cut(state, WHOLE), INNER)
    once = SPACE.cut(state, INNER)
    assert twice.keys() == once.keys()
    assert all(np.array_equal(twice[name], once[name]) for name in once)


def test_what_has_arrays_that_the_outer_one_lacks_does_not_lie_inside() -> None:
    """Another operation on an edge, or a convolution on a shortcut whose ends differ; numbers are lower."""
    cells = make_space("darts_small")
    assert cells.dimensions[0].choices[4:6] == ("dil_conv_3x3", "dil_conv_5x5")
    lower, upper = (cells.largest().with_choice(0, number) for number in (4, 5))
    assert not inside(cells, lower, upper)
    blocks = make_space("mobilenetv3_8")
    names = [dimension.name for dimension in blocks.dimensions]
    wide = blocks.smallest().with_choice(names.index("mb1.width"), 1)  # now as wide as mb2
    assert not inside(blocks, blocks.smallest(), wide)


ARRAYS = SPACE.cut(SPACE.initial_state(0), WHOLE)
NESTED: dict[str, Any] = {"space": SPACE, "whole": WHOLE, "inner": [INNER]}


def _model() -> nn.Module:
    return SPACE.load(WHOLE, {n: a.copy() for n, a in ARRAYS.items()})


def test_without_inner_slices_it_is_plain_training() -> None:
    images, trainer = colourful(9), sgd(momentum=0.9, weight_decay=0.01)
    passes: dict[str, Any] = {"lr": 0.1, "epochs": 2, "batch_size": 4, "seed": (3,)}
    plain, model = _model(), _model()
    expected = trainer.train(plain, images, **passes)
    found = train_with_inner(model, images, share=0.0, trainer=trainer, **NESTED, **passes)
    assert same(to_arrays(plain), to_arrays(model))
    assert found.samples_processed == expected.samples_processed
    assert found.train_loss == pytest.approx(expected.train_loss)


def test_one_step_by_hand() -> None:
    """Both gradients, of the loss on labels and of what the inner slice learns, in one step of SGD."""
    images, trainer = colourful(6), sgd(loss="balanced_softmax_client")
    model = _model()
    passes: dict[str, Any] = {"lr": 0.5, "epochs": 1, "batch_size": 6, "seed": (3,)}
    found = train_with_inner(model, images, share=1.0, trainer=trainer, **NESTED, **passes)
    assert found.samples_processed == 12
    whole = _model().train()
    small = SPACE.load(INNER, Within(SPACE, WHOLE).cut(ARRAYS, INNER)).train()
    floats = trainer.floats(images)
    shown: Tensor = floats.augmented(torch.arange(6), "none", torch.Generator())
    counts = split_counts(images.labels, trainer.settings, trainer.device)
    logits = whole(shown)
    classification_loss(
        logits, images.labels, settings=trainer.settings, class_counts=counts
    ).backward()
    soft_cross_entropy(small(shown), logits.detach(), 1.0).backward()
    regions = Within(SPACE, WHOLE).regions(INNER)
    extra = dict(small.named_parameters())
    trained = to_arrays(model)
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        step = parameter.grad.numpy().copy()
        if name in extra and extra[name].grad is not None:
            step[regions[name]] += extra[name].grad.numpy()
        np.testing.assert_allclose(trained[name], ARRAYS[name] - 0.5 * step, atol=2e-5)


def test_draws_depend_on_the_batch_alone() -> None:
    others = [INNER, Architecture((1, *INNER.choices[1:]))]
    forth = InnerDraws(WHOLE, others, share=0.5, seed=(1, 2))
    back = InnerDraws(WHOLE, others[::-1], share=0.5, seed=(1, 2))
    drawn = [forth.batch(0, number) for number in range(60)]
    assert drawn == [back.batch(0, number) for number in range(60)]
    assert all(batch[0] == ("largest", WHOLE) for batch in drawn)
    assert 15 < sum(len(batch) == 2 for batch in drawn) < 45
    assert {one for batch in drawn for _, one in batch[1:]} == set(others)
