"""FML: two models with a share of labels each; where that is all, they are Local's and FedAvg's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.fml import FmlClient
from corolla.config.build import build_space, build_strategy, build_trainer_settings
from corolla.federation import Federation
from corolla.tasks import Task
from corolla.training.losses import LabelLoss
from corolla.training.mutual import mutual_losses
from corolla.training.settings import TrainerSettings
from strategies.fml import FML
from tests.strategies.conftest import run
from tests.strategies.test_contract import _config, _strategy
from tests.strategies.test_fedmd import private_models
from tests.strategies.test_fedrep import TINY, client_alone
from tests.strategies.test_reductions import weights_of

BOTH = (*TINY, "clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")
FIXED = (*BOTH, "evaluation.fine_tune_epochs=0")


def _bits(arrays: dict[str, Any]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def test_a_model_that_learns_from_labels_alone_is_locals_or_fedavgs(tmp_path: Path) -> None:
    """Each share acts on its own model: the other one of the pair is neither."""
    fedavg = run(tmp_path / "fedavg", "method=fedavg", "method.weights=uniform", *FIXED)
    local = run(tmp_path / "local", "method=local", *FIXED)
    average = _bits(weights_of(fedavg, "strategy/model/"))
    alone = {client: _bits(arrays) for client, arrays in private_models(local).items()}
    for own, shared in ((1.0, 0.5), (0.5, 1.0)):
        shares = (f"method.labels_own={own}", f"method.labels_shared={shared}")
        directory = run(tmp_path / f"fml{own}", "method=fml", *FIXED, *shares)
        found = {client: _bits(arrays) for client, arrays in private_models(directory).items()}
        assert found.keys() == alone.keys()
        assert (found == alone) is (own == 1)
        assert (_bits(weights_of(directory, "strategy/model/")) == average) is (shared == 1)
        summary, other = directory.summary(), local if own == 1 else fedavg
        key = "test_accuracy" if own == 1 else "global"
        assert summary[key] == other.summary()[key]


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
    federation = Federation.of(
        config,
        space=space,
        trainer=build_trainer_settings(config),
        budgets={},
        caps={"1": cap},
    )
    strategy = build_strategy(config, federation=federation)
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
    (trained,) = private_models(directory).values()  # nobody else keeps anything
    assert _bits(trained) != start
    assert sorted(directory.summary()["test_accuracy"]["per_client"]) == ["0", "1"]
