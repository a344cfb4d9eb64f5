"""Scoring subnets: the same numbers as doing it by hand, and the supernet stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from corolla.data.images import Images
from corolla.spaces.supernet import Supernet
from corolla.training.results import Evaluation, NoBatchError
from corolla.training.settings import LoopSettings
from corolla.training.subnet_scorer import SubnetScorer
from corolla.types import Arrays
from tests.conftest import make_space
from tests.training.conftest import PLAIN, sgd

CHANNELS_LAST = LoopSettings(channels_last=True)


def grey(count: int, *, seed: int = 0) -> Images:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=rng)
    return Images(pixels, torch.randint(0, 10, (count,), generator=rng), (0.5,), (0.25,))


def supernet_of(space: Supernet) -> Arrays:
    """Return weights with statistics that are not those of a fresh BatchNorm."""
    state, rng = space.initial_state(0), np.random.default_rng(0)
    for name, array in state.items():
        if name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 2.0, array.shape).astype(np.float32)
        elif name.endswith(("running_mean", "bias")):
            state[name] = rng.normal(0, 0.1, array.shape).astype(np.float32)
    return state


def scorer_of(
    space: Supernet, state: Arrays, loop: LoopSettings = PLAIN, **given: Any
) -> SubnetScorer:
    settings: dict[str, Any] = {
        "validation": grey(30),
        "recalibration": grey(24, seed=1),
        "batch_size": 8,
        "recalibration_images": None,
    }
    return SubnetScorer(space, state, sgd(loop, eval_batch_size=13), **(settings | given))


def by_hand(space: Supernet, state: Arrays, architecture: Any, images: Images | None) -> Evaluation:
    trainer = sgd(eval_batch_size=13)
    model = space.subnet(architecture)
    cut = space.cut(state, architecture)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in cut.items()})
    if images is not None:
        trainer.recalibrate(model, images, batch_size=8)
    return trainer.evaluate(model, grey(30))


@pytest.mark.parametrize("name", ["mobilenetv3_8", "resnet18"])
@pytest.mark.parametrize("recalibrated", [True, False])
def test_scores_are_those_of_cutting_recalibrating_and_evaluating(
    name: str, recalibrated: bool
) -> None:
    changes = {"resolution": 8, "width": 8, "in_channels": 1} if name == "resnet18" else {}
    space = make_space(name, **changes)
    state, images = supernet_of(space), grey(24, seed=1) if recalibrated else None
    scorer = scorer_of(space, state, recalibration=images)
    rng = np.random.default_rng(2)
    for architecture in (space.smallest(), space.largest(), *(space.sample(rng) for _ in range(2))):
        expected = by_hand(space, state, architecture, images)
        assert scorer(architecture) == expected
        cut_elsewhere = space.load(architecture, space.cut(state, architecture))
        assert scorer_of(space, {}, recalibration=images).score(cut_elsewhere) == expected


def test_the_supernet_is_never_written_to_and_the_order_does_not_matter() -> None:
    space = make_space("mobilenetv3_8")
    state = supernet_of(space)
    before = {name: array.copy() for name, array in state.items()}
    scorer = scorer_of(space, state, CHANNELS_LAST)
    architectures = [space.largest(), space.smallest(), space.middle()]
    first = [scorer(architecture) for architecture in architectures]
    again = [scorer(architecture) for architecture in architectures[::-1]]
    assert again[::-1] == first
    assert len({score.loss for score in first}) == 3
    assert scorer.scored == 6
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)


def test_recalibration_changes_the_score_and_labels_are_not_read() -> None:
    space = make_space("mobilenetv3_8")
    state, images = supernet_of(space), grey(24, seed=1)
    unlabelled = replace(images, labels=torch.full_like(images.labels, -1))
    with_labels = scorer_of(space, state)(space.middle())
    assert scorer_of(space, state, recalibration=unlabelled)(space.middle()) == with_labels
    assert scorer_of(space, state, recalibration=None)(space.middle()).loss != with_labels.loss


def test_a_part_of_the_images_is_drawn_once_over_all_of_them() -> None:
    """Stored class by class: the first 24 of 96 would be of one brightness, a draw is not."""
    space = make_space("mobilenetv3_8")
    state = supernet_of(space)
    pixels = torch.repeat_interleave(torch.tensor([0, 80, 160, 240], dtype=torch.uint8), 24)
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 16, (96, 1, 8, 8), dtype=torch.uint8, generator=rng)
    labels = torch.zeros(96, dtype=torch.int64)
    images = Images(pixels.view(-1, 1, 1, 1) + noise, labels, (0.5,), (0.25,))

    def loss(recalibration: Images, most: int | None) -> float:
        scorer = scorer_of(space, state, recalibration=recalibration, recalibration_images=most)
        assert scorer(space.middle()) == scorer(space.middle())
        return scorer(space.middle()).loss

    part, first, whole = loss(images, 24), loss(images.between(0, 24), None), loss(images, None)
    assert part not in (first, whole)
    assert abs(part - whole) < abs(first - whole)
    assert loss(images, 96) == loss(images, 1000) == whole


def test_a_subnet_that_overflows_has_no_finite_loss() -> None:
    space = make_space("mobilenetv3_8")
    state = supernet_of(space)
    state["head.classifier.weight"] = np.full_like(state["head.classifier.weight"], np.nan)
    score = scorer_of(space, state)(space.smallest())
    assert np.isnan(score.loss)
    assert score.num_examples == 30


def test_too_few_images_and_foreign_arrays_are_named() -> None:
    space = make_space("mobilenetv3_8")
    state = supernet_of(space)
    with pytest.raises(NoBatchError, match="nothing to score subnets on: 0 validation images"):
        scorer_of(space, state, validation=grey(0))
    with pytest.raises(NoBatchError, match="1 images, batch_size=8; BatchNorm needs"):
        scorer_of(space, state, recalibration=grey(1))(space.smallest())
    with pytest.raises(ValueError, match="recalibration_images=1: need 2 or more, or None"):
        scorer_of(space, state, recalibration_images=1)
