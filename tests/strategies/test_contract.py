"""What every method must hold; a new file in conf/method/ is tested by existing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message

from corolla.aggregation.statistics import is_statistic
from corolla.config.build import header_of
from corolla.config.groups import methods
from corolla.config.schema import RunConfig
from corolla.launch import plan_run
from corolla.records.run_directory import RunDirectory
from corolla.tasks import Reply
from corolla.types import Arrays
from engines.grid import InlineGrid
from strategies.base import CorollaStrategy
from strategies.running.progress import load_method
from tests.conftest import quick
from tests.states import differences
from tests.strategies.conftest import power_cut, reply_to, results, resumed, run, small, strategy_of

METHODS = methods()
# Together they have every kind of state: a model, own models, variates, a supernet with policies, two stages.
KINDS = ["fedavg", "ditto", "scaffold", "perfedrlnas", "hapfnas", "spider", "corolla"]
# The server knows or writes the model that is a client's alone, or the client makes it anew.
WRITTEN_FOR_EACH = ["local", "pfedhn", "fedtp", "per_fedavg"]
# Clients of FedMN may choose the same modules; FIARSE's largest size is the whole network.
MAY_BE_ALIKE = ["fedmn", "fiarse"]
# Networks of two blocks, as small as can be and yet not all alike.
_FIRST = "{width:[4],depth:[1],kernel:[3],expand:[1],stride:2,se:false}"
_BLOCKS = f"[{_FIRST},{{width:[4,8],depth:[1,2],kernel:[3,5],expand:[2],stride:2,se:true}}]"
_FIXED = f"[{_FIRST},{{width:[8],depth:[1],kernel:[5],expand:[2],stride:2,se:true}}]"
BLOCKS = {
    "mobilenetv3_8": [f"space.supernet.stages={_BLOCKS}", "space.supernet.last=16"],
    "mobilenetv2_8": [f"space.supernet.stages={_BLOCKS}", "space.supernet.last=[16]"],
    "mobilenetv2_width_8": [f"space.supernet.base.stages={_FIXED}"],
}


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Every method, all of its tests in a row: they share one configuration and one run."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(method: str, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of the small federation that nothing disturbs."""
    return _run(tmp_path_factory.mktemp(method) / "whole", method)


def _settings(method: str) -> list[str]:
    """Return the method on networks of two blocks; DARTS is as small as it can be already."""
    settings = [f"method={method}"]
    space = [text for text in small(*settings) if text.startswith("space=")]
    name = space[-1].removeprefix("space=") if space else "mobilenetv3_8"
    return [*settings, *BLOCKS.get(name, [])]


def _run(run_dir: Path, method: str, *overrides: str) -> RunDirectory:
    return run(run_dir, *_settings(method), *overrides)


@cache
def _config(method: str, *overrides: str) -> RunConfig:
    """Return the method's configuration; with ``overrides`` on the space of the tests that give them."""
    settings = [f"method={method}", *overrides] if overrides else _settings(method)
    return plan_run(small(*settings, "run_dir=unused")).config


def _strategy(config: RunConfig) -> CorollaStrategy:
    strategy: CorollaStrategy = strategy_of(config)
    return strategy


def _replies(strategy: CorollaStrategy, round: int, clients: list[str]) -> list[Reply]:
    """Answer a round's orders with arrays that every client changed in its own way."""
    replies = []
    for order in strategy.orders(round, clients):
        client = int(order.task.client)
        rng = np.random.default_rng([round, client])
        arrays = {
            name: (order.arrays[name] + rng.normal(0, 0.01, shape)).astype(np.float32)
            for name, shape in order.returns.items()
        }
        said = {"val_accuracy": 0.1 * (client + 1)}
        replies.append(
            reply_to(order.task, arrays, 10 + client, metrics=said, round_s=1.0 + client)
        )
    return replies


def test_orders_change_nothing_and_repeat(method: str) -> None:
    strategy = _strategy(_config(method))
    strategy.absorb(1, _replies(strategy, 1, ["0", "1"]))
    before = strategy.state()
    first, second = (strategy.orders(2, ["0", "2"]) for _ in range(2))
    assert [order.task for order in first] == [order.task for order in second]
    assert not differences(before, strategy.state())


def test_order_of_replies_does_not_matter(method: str) -> None:
    """The exchange sorts them; a strategy that is handed them otherwise may not differ either."""
    strategies = [_strategy(_config(method)) for _ in range(2)]
    for round in (1, 2, 3):
        for strategy, step in zip(strategies, (1, -1), strict=True):
            strategy.absorb(round, _replies(strategy, round, ["0", "1", "3"])[::step])
    states = [strategy.state() for strategy in strategies]
    if method == "local":  # remembers whose turn is over in the order of the turns
        return
    assert not differences(*states)


def test_a_round_without_replies_changes_no_number(method: str) -> None:
    strategy = _strategy(_config(method))
    strategy.absorb(1, _replies(strategy, 1, ["0", "1"]))
    before = strategy.state()
    strategy.absorb(2, [])
    assert not differences(before, strategy.state())


