"""The frame of every training: what it counts, by hand, and which batch it names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from corolla.training.epochs import Epochs
from corolla.training.results import DivergedError


class _Batch(NamedTuple):
    where: Tensor
    losses: list[tuple[str, float]]


class _Batches:
    """Two batches of 3 and 1 images; the part ``b`` plays in the second alone."""

    def __init__(self, last: float) -> None:
        self._last = last

    def epoch(self, number: int) -> Iterator[_Batch]:
        yield _Batch(torch.arange(3), [("a", 1.0 + number)])
        yield _Batch(torch.arange(1), [("a", 5.0), ("b", self._last)])


def _epochs(last: float, model: nn.Module, seen: list[object]) -> Epochs[_Batch]:
    def step(batch: _Batch) -> list[tuple[str, Tensor]]:
        seen.append((model.training, torch.rand(1).item()))
        return [(part, torch.tensor(loss)) for part, loss in batch.losses]

    device = torch.device("cpu")
    return Epochs(_Batches(last), lambda number: step, models=[model], device=device, seed=(1,))


def test_losses_are_summed_over_images_and_draws_follow_from_seed_and_epoch() -> None:
    model, seen = nn.Linear(1, 1).eval(), []  # type: ignore[var-annotated]
    epochs = _epochs(7.0, model, seen)
    # a: 3 images of 1 (in the second epoch of 2), one of 5. b: one of 7.
    assert epochs.run(0, lr=lambda part: 0.1) == {"a": (8.0, 4), "b": (7.0, 1)}
    assert epochs.run(1, lr=lambda part: 0.1) == {"a": (11.0, 4), "b": (7.0, 1)}
    assert epochs.images == {"a": 8, "b": 2}
    assert not model.training
    assert all(mode for mode, _ in seen)
    again: list[object] = []
    _epochs(7.0, model, again).run(1, lr=lambda part: 0.1)
    assert again == seen[2:] != seen[:2]


def test_the_batch_and_the_step_of_what_diverged_are_named() -> None:
    with pytest.raises(DivergedError, match=r"the loss is nan in epoch 4, batch 1 .* at lr=0.3"):
        _epochs(math.nan, nn.Identity(), []).run(4, lr={"a": 0.2, "b": 0.3}.__getitem__)
