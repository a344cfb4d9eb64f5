"""SPIDER and Ditto: reductions to simpler methods, what stays with the client, and what goes wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from clients.spider import SpiderClient
from clients.wire import declared
from corolla.launch import plan_run, start
from corolla.records.client_store import ClientStore
from corolla.records.run_directory import RunDirectory
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.types import Arrays
from engines.grid import InlineGrid
from tests.conftest import make_space, quick
from tests.states import same
from tests.strategies.conftest import NEEDS, SMALL, results, resumed
from tests.strategies.test_reductions import weights_of

TINY = NEEDS["direct_fednas"]  # the space alone
SPIDER = [
    "method=spider",
    *TINY,
    "method.search.warmup_rounds=1",
    "method.search.recovery_rounds=1",
]
# Everybody takes part; the two edges of either cell are decided before rounds 2 and 3.
FEW = ["partition.images_per_client=40", "trainer.lr=0.05"]
ALL = ["clients=3", "clients_per_round=3", "rounds=4", *FEW, "trainer.clip_norm=5"]


def run(run_dir: Path, *overrides: str) -> RunDirectory:
    return start(plan_run([*SMALL, f"run_dir={run_dir}", *overrides]))


def _models(directory: RunDirectory) -> dict[str, Any]:
    return {client: directory.client_model(client)[1] for client in directory.saved_clients()}


@pytest.mark.slow
def test_the_global_model_of_spider_is_that_of_fedavg_on_the_supernet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to the local models; but for the validation images of Phase 3."""
    monkeypatch.setattr(SpiderClient, "_merged", lambda self, own: False)
    spider = run(tmp_path / "s", *SPIDER, *ALL, "method.global_optimizer=reset")
    fedavg = run(tmp_path / "f", "method=fedavg", *TINY, *ALL, "method.architecture=largest")
    assert same(weights_of(spider, "strategy/model/"), weights_of(fedavg, "strategy/model/"))
    assert (
        spider.summary()["global"]["test_accuracy"] == fedavg.summary()["global"]["test_accuracy"]
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A search to its end; tests only read it."""
    return run(tmp_path_factory.mktemp("spider") / "run", *SPIDER, *ALL)


@pytest.mark.slow
def test_dittos_pull_pulls(tmp_path: Path) -> None:
    """Without it, it is local training, and its global part is FedAvg's either way: test_reductions.py."""
    ditto = ["method=ditto", *ALL, "rounds=2"]
    pulled, free = (
        run(tmp_path / pull, *ditto, f"method.lambda_local={pull}") for pull in ("5", "0.0")
    )
    average = weights_of(pulled, "strategy/model/")
    distance = [
        sum(float(np.sum((model[n] - average[n]) ** 2)) for n in average if "running" not in n)
        for model in (_models(pulled)["0"], _models(free)["0"])
    ]
    assert distance[0] < 0.9 * distance[1]
    assert not same(_models(pulled)["0"], average)


def test_the_search_ends_and_the_local_models_are_small(whole: RunDirectory) -> None:
    directory = whole
    rows = [row for row in directory.clients() if row["client"] == "1"]
    assert [row["phase"] for row in rows] == [1, 2, 3, 3]
    assert [row["undecided"] for row in rows] == [4, 2, 0, 0]
    sizes = [row["params"] for row in rows]
    assert sizes[0] >= sizes[1] >= sizes[2] == sizes[3]
    # The round after the last decision trains on the validation images as well.
    first, last = rows[0]["num_examples"], rows[-1]["num_examples"]
    facts = directory.summary()["per_client"]["1"]["num_examples"]
    assert (first, last) == (facts["train"], facts["train"] + facts["validation"])
    assert [len(row["decisions"]) for row in rows] == [0, 2, 2, 0]
    (normal, reduce) = rows[1]["decisions"]
    assert (normal["cell"], reduce["cell"]) == ("normal", "reduce")
    assert set(normal["scores"]) == {"skip_connect", "sep_conv_3x3"}
    kept = normal["kept"]
    assert normal["scores"][kept][0] == min(score[0] for score in normal["scores"].values())
    description, arrays = directory.client_model("1")
    space = make_space("darts_s2_mixed_small", **_tiny(), in_channels=1)
    architecture = space.named(description["choices"])
    assert {n: a.shape for n, a in arrays.items()} == dict(space.shapes(architecture))
    assert all("+" not in value for value in description["architecture"].values())
    assert directory.summary()["best"] is None  # nothing is left to choose by
    told = directory.summary()["per_client"]["1"]  # the method's own column, and every method's
    assert (told["phase"], told["state_restarted"]) == (3, 0)


def _tiny() -> dict[str, int]:
    keys = [text.removeprefix("space.supernet.").split("=") for text in TINY[1:]]
    return {key: int(value) for key, value in keys}


@pytest.mark.slow
@pytest.mark.parametrize("search", ["random", "milenas"])
def test_other_searches(search: str, tmp_path: Path) -> None:
    length = (
        ["method.search.search_rounds=2"]
        if search == "milenas"
        else ["method.search.warmup_rounds=1", "method.search.recovery_rounds=1"]
    )
    directory = run(
        tmp_path / "run", "method=spider", *TINY, f"method/search={search}", *length, *ALL
    )
    assert [row["phase"] for row in directory.clients() if row["client"] == "0"][-1] == 3
    for _, arrays in (directory.client_model(c) for c in ("0", "1", "2")):
        assert arrays


@pytest.mark.parametrize("search", quick(["perturbation", "milenas"]))
def test_resumed_search_equals_uninterrupted(
    search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in round 3, after one client kept its state and before its answer went out."""
    settings = ["method=spider", *TINY, f"method/search={search}", *ALL]
    settings += (
        ["method.search.search_rounds=2"]
        if search == "milenas"
        else ["method.search.warmup_rounds=1", "method.search.recovery_rounds=1"]
    )
    whole = run(tmp_path / "whole", *settings)
    save = ClientStore.save

    def die(self: ClientStore, client: str, round: int, state: State) -> None:
        save(self, client, round, state)
        if (client, round) == ("1", 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClientStore, "save", die)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - however the engine reports it
            run(tmp_path / "broken", *settings)
    again = resumed(tmp_path / "broken")
    assert results(again) == results(whole)
    left, right = _models(again), _models(whole)
    assert all(same(left[client], right[client]) for client in ("0", "1", "2"))


@pytest.mark.parametrize("share", quick([True, False], True))
def test_nothing_of_the_local_model_is_sent(
    share: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every message is inspected; a client that shares tells architecture and decisions, not weights."""
    sent: list[Message] = []
    answer = InlineGrid._answer

    def keep(self: InlineGrid, message: Message) -> Message:
        sent.append(answer(self, message))
        return sent[-1]

    monkeypatch.setattr(InlineGrid, "_answer", keep)
    text = str(share).lower()
    directory = run(tmp_path / "run", *SPIDER, *ALL, f"method.share={text}")
    own = [
        array.tobytes()
        for model in _models(directory).values()
        for name, array in model.items()
        if array.size > 16 and "running" not in name
    ]
    assert own
    names = set(make_space("darts_s2_mixed_small", **_tiny(), in_channels=1).supernet_shapes)
    seen: set[str] = set()
    assert len(sent) >= 12
    for message in sent:
        for record in message.content.array_records.values():
            assert not record or set(declared(record)) == names
            for array in record.values():
                assert not any(piece in array.data for piece in own)
        for records in (message.content.config_records, message.content.metric_records):
            for record in records.values():
                seen |= set(record)
    telling = {"own_architecture", "decisions", "params", "macs", "undecided"}
    assert seen & telling == (telling if share else set())
    everything = {
        "client", "round", "architecture", "loss", "num_examples", "handling_s", "train_s",
        "train_loss", "global_train_loss", "samples_processed", "peak_memory_mib",
        "state_restarted", "phase", "validation_in_training",
    }  # fmt: skip
    scores = {
        f"{prefix}{split}_{what}"
        for prefix in ("", "global_", "fine_tuned_")
        for split in ("val", "test")
        for what in ("accuracy", "loss")
    }
    assert seen - telling <= everything | scores
    summary = directory.summary()["per_client"]["0"]
    told = any("+" not in value for value in summary["architecture"].values())
    assert told is share


def test_a_damaged_state_starts_anew_from_the_global_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "run"
    fit = SpiderClient.fit

    def damage(self: SpiderClient, task: Task, arrays: Arrays) -> Answer:
        if (task.client, task.round) == ("1", 3):
            for file in (directory / "state" / "1").glob("*.safetensors"):
                file.write_bytes(file.read_bytes()[:100])
        return fit(self, task, arrays)

    monkeypatch.setattr(SpiderClient, "fit", damage)
    with caplog.at_level(logging.WARNING, logger="corolla"):
        run(directory, *SPIDER, *ALL)
    assert "STARTS ANEW" in caplog.text
    assert caplog.text.count("the saved state of client 1 was damaged") == 1  # the server's word
    assert "the search of 1 clients did not end: 1." in caplog.text
    rows = {(row["client"], row["round"]): row for row in RunDirectory.open(directory).clients()}
    assert [rows["1", r]["state_restarted"] for r in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert rows["1", 3]["undecided"] == 4  # the whole supernet again
    assert [rows["0", r]["state_restarted"] for r in (3, 4)] == [0, 0]
    assert [line["failures"] for line in RunDirectory.open(directory).metrics()] == [0] * 4


@pytest.mark.slow
def test_what_a_client_says_of_its_decisions_cannot_stop_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = SpiderClient._told

    def lie(self: SpiderClient, own: Any) -> dict[str, Any]:
        return told(self, own) | {"decisions": "{not JSON"}

    monkeypatch.setattr(SpiderClient, "_told", lie)
    directory = run(tmp_path / "run", *SPIDER, *ALL)
    assert all("decisions" not in row for row in directory.clients())

    def boast(self: SpiderClient, own: Any) -> dict[str, Any]:
        return told(self, own) | {"own_architecture": [99, 99, 99, 99]}

    monkeypatch.setattr(SpiderClient, "_told", boast)
    with pytest.raises(Exception, match="all 3 clients that were asked failed in the same way"):
        run(tmp_path / "other", *SPIDER, *ALL)


@pytest.mark.slow
def test_partial_participation_advances_by_a_clients_own_rounds(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", *SPIDER, *FEW, "clients=3", "clients_per_round=2", "rounds=9")
    for client in ("0", "1", "2"):
        rows = [row for row in directory.clients() if row["client"] == client]
        phases = [row["phase"] for row in rows]
        assert phases == [1, 2, *[3] * (len(rows) - 2)], client
