"""FedRoD: a generic model that is FedAvg's by balanced softmax, and a head beside it that it never feels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clients.fedrod import FedRodClient
from corolla.spaces.supernet import to_arrays
from corolla.training.second_head import SecondHead, add_head, blank_head
from tests.strategies.conftest import run
from tests.strategies.test_fedrep import HEAVY, TINY, changed, client_alone, model_and_task
from tests.strategies.test_reductions import weights_of

BOTH = (*TINY, "clients=2", "clients_per_round=2", "rounds=1", "evaluation.every=0")


def test_the_second_head_stays(tmp_path: Path) -> None:
    fedrod = run(tmp_path / "fedrod", "method=fedrod", *BOTH)
    whole = sum(array.nbytes for array in weights_of(fedrod, "strategy/model/").values())
    for row in fedrod.clients():
        assert row["bytes_up"] == row["bytes_down"] == whole


class _Plain(nn.Module):
    """Two features, two classes: the input goes into the classifier as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(2, 2)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
            self.classifier.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.classifier(images)
        return found


def test_a_step_of_the_second_head_by_hand() -> None:
    """z = (2, 1) of class 1: the sum is (2, 1) + 0, so p = (s, 1 - s) with s = 1 / (1 + e^-1).

    The gradient of cross-entropy is (s, -s) for the bias, times z for the weight; nothing else has one.
    """
    model = _Plain()
    head = SecondHead(blank_head(model, 2))
    z = torch.tensor([[2.0, 1.0]], requires_grad=True)
    with head.beside(model.classifier):
        model(z)
        total = head(z)
    loss = nn.functional.cross_entropy(total, torch.tensor([1]))
    loss.backward()  # type: ignore[no-untyped-call]
    s = 1 / (1 + np.exp(-1))
    bias, weight = head.linear.bias.grad, head.linear.weight.grad
    assert bias is not None
    assert weight is not None
    np.testing.assert_allclose(bias, [s, -s], rtol=1e-6)
    np.testing.assert_allclose(weight, [[2 * s, s], [-2 * s, -s]], rtol=1e-6)
    assert z.grad is None
    assert model.classifier.weight.grad is None
    with pytest.raises(ValueError, match="reads no vector per image"):
        head(z)  # what was seen is used once


def test_the_sum_of_both_heads_is_one_network() -> None:
    model = _Plain()
    arrays = {
        "weight": np.array([[0.5, 0.0], [0.0, -1.0]], np.float32),
        "bias": np.array([0.25, 0.0], np.float32),
    }
    add_head(model, arrays, 2)
    found = model(torch.tensor([[2.0, 1.0]])).detach()
    np.testing.assert_array_equal(found, [[2 + 1 + 0.25, 1 - 1]])


def test_a_client_keeps_its_head_and_one_that_never_trained_has_the_generic_model(
    tmp_path: Path,
) -> None:
    client: FedRodClient = client_alone(tmp_path, "fedrod", *HEAVY)
    model, task = model_and_task(client)
    sent = to_arrays(model)

    def copies() -> dict[str, np.ndarray]:
        return {name: array.copy() for name, array in sent.items()}

    never = client.evaluate(task, copies()).metrics
    assert never["test_loss"] == never["global_test_loss"]
    wanted = replace(task, extra={**task.extra, "received": True})
    received = client.fit(wanted, copies()).metrics
    assert received["received_test_loss"] == never["global_test_loss"]  # neither has a prior
    answers = [client.fit(task, copies()) for _ in range(2)]  # a repeated round
    kept = client._store.load("1", 2)
    assert kept is not None
    assert all(array.any() for array in kept[1].arrays.values())
    first, second = (answer.arrays for answer in answers)
    assert all(first[name].tobytes() == second[name].tobytes() for name in sent)
    # The newest generic model below the head of an older round.
    later = replace(task, round=5, epochs=0, return_arrays=True, extra={"keep": False})
    told = client.evaluate(later, copies()).metrics
    assert told["test_loss"] != told["global_test_loss"]
    assert told["global_test_loss"] == never["global_test_loss"]
    deployed = client.deploy(later, copies()).arrays
    summed, _ = model_and_task(client)
    add_head(summed, kept[1].arrays, 10)
    statistics = {name for name, _ in summed.named_buffers()}
    assert changed(client._site.space.load(task.architecture, deployed), summed) == statistics
