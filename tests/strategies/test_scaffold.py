"""SCAFFOLD: its numbers by hand, and what public implementations of it get wrong."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.scaffold import CONTROL, Form, ScaffoldClient, VariateSettings
from clients.site import site_of
from corolla.aggregation.statistics import is_statistic
from corolla.config.build import build_client
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.client_store import ClientStore
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.results import TrainResult
from corolla.types import Arrays
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.strategies.test_reductions import weights_of

TWO = ("clients=2", "clients_per_round=2", "evaluation.every=0", "evaluation.fine_tune_epochs=0")


def _plain_site(momentum: float, store: ClientStore | None = None) -> Any:
    """Return a site whose training is two steps down (y - 1)^2 / 2 from y = w, lr 0.5."""

    def train(model: nn.Linear, task: Task, *, hook: Any, **_: Any) -> TrainResult:
        optimizer = torch.optim.SGD(model.parameters(), lr=task.lr, momentum=momentum)
        for _step in range(2):
            optimizer.zero_grad()
            ((model(torch.ones(1, 1)) - 1) ** 2 / 2).sum().backward()
            hook(model)
            optimizer.step()
        counts: dict[str, Any] = {"num_examples": 2, "samples_processed": 2}
        return TrainResult(train_loss=0.0, train_s=0.0, peak_memory_mib=0.0, **counts)

    def load(architecture: Architecture, arrays: Arrays) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        model.load_state_dict(tensors, assign=True)  # shares their memory, as a space's does
        return model

    return SimpleNamespace(
        client="1",
        store=store,
        train=train,
        space=SimpleNamespace(load=load),
        trainer=SimpleNamespace(device="cpu"),
        config=SimpleNamespace(evaluation=SimpleNamespace(received=False)),
    )


def _fit(
    store: ClientStore,
    round: int,
    *,
    w: float = 0.0,
    c: float = 0.2,
    momentum: float = 0.0,
    form: Form = "paper",
) -> Answer:
    site = _plain_site(momentum, store)
    client = ScaffoldClient(site=site, settings=VariateSettings(option="II", form=form))
    arrays = {"weight": w, CONTROL + "weight": c}
    task = Task(client="1", round=round, architecture=Architecture((0,)), epochs=1, lr=0.5)
    return client.fit(task, {n: np.full((1, 1), v, np.float32) for n, v in arrays.items()})


def _of(value: float) -> State:
    return State({"weight": np.full((1, 1), value, np.float32)}, {"restarted": False})


def _kept(store: ClientStore, before_round: int) -> Any:
    found = store.load("1", before_round)
    assert found is not None
    return found[1].arrays["weight"].item()


@pytest.fixture(autouse=True)
def _without_scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "store" in request.fixturenames:
        monkeypatch.setattr("clients.subnet.scores", lambda *_, **__: {})


@pytest.fixture
def store(tmp_path: Path) -> ClientStore:
    return ClientStore(tmp_path)


@pytest.mark.parametrize(("momentum", "y"), [(0.0, 1.05), (0.5, 1.4)])
def test_two_steps_by_hand(momentum: float, y: float, store: ClientStore) -> None:
    """g = -1, d = -1.4, y = 0.7; g = -0.3, d = -0.7, y = 1.05: the mean of g is 0.6 - 0.2 - 1.05 / 1.

    Momentum steps by 0.5 * 1.4 + 0.7 = 1.4 the second time; the gradients are the same, and so is c_i.
    """
    store.save("1", 1, _of(0.6))
    for _repeated in range(2):  # a round that is repeated starts where it started
        answer = _fit(store, 2, momentum=momentum)
        assert answer.arrays["weight"] == pytest.approx(y)
        assert answer.arrays[CONTROL + "weight"] == pytest.approx(-0.65 - 0.6)
        assert _kept(store, 3) == pytest.approx(-0.65)


def test_a_client_that_was_never_asked_starts_at_0_whatever_the_model(store: ClientStore) -> None:
    """Flower's niid_bench starts at the weights. g = -0.5, d = -0.3, y = 0.65; g = -0.35."""
    answer = _fit(store, 1, w=0.5, c=0.2)
    assert answer.arrays[CONTROL + "weight"] == pytest.approx(-0.425)
    assert answer.metrics["state_restarted"] == 0


