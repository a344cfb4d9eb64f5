"""Losses with numbers by hand, and what they are in training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from corolla.errors import RefusedError
from corolla.training.losses import classification_loss, soft_cross_entropy, split_counts
from corolla.training.settings import TrainerSettings
from tests.training.conftest import Affine, dots, sgd

CPU = torch.device("cpu")


def with_loss(loss: str, **more: Any) -> TrainerSettings:
    return TrainerSettings(optimizer="sgd", lr=0.1, loss=loss, **more)


def test_cross_entropy_is_torchs_bit_for_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn((20, 5), generator=rng), torch.arange(20) % 5
    for smoothing in (0.0, 0.1):
        chosen = with_loss("cross_entropy", label_smoothing=smoothing)
        found = classification_loss(logits, labels, settings=chosen, class_counts=None)
        expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert torch.equal(found, expected)


def test_balanced_softmax_by_hand() -> None:
    # Equal logits, labels 0, 0, 0, 1: n = (3, 1, 0 taken as 1), so p = (3, 1, 1) / 5.
    labels = torch.tensor([0, 0, 0, 1])
    found = classification_loss(
        torch.zeros(4, 3), labels, settings=with_loss("balanced_softmax"), class_counts=None
    )
    assert float(found) == pytest.approx(-(3 * math.log(3 / 5) + math.log(1 / 5)) / 4)


def test_a_clients_counts_are_those_of_its_whole_split() -> None:
    chosen = with_loss("balanced_softmax_client")
    counts = split_counts(torch.tensor([1, 1, 1, 1, 0, 1]), chosen, CPU)
    assert counts is not None
    assert counts.tolist() == [1, 5]  # class 2 never occurs
    labels = torch.tensor([0, 0])
    found = classification_loss(torch.zeros(2, 3), labels, settings=chosen, class_counts=counts)
    assert float(found) == pytest.approx(-math.log(1 / 7))  # of 1 + 5 + 1
    with pytest.raises(ValueError, match="balanced_softmax_client': need class_counts, got None"):
        classification_loss(torch.zeros(2, 3), labels, settings=chosen, class_counts=None)
    assert split_counts(labels, with_loss("balanced_softmax"), CPU) is None


def test_label_smoothing_is_on_top_of_balancing() -> None:
    chosen = with_loss("balanced_softmax", label_smoothing=0.2)
    found = classification_loss(
        torch.zeros(3, 2), torch.tensor([0, 0, 1]), settings=chosen, class_counts=None
    )
    # p = (2, 1) / 3; targets (0.9, 0.1) twice, (0.1, 0.9) once.
    expected = -(1.9 * math.log(2 / 3) + 1.1 * math.log(1 / 3)) / 3
    assert float(found) == pytest.approx(expected)


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    repeats=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_with_equal_counts_balancing_changes_nothing(
    labels: list[int], repeats: int, seed: int
) -> None:
    """Adding one number to all logits of an image does not move a softmax."""
    every = torch.tensor(labels)
    logits = torch.randn((len(labels), 4), generator=torch.Generator().manual_seed(seed))
    found = classification_loss(
        logits,
        every,
        settings=with_loss("balanced_softmax_client"),
        class_counts=torch.full((4,), repeats),
    )
    torch.testing.assert_close(found, functional.cross_entropy(logits, every))
    batch = classification_loss(
        logits, every, settings=with_loss("balanced_softmax"), class_counts=None
    )
    assert torch.isfinite(batch)


def test_training_takes_the_loss_that_the_settings_name() -> None:
    # x = 0: logits are the biases. Batches of 2 out of labels 0, 0, 0, 1; class 1 has 1 of 4 images.
    images = dots([0] * 4, [0, 0, 0, 1])
    for loss, counts in (("balanced_softmax", (3, 1)), ("balanced_softmax_client", (3, 1))):
        model = Affine(bias=(0.0, 0.0))
        result = sgd(loss=loss).train(model, images, epochs=1, batch_size=4, lr=1.0, seed=(0,))
        shares = [count / sum(counts) for count in counts]
        expected = -(3 * math.log(shares[0]) + math.log(shares[1])) / 4
        assert result.train_loss == pytest.approx(expected)
        # The gradient is p minus the shares of labels: 0, since p already is those shares.
        assert model.biases() == pytest.approx([0.0, 0.0], abs=1e-7)
    split = sgd(loss="balanced_softmax_client").train(
        Affine(bias=(0.0, 0.0)), images, epochs=1, batch_size=1, lr=0.0, seed=(0,)
    )
    assert split.train_loss == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4)
    # In a batch of one image n = (1, 1): nothing is balanced.
    single = sgd(loss="balanced_softmax").train(
        Affine(bias=(0.0, 0.0)), images, epochs=1, batch_size=1, lr=0.0, seed=(0,)
    )
    assert single.train_loss == pytest.approx(math.log(2))


def test_a_loss_that_is_not_known_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        with_loss("balanced_softmx")
    assert str(caught.value).startswith(
        "loss='balanced_softmx': is not known. Did you mean 'balanced_softmax'? "
        "Known: balanced_softmax, balanced_softmax_client, cross_entropy"
    )


def test_soft_cross_entropy_by_hand() -> None:
    # Teacher (3, 1) / 4, student (1, 1) / 2; at T = 2 the teacher is (sqrt 3, 1) / (sqrt 3 + 1).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    assert float(soft_cross_entropy(student, teacher, 1.0)) == pytest.approx(math.log(2))
    root = math.sqrt(3)
    student = torch.tensor([[0.0, 2 * math.log(3)]])  # at T = 2 it is (1, 3) / 4
    expected = -(root * math.log(1 / 4) + math.log(3 / 4)) / (root + 1)
    assert float(soft_cross_entropy(student, teacher, 2.0)) == pytest.approx(expected)


def test_gradient_of_soft_cross_entropy_has_no_squared_temperature() -> None:
    teacher = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    for temperature in (1.0, 4.0):
        student = torch.zeros((2, 2), requires_grad=True)
        soft_cross_entropy(student, teacher, temperature).backward()
        wanted = (teacher / temperature).softmax(1)
        assert student.grad is not None
        # (p - wanted) / T, over 2 images
        torch.testing.assert_close(student.grad, (0.5 - wanted) / temperature / 2)


def test_a_certain_teacher_is_a_label() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn((6, 3), generator=rng), torch.arange(6) % 3
    certain = 200.0 * functional.one_hot(labels, 3)
    expected = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(soft_cross_entropy(logits, certain, 1.0), expected)


def test_a_class_without_images_counts_as_the_settings_say() -> None:
    labels, counts = torch.tensor([0, 0]), torch.tensor([1, 5])  # class 2 never occurs
    for absent in (0.1, 1.0, 2.0):
        chosen = with_loss("balanced_softmax_client", absent_count=absent)
        found = classification_loss(torch.zeros(2, 3), labels, settings=chosen, class_counts=counts)
        assert float(found) == pytest.approx(-math.log(1 / (6 + absent)))