def test_state_survives_the_round_trip(method: str) -> None:
    config = _config(method)
    strategy, other = _strategy(config), _strategy(config)
    for round in (1, 2):
        strategy.absorb(round, _replies(strategy, round, ["0", "1", "2"]))
    other.load_state(strategy.state())
    assert not differences(strategy.state(), other.state())
    for each in (strategy, other):
        each.absorb(3, _replies(each, 3, ["1", "3"]))
    assert not differences(strategy.state(), other.state())
    assert strategy.deployed("1").architecture == other.deployed("1").architecture


def test_run_leaves_what_the_contract_says(method: str, whole: RunDirectory) -> None:
    directory = whole
    summary = directory.summary()
    assert summary["method"] == method
    assert sorted(summary["test_accuracy"]["per_client"]) == ["0", "1", "2", "3"]
    spread = summary["test_accuracy"]
    assert sorted(spread) == ["mean", "per_client", "std", "weighted_mean", "worst_decile"]
    images = {c: entry["num_examples"]["test"] for c, entry in summary["per_client"].items()}
    right = sum(spread["per_client"][client] * count for client, count in images.items())
    assert spread["weighted_mean"] == pytest.approx(right / sum(images.values()))
    assert [line["round"] for line in directory.metrics()] == [1, 2, 3]
    assert [len(line["participants"]) for line in directory.metrics()] == [2, 2, 2]
    assert ["evaluation" in line for line in directory.metrics()] == [False, True, True]
    for entry in summary["per_client"].values():
        assert entry["num_examples"]["train"] > entry["num_examples"]["test"] > 0
        assert len(entry["label_counts"]) == 10
    row = directory.clients()[0]
    for key in ("architecture", "num_examples", "train_loss", "val_accuracy", "test_accuracy"):
        assert key in row
    for name in ("config.yaml", "environment.json", "run.log", "partition.json", "summary.json"):
        assert (directory.path / name).is_file()
    assert directory.saved_clients() == ["0", "1", "2", "3"]


def test_a_model_that_a_client_keeps_is_its_own(method: str, whole: RunDirectory) -> None:
    """Neither another client's, nor the global model, nor what anything started from.

    Public implementations of pFedMe score the global model as the personalised one.
    """
    config = _config(method)
    strategy = _strategy(config)
    if not (strategy.clients_keep_models or method in WRITTEN_FOR_EACH) or method in MAY_BE_ALIKE:
        return
    initial = strategy.deployed("0").arrays
    _, state = whole.checkpoints.load("latest", expected=header_of(config, strategy.space))
    load_method(strategy, state)
    trained = sorted({row["client"] for row in whole.clients()})
    models = {client: whole.client_model(client)[1] for client in trained}
    for client, model in models.items():
        others = [models[other] for other in trained if other != client]
        shared = [] if method in WRITTEN_FOR_EACH else [strategy.deployed(client).arrays]
        for other in [*others, initial, *shared]:
            assert _unlike(model, other)


def _unlike(model: Arrays, other: Arrays) -> bool:
    """Return whether an entry differs of what both train; two models have nothing in common."""
    both = [n for n in model if n in other and not is_statistic(n)]
    return not both or any(not np.array_equal(model[n], other[n]) for n in both)


@pytest.mark.parametrize("method", quick(METHODS, *KINDS), indirect=True)
def test_resumed_equals_uninterrupted_and_replies_may_come_in_any_order(
    method: str, whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resumed_equals(2, method, whole, tmp_path, monkeypatch)


# It is like the second, but that the state of before is the initial one.
@pytest.mark.slow
@pytest.mark.parametrize("method", KINDS, indirect=True)
def test_a_crash_in_the_first_round_changes_nothing_either(
    method: str, whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resumed_equals(1, method, whole, tmp_path, monkeypatch)


def _resumed_equals(
    crash_round: int,
    method: str,
    whole: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The crash comes at the worst moment: the round's lines are written, its checkpoint is not."""
    exchange = InlineGrid.exchange
    orders: list[list[str]] = []

    def all_reversed(
        self: InlineGrid, messages: Iterable[Message], **more: float | None
    ) -> list[Message]:
        found = list(exchange(self, messages, **more))[::-1]
        orders.append([reply.metadata.reply_to_message_id for reply in found])
        return found

    monkeypatch.setattr(InlineGrid, "exchange", all_reversed)
    with power_cut(crash_round):
        _run(tmp_path / "broken", method)
    assert not (tmp_path / "broken" / "summary.json").exists()
    assert results(resumed(tmp_path / "broken")) == results(whole)
    assert max(len(order) for order in orders) > 1


@pytest.mark.parametrize("method", quick(METHODS, *KINDS), indirect=True)
def test_a_failing_client_costs_its_own_round_only(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = InlineGrid._answer

    def fail(self: InlineGrid, message: Message) -> Message:
        task = message.content["task"]
        if (task["client"], task["round"]) == ("1", 1):
            return Message(Error(0, "out of paper"), reply_to=message)
        return answer(self, message)

    monkeypatch.setattr(InlineGrid, "_answer", fail)
    everybody = ["clients=2", "clients_per_round=2"]
    first, *later = _run(tmp_path / "run", method, *everybody).metrics()
    assert first["participants"] == ["0"]
    (failed,) = first["failed"]
    assert failed["client"] == "1"
    assert "out of paper" in failed["reason"]
    assert [line["failures"] for line in later] == [0, 0]