def test_two_steps_of_niid_bench_by_hand(store: ClientStore) -> None:
    """Beside momentum 0.5, c - c_i = -0.4: y = 0.2 + 0.5, then 0.9 + 0.5 (0.5 + 0.3); 0.6 - 0.2 - 1.3 / 1."""
    store.save("1", 1, _of(0.6))
    answer = _fit(store, 2, momentum=0.5, form="niid_bench")
    assert answer.arrays["weight"] == pytest.approx(1.3)
    assert _kept(store, 3) == pytest.approx(-0.9)
    assert answer.arrays[CONTROL + "weight"] == pytest.approx(-1.5)


def test_niid_bench_starts_at_the_weights(store: ClientStore) -> None:
    """w = c_i = 0.5, c - c_i = -0.3: y = 0.65 + 0.25, then 1.05 + 0.5 (0.25 + 0.1); 0.5 - 0.2 - 0.725."""
    answer = _fit(store, 1, w=0.5, momentum=0.5, form="niid_bench")
    assert answer.arrays["weight"] == pytest.approx(1.225)
    assert answer.arrays[CONTROL + "weight"] == pytest.approx(-0.425 - 0.5)
    with pytest.raises(RefusedError, match=r"option='I': does not exist in form=niid_bench"):
        VariateSettings(option="I", form="niid_bench")


def test_niid_benchs_server_starts_at_the_weights_too_and_weighs_changes() -> None:
    examples = ("method.form=niid_bench", "method.weights=examples")
    strategy = _strategy(_config("scaffold", *examples))
    before = strategy.state()
    replies = _replies(strategy, 1, ["0", "1"])  # of four, with 10 and 11 images
    strategy.absorb(1, replies)
    first, second = (reply.arrays for reply in replies)
    for name, c in strategy.state().part(CONTROL).items():
        w = before.arrays[f"model/{name}"]
        assert before.arrays[CONTROL + name].tobytes() == w.tobytes()
        mean = (10 * first[CONTROL + name] + 11 * second[CONTROL + name]) / 21
        np.testing.assert_allclose(c, w + mean / 2, rtol=1e-4, atol=1e-5)


def test_where_everybody_takes_part_niid_benchs_start_cancels_out(tmp_path: Path) -> None:
    plain = ("method=scaffold", "trainer.momentum=0", "trainer.weight_decay=0", "rounds=1", *TWO)
    ours = run(tmp_path / "ours", *plain)
    theirs = run(tmp_path / "theirs", *plain, "method.form=niid_bench")
    left, right = (weights_of(each, f"strategy/{CONTROL}") for each in (ours, theirs))
    assert any(np.abs(c).max() > 0.01 for c in left.values())
    for name, c in left.items():
        np.testing.assert_allclose(right[name], c, atol=2e-4)


