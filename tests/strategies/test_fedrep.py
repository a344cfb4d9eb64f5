"""FedRep: two phases that leave each other's part alone, and a head that is fitted before it is scored."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from clients.fedrep import _HEAD, FedRepClient
from clients.site import Shared, site_of
from corolla.config.build import build_client
from corolla.launch import plan_run
from corolla.records.client_models import load_model, model_directory
from corolla.records.client_store import ClientStore
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Task
from corolla.training.batches import shuffled_batches
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import BLOCKS
from tests.strategies.test_reductions import weights_of

TINY = BLOCKS["mobilenetv3_8"]
# Whatever would move what a gradient of zeros does not.
HEAVY = ("trainer.momentum=0.9", "trainer.weight_decay=0.1", "trainer.decay_norm_and_bias=true")


def client_alone(folder: Path, method: str, *overrides: str, images: int = 12) -> Any:
    """Return the method's client without the wrapper of private parts, with a few images."""
    settings = small(f"method={method}", "run_dir=unused", *TINY, "batch_size=8", *overrides)
    config = plan_run(settings).config
    context: Any = SimpleNamespace(run_config={"config": config.to_yaml()}, node_config={})
    site = site_of(context, {"client": "1"})
    few = site.data.train.between(0, images)
    data = replace(site.data, train=few, validation=few, test=few)
    return build_client(config, site=replace(site, data=data, store=ClientStore(folder)))


def model_and_task(client: Any, *, epochs: int = 1) -> tuple[nn.Module, Task]:
    """Return the initial network of the method's architecture, and a first round's task."""
    space, settings = client._site.space, client._site.config.method.settings
    architecture = space.named(settings["architecture"])
    arrays = space.cut(space.initial_state(0), architecture)
    task = Task(client="1", round=1, architecture=architecture, epochs=epochs, lr=0.1)
    return space.load(architecture, arrays), task


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Return the names of arrays whose bits differ."""
    old, new = to_arrays(before), to_arrays(after)
    return {name for name in old if old[name].tobytes() != new[name].tobytes()}


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_each_phase_leaves_the_other_part_bit_for_bit(bn: str, tmp_path: Path) -> None:
    client: FedRepClient = client_alone(
        tmp_path, "fedrep", *HEAVY, f"method.head_phase_bn={bn}", "method.head_epochs=2"
    )
    model, task = model_and_task(client, epochs=3)
    head = client._head
    statistics = {name for name, _ in model.named_buffers()}
    start = deepcopy(model)
    client._fit_head(model, task, 2)
    assert changed(start, model) == head | (statistics if bn == "train" else set())
    trained = deepcopy(model)
    both, _ = model_and_task(client)
    result = client._train(both, task)
    # The second phase: everything but the head, which is what the first one made of it.
    assert changed(trained, both) == to_arrays(model).keys() - head
    # The head's epochs are not taken out of the body's, and cost one pass where features are kept.
    assert result.samples_processed == 12 * (3 + (2 if bn == "train" else 1))
    assert all(parameter.requires_grad for parameter in both.parameters())


@pytest.mark.parametrize("private", ["head", "head."])  # the part; the module
def test_the_body_trains_its_own_epochs_where_they_are_given(private: str, tmp_path: Path) -> None:
    """Of 12 images: 2 epochs of the body and one pass for the head's features, whatever the task's epochs."""
    client: FedRepClient = client_alone(
        tmp_path, "fedrep", "method.body_epochs=2", f"private=['{private}']"
    )
    model, task = model_and_task(client, epochs=5)
    assert client._train(model, task).samples_processed == 12 * (2 + 1)


def test_kept_features_are_what_the_whole_network_computes(tmp_path: Path) -> None:
    """Against plain steps through a network in evaluation mode, momentum and decay on."""
    client: FedRepClient = client_alone(
        tmp_path, "fedrep", *HEAVY, "evaluation.statistics=aggregate", "trainer.augment=none"
    )
    model, task = model_and_task(client)
    expected = deepcopy(model).eval()
    client._fit_head(model, task, 2)
    named = dict(expected.named_parameters())
    optimizer = torch.optim.SGD(
        [named[name] for name in client._head], lr=0.1, momentum=0.9, weight_decay=0.1
    )
    floats = client._site.trainer.floats(client._site.data.train)
    passes = client._site.passes(task, _HEAD)
    for epoch in range(2):
        for where in shuffled_batches(12, 8, seed=passes["seed"], epoch=epoch, drop_single=False):
            optimizer.zero_grad()
            logits = expected(floats.normalised(floats.pixels(where)))
            loss = functional.cross_entropy(logits, floats.labels[where])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for name in client._head:
        torch.testing.assert_close(
            dict(model.named_parameters())[name], named[name], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [([], 10), (["method.head_epochs=12"], 12), (["method.final_head_epochs=0"], 0)],
)
def test_the_head_is_fitted_to_the_newest_body_before_it_is_scored(
    settings: list[str], epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PFLlib has no such epochs. They end with the score: the head that is kept is the round's."""
    client: FedRepClient = client_alone(tmp_path, "fedrep", "method.head_epochs=1", *settings)
    model, task = model_and_task(client)
    arrays = to_arrays(model)
    asked: list[int] = []
    fit = client._fit_head

    def spy(model: nn.Module, task: Task, epochs: int) -> Any:
        asked.append(epochs)
        return fit(model, task, epochs)

    monkeypatch.setattr(client, "_fit_head", spy)
    client.evaluate(task, {name: array.copy() for name, array in arrays.items()})
    last = replace(task, epochs=0, return_arrays=True, extra={"keep": False})
    answer = client.deploy(last, {name: array.copy() for name, array in arrays.items()})
    assert asked == ([epochs, epochs] if epochs else [])
    moved = {n for n in arrays if answer.arrays[n].tobytes() != arrays[n].tobytes()}
    assert moved & client._head == (client._head if epochs else set())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedrep", "fedbabu"])
def test_new_clients_fit_the_finished_body(method: str, tmp_path: Path) -> None:
    """They start from the initial head; nothing of the server's changes."""
    arm = (
        f"method={method}",
        *TINY,
        "clients=2",
        "clients_per_round=2",
        "rounds=1",
        "new_clients=1",
    )
    trained = run(tmp_path / "trained", *arm)
    stage = ("stage=new_clients", f"from={tmp_path / 'trained'}", "clients_per_round=1")
    new = run(tmp_path / "new", *arm, *stage)
    assert list(new.summary()["test_accuracy"]["per_client"]) == ["2"]
    left, right = (weights_of(each, "strategy/model/") for each in (trained, new))
    assert all(right[name].tobytes() == array.tobytes() for name, array in left.items())
    space = Shared(new.config_text()).space
    _, deployed = load_model(model_directory(new.path, "2"))
    initial = space.initial_state(0)
    assert all(deployed[n].tobytes() != initial[n].tobytes() for n in space.names_in(["head"]))
