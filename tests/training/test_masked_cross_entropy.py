"""HeteroFL's loss: the logits of classes without a training image are 0 before the softmax."""

from __future__ import annotations

import math

import pytest
import torch

from corolla.training.losses import classification_loss, split_counts
from corolla.training.settings import TrainerSettings

MASKED = TrainerSettings(optimizer="sgd", lr=0.1, loss="masked_cross_entropy")
CPU = torch.device("cpu")


def test_absent_classes_count_as_logit_0_and_get_no_gradient() -> None:
    logits = torch.tensor([[1.0, 7.0, 2.0, -9.0]], requires_grad=True)
    counts = split_counts(torch.tensor([0, 2, 2]), MASKED, CPU)  # classes 1 and 3 are absent
    loss = classification_loss(logits, torch.tensor([2]), settings=MASKED, class_counts=counts)
    # By hand: softmax of 1, 0, 2, 0. The value is 0, not minus infinity: two classes keep a share.
    whole = math.exp(1) + 1 + math.exp(2) + 1
    assert loss.item() == pytest.approx(math.log(whole) - 2, rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    wanted = [math.exp(1) / whole, 0.0, math.exp(2) / whole - 1, 0.0]
    torch.testing.assert_close(logits.grad[0], torch.tensor(wanted))


def test_nothing_is_masked_where_every_class_is_there() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    plain = TrainerSettings(optimizer="sgd", lr=0.1)
    masked = classification_loss(
        logits, labels, settings=MASKED, class_counts=split_counts(labels, MASKED, CPU)
    )
    unmasked = classification_loss(logits, labels, settings=plain, class_counts=None)
    assert masked.equal(unmasked)
    assert split_counts(labels, plain, CPU) is None


def test_counts_are_needed() -> None:
    with pytest.raises(ValueError, match="loss='masked_cross_entropy': need class_counts"):
        classification_loss(
            torch.zeros(1, 2), torch.tensor([0]), settings=MASKED, class_counts=None
        )