def test_damaged_variates_go_back_and_start_anew(
    store: ClientStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save("1", 1, _of(0.6))
    store.save("1", 2, _of(float("nan")))  # of a training whose answer the server refused
    with caplog.at_level(logging.ERROR):
        answer = _fit(store, 3)
    assert "its control variate GOES BACK to what it was after round 1" in caplog.text
    assert answer.arrays[CONTROL + "weight"] == pytest.approx(-1.25)
    assert answer.metrics["state_restarted"] == 0
    for file in tmp_path.rglob("round-*"):
        file.write_bytes(file.read_bytes()[:-1])
    again = _fit(store, 4, c=0.0)  # g = -1, y = 0.5; g = -0.5
    assert again.arrays[CONTROL + "weight"] == pytest.approx(-0.75)
    assert again.metrics["state_restarted"] == 1


def _client(*overrides: str, images: int, folder: Path) -> ScaffoldClient:
    config = plan_run(small("method=scaffold", "run_dir=unused", *overrides)).config
    context: Any = SimpleNamespace(run_config={"config": config.to_yaml()}, node_config={})
    site = site_of(context, {"client": "1"})
    few = site.data.train.between(0, images)
    data = replace(site.data, train=few, validation=few, test=few)
    client: ScaffoldClient = build_client(
        config, site=replace(site, data=data, store=ClientStore(folder))
    )
    return client


def _real(client: ScaffoldClient, *, epochs: int, lr: float = 0.1) -> tuple[Arrays, Arrays, Answer]:
    """Return the network of the space that is sent, c, which is 0.01 throughout, and the answer."""
    space = client._site.space
    architecture = space.smallest()
    sent = space.cut(space.initial_state(0), architecture)
    names = [n for n in sent if not is_statistic(n)]
    control = {CONTROL + n: np.full_like(sent[n], 0.01) for n in names}
    task = Task(client="1", round=1, architecture=architecture, epochs=epochs, lr=lr)
    arrays = {name: array.copy() for name, array in {**sent, **control}.items()}
    return sent, control, client.fit(task, arrays)


def test_every_step_counts_the_partial_batch_and_all_epochs(tmp_path: Path) -> None:
    """J = 2 epochs of 4 + 2 images. c_i was 0, so (w - y) / (J lr) - c is the change, on every parameter."""
    plain = ("batch_size=4", "trainer.momentum=0", "trainer.weight_decay=0")
    sent, control, answer = _real(_client(*plain, images=6, folder=tmp_path), epochs=2)
    for name, c in control.items():
        own = name.removeprefix(CONTROL)
        formula = (sent[own] - answer.arrays[own]) / (4 * 0.1) - c
        np.testing.assert_allclose(answer.arrays[name], formula, atol=1e-5)
    assert set(answer.arrays) == {*sent, *control}
    assert answer.metrics["samples_processed"] == 12


def test_option_one_is_the_gradient_at_the_received_model(tmp_path: Path) -> None:
    """Whatever the steps: option II's mean of steps of length 0."""
    few: dict[str, Any] = {"images": 6, "folder": tmp_path}
    first = _real(_client("batch_size=4", "method.option=I", **few), epochs=2)[2]
    _, control, still = _real(_client("batch_size=4", **few), epochs=1, lr=0.0)
    assert all(first.arrays[n].tobytes() == still.arrays[n].tobytes() for n in control)
    assert first.metrics["samples_processed"] == 6 + 12


def test_server_by_hand() -> None:
    """Two of four answer, with 10 and 11 images: means are uniform, and c moves by half of theirs."""
    strategy = _strategy(_config("scaffold", "method.server_lr=2.0"))
    replies = _replies(strategy, 1, ["0", "1"])
    before = strategy.state()
    strategy.absorb(1, replies)
    after = strategy.state()
    first, second = (reply.arrays for reply in replies)
    for name, w in before.part("model/").items():
        mean = (first[name] + second[name]) / 2
        wanted = mean if is_statistic(name) else w + 2 * (mean - w)
        np.testing.assert_allclose(after.arrays[f"model/{name}"], wanted, rtol=1e-5, atol=1e-6)
    assert not any(is_statistic(name) for name in after.part(CONTROL))
    for name, c in after.part(CONTROL).items():
        wanted = (first[CONTROL + name] + second[CONTROL + name]) / 4
        np.testing.assert_allclose(c, wanted, rtol=1e-5, atol=1e-7)


def test_c_is_the_mean_of_all(tmp_path: Path) -> None:
    both = run(tmp_path / "two", "method=scaffold", "rounds=2", *TWO)
    variates = [both.client_states.load(client, 3) for client in ("0", "1")]
    for name, c in weights_of(both, f"strategy/{CONTROL}").items():
        one, other = (kept[1].arrays[name] for kept in variates if kept is not None)
        np.testing.assert_allclose(c, (one + other) / 2, atol=1e-6)
        assert c.any(), name


def test_a_change_of_another_shape_is_its_clients_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ScaffoldClient.fit

    def lie(self: ScaffoldClient, task: Task, arrays: Arrays) -> Answer:
        answer = fit(self, task, arrays)
        if task.client == "0":
            return answer
        name = next(n for n in answer.arrays if n.startswith(CONTROL))
        return replace(answer, arrays={**answer.arrays, name: answer.arrays[name][..., None]})

    monkeypatch.setattr(ScaffoldClient, "fit", lie)
    (line,) = run(tmp_path / "run", "method=scaffold", "rounds=1", *TWO).metrics()
    assert line["participants"] == ["0"]
    assert f"{CONTROL}" in line["failed"][0]["reason"]
    assert "has shape" in line["failed"][0]["reason"]
