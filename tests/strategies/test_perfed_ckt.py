"""PerFed-CKT: who is in which cluster, what is taught, what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.perfed_ckt import OUTPUTS, TAUGHT
from corolla.aggregation.clusters import clusters_of
from corolla.config.build import build_strategy, build_trainer
from corolla.data.images import Images
from corolla.launch import plan_run
from corolla.tasks import Reply
from corolla.training.codistillation import CoDistillation
from strategies.perfed_ckt import PerFedCKT
from tests.strategies.conftest import federation_of, reply_to, run, small
from tests.strategies.test_reductions import ONE

CKT = "method=perfed_ckt"
FEW = ["clients=2", "clients_per_round=2", "evaluation.every=0", "evaluation.fine_tune_epochs=0"]


def _strategy(*overrides: str) -> PerFedCKT:
    """Return a strategy whose server has five images, each of one grey."""
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 8, 8).contiguous()
    images = Images(pixels, torch.full((5,), -1), (0.5,), (0.25,))
    config = plan_run(small(CKT, "run_dir=unused", "clients_per_round=4", *overrides)).config
    server: Any = SimpleNamespace(images=SimpleNamespace(images=images, labelled=False))
    strategy = build_strategy(config, federation=replace(federation_of(config), server=server))
    assert isinstance(strategy, PerFedCKT)
    return strategy


def _answer(strategy: PerFedCKT, round: int, said: dict[str, float]) -> list[Reply]:
    """Return replies in which class 1 has this logit for every image, and the others 0."""
    replies = []
    for order in strategy.orders(round, list(said)):
        logits = np.zeros(order.returns[OUTPUTS], np.float32)
        logits[:, 1] = said[order.task.client]
        replies.append(reply_to(order.task, {OUTPUTS: logits}))
    return replies


def _targets(strategy: PerFedCKT, round: int, clients: str) -> list[Any]:
    """Return what each is taught of class 1; None where it is taught nothing."""
    return [
        order.arrays[OUTPUTS][0, 1] if order.task.extra[TAUGHT] else None
        for order in strategy.orders(round, list(clients))
    ]


def test_clusters_are_found_whatever_their_number_and_the_order() -> None:
    points = np.array([[0.0, 0], [9, 9], [0, 1], [9, 8], [0, 0]])
    assert clusters_of(points, 2, seed=1) == [[0, 2, 4], [1, 3]]
    assert clusters_of(points, 1, seed=1) == [[0, 1, 2, 3, 4]]
    assert clusters_of(points, 9, seed=1) == [[0, 4], [1], [2], [3]]  # of 4 points no more
    assert clusters_of(points[:1], 3, seed=1) == [[0]]


def test_each_is_taught_its_clusters_mean_and_keeps_it_until_it_takes_part_again() -> None:
    strategy = _strategy("method.clusters=2", "method.outputs=logits")
    assert _targets(strategy, 1, "0123") == [None] * 4
    replies = _answer(strategy, 1, {"0": 1.0, "1": 9.0, "2": 3.0, "3": 8.0})
    outcome = strategy.absorb(1, replies[::-1])
    assert [outcome.columns[c]["cluster"] for c in "0123"] == [0, 1, 0, 1]
    # (1 + 3) / 2 and (9 + 8) / 2; of ten numbers an image, one is 1 or 0.5 away.
    assert _targets(strategy, 2, "0123") == [2.0, 8.5, 2.0, 8.5]
    assert outcome.metrics["disagreement"] == pytest.approx((1 + 0.5 + 1 + 0.5) / 40)
    strategy.absorb(2, _answer(strategy, 2, {"0": 5.0, "1": 5.0}))
    strategy.absorb(3, [])
    assert _targets(strategy, 4, "0123") == [5.0, 5.0, 2.0, 8.5]
    restored = _strategy("method.clusters=2", "method.outputs=logits")
    restored.load_state(strategy.state())
    assert _targets(restored, 4, "0123") == [5.0, 5.0, 2.0, 8.5]
    strategy.absorb(4, _answer(strategy, 4, {"2": 0.0, "3": 0.0}))
    assert len(strategy.state().part("targets/")) == 2  # what nobody is taught is forgotten


def test_probabilities_are_made_by_the_server() -> None:
    """Whatever a client returns: logits 0 and ln 9 among nine zeros are 1/10 and 9/18."""
    strategy = _strategy()
    strategy.absorb(1, _answer(strategy, 1, {"0": 0.0, "1": float(np.log(9))}))
    assert _targets(strategy, 2, "0")[0] == pytest.approx((0.1 + 0.5) / 2)


def test_the_public_images_are_the_same_in_all_rounds_and_sent_as_one_object() -> None:
    strategy = _strategy("method.public_images=3")
    first, second = strategy.orders(1, ["0", "1"])
    assert first.arrays is second.arrays
    again = strategy.orders(7, ["2"])[0].arrays["pixels"]
    assert len(set(again[:, 0, 0, 0].tolist())) == 3
    np.testing.assert_array_equal(again, first.arrays["pixels"])


class _Small(nn.Module):
    """Says w, 0 of a grey image of 1, after BatchNorm and dropout that must not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(1), nn.Dropout(0.9)
        self.linear = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = self.dropout(self.norm(images)).mean((1, 2, 3))[:, None]
        logits: torch.Tensor = self.linear(means)
        return logits


def test_gradient_by_hand_and_statistics_stay() -> None:
    """Two images of x = -1 and 1, s = w x: the gradient is lambda times the mean of (s - s') x."""
    config = plan_run(small(CKT, "run_dir=unused")).config
    trainer = build_trainer(config)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    images = Images(pixels.contiguous(), torch.zeros(2, dtype=torch.int64), (0.5,), (0.5,))
    wanted = torch.tensor([[3.0, 0.0], [5.0, 1.0]])
    pull = CoDistillation(
        images, wanted, strength=2.0, outputs="logits", trainer=trainer, batch_size=2, seed=(1,)
    )
    model = _Small().train()
    before = model.norm.running_mean.clone()  # type: ignore[union-attr]
    model.linear.weight.grad = torch.ones(2, 1)
    for parameter in model.norm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _step in range(2):
        pull(model)
    # At w = 0, mean of (0 - s') x is (3 - 5) / 2 and (0 - 1) / 2; times lambda, in each of two steps.
    found = model.linear.weight.grad[:, 0].tolist()
    assert found == pytest.approx([1 + 2 * 2 * -1.0, 1 + 2 * 2 * -0.5], abs=1e-3)
    assert pull.distance == pytest.approx((9 + 26) / 2)
    assert pull.samples_processed == 4
    assert torch.equal(model.norm.running_mean, before)  # type: ignore[arg-type]
    assert model.training
    assert wanted.grad is None


def test_only_logits_go_up(tmp_path: Path) -> None:
    common = ["server_set=held_out", "server_set.images=50", "rounds=2", *FEW, ONE]
    taught = run(tmp_path / "taught", CKT, *common, "method.architectures=smallest")
    rows = taught.clients()
    assert {row["bytes_up"] for row in rows} == {20 * 10 * 4}
    assert {row["bytes_down"] for row in rows} == {20 * 64 + 20 * 10 * 4}
    assert ["public_distance" in row for row in rows] == [False] * 2 + [True] * 2
    for row in rows[2:]:
        assert row["samples_processed"] == 18 + 20  # one step, of all public images
