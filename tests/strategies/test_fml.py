"""FML: two models with a share of labels each; where that is all, they are Local's and FedAvg's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.fml import FmlClient
from corolla.config.build import build_space
from corolla.tasks import Task
from corolla.training.losses import LabelLoss
from corolla.training.mutual import mutual_losses
from corolla.training.settings import TrainerSettings
from strategies.fml import FML
from tests.strategies.conftest import own_models, run, strategy_of
from tests.strategies.test_contract import _config, _strategy
from tests.strategies.test_fedrep import TINY, client_alone

BOTH = (*TINY, "clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")


def _bits(arrays: dict[str, Any]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def test_losses_by_hand() -> None:
    """Logits (ln 3, 0) and (0, 0) of one image of class 0: p = (3/4, 1/4) and (1/2, 1/2).

    CE = ln(4/3), ln 2; KL(w || v) = ln(2/3)/2 + ln(2)/2, KL(v || w) = 3/4 ln(3/2) + 1/4 ln(1/2). Means are
    over images, not over images and classes, and the peer has no gradient.
    """
    own = torch.tensor([[np.log(3.0), 0.0]] * 2, dtype=torch.float32, requires_grad=True)
    shared = torch.zeros(2, 2, requires_grad=True)
    settings = TrainerSettings(optimizer="sgd", lr=0.1)
    label_loss = LabelLoss(torch.tensor([0, 0]), settings, torch.device("cpu"))
    where = torch.arange(2)
    losses = mutual_losses((own, shared), where, alpha=(0.25, 0.5), label_loss=label_loss)
    expected = [0.75 * 0.287682 + 0.25 * 0.143841, 0.5 * 0.693147 + 0.5 * 0.130812]
    assert [loss.item() for loss in losses] == pytest.approx(expected, abs=1e-5)
    losses[0].backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    assert shared.grad is None


def test_both_go_forward_once_per_batch(tmp_path: Path) -> None:
    """12 images in batches of 8: two batches, two networks."""
    client: FmlClient = client_alone(tmp_path, "fml")
    space = client._site.space
    arrays = space.cut(space.initial_state(0), space.middle())
    network = type(space.blank(space.middle()))
    passes: list[int] = []

    def count(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, network) and module.training:
            passes.append(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        answer = client.fit(_task(client), arrays)
    finally:
        handle.remove()
    assert passes == [8, 8, 4, 4]
    assert answer.metrics["samples_processed"] == 24


def _task(client: FmlClient) -> Task:
    middle = client._site.space.middle()
    return Task(client="1", round=1, architecture=middle, epochs=1, lr=0.1)


def test_pfmls_term_pulls_the_shared_network_alone(tmp_path: Path) -> None:
    client: FmlClient = client_alone(tmp_path, "fml", "method.prox_mu=0.5")
    space = client._site.space
    received = space.cut(space.initial_state(0), space.middle())
    hook = client._hook(received)
    assert hook is not None
    moved = {name: array + np.float32(2) for name, array in received.items()}
    model = space.load(space.middle(), moved)
    hook(model)  # mu (w - w_t) = 0.5 * 2
    for parameter in model.parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad, 1.0, rtol=1e-5)
    plain = client_alone(tmp_path, "fml")._hook(received)
    untouched = space.load(space.middle(), moved)
    plain(untouched)
    assert all(parameter.grad is None for parameter in untouched.parameters())


def test_without_limits_both_have_one_architecture_and_a_cap_makes_the_private_one_smaller() -> (
    None
):
    config = _config("fml")
    space = build_space(config)
    cap = float(space.costs(space.middle()).macs - 1)
    strategy = strategy_of(config, caps={"1": cap})
    assert isinstance(strategy, FML)
    free, capped = strategy.orders(1, ["0", "1"])
    assert free.task.architecture == free.of == capped.of == space.middle()
    assert space.costs(capped.task.architecture).macs <= cap


def test_a_client_that_never_took_part_has_the_initial_model(tmp_path: Path) -> None:
    one = (*TINY, "clients=2", "clients_per_round=1", "rounds=1", "evaluation.every=0")
    settings = ("evaluation.fine_tune_epochs=0", "evaluation.statistics=aggregate")
    directory = run(tmp_path / "run", "method=fml", *one, *settings)
    (row,) = directory.clients()
    (absent,) = {"0", "1"} - {row["client"]}
    strategy = _strategy(_config("fml", *TINY))
    space, architecture = strategy.space, strategy.deployed(absent).architecture
    start = _bits(space.cut(space.initial_state(0), architecture))
    assert _bits(directory.client_model(absent)[1]) == start
    (trained,) = own_models(directory).values()  # nobody else keeps anything
    assert _bits(trained) != start
    assert sorted(directory.summary()["test_accuracy"]["per_client"]) == ["0", "1"]
