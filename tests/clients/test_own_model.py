"""Models of a client's own on its disk: one way to load them for every method that has them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clients.own_model_client import OwnModelClient
from clients.site import site_of
from corolla.config.build import build_client
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.client_store import ClientStore
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Task
from corolla.types import Arrays
from tests.conftest import quick
from tests.strategies.conftest import small

# Methods whose clients keep a model of their own; GIVEN: a lost one is replaced by what was received.
GIVEN = ["ditto", "spider", "apfl", "l2gd"]
METHODS = ["local", "fedmd", "perfed_ckt", "fedkemf", "fml", *GIVEN]


class _Client:
    """A client with a few images and a disk, and the tasks that it is given."""

    def __init__(self, method: str, folder: Path, **experiment: str) -> None:
        own = {"fml": ["method.knowledge=smallest"], "l2gd": ["method.beta=0"]}.get(method, [])
        asked = small(f"method={method}", *own, "run_dir=unused", "trainer.clip_norm=1")
        config = plan_run(asked).config
        context: Any = SimpleNamespace(run_config={"config": config.to_yaml()}, node_config={})
        site = site_of(context, {"client": "1"})
        few = site.data.train.between(0, 6)
        self.folder, self.space = folder, site.space
        self.site = replace(
            site,
            data=replace(site.data, train=few, validation=few, test=few),
            store=ClientStore(folder, experiment=experiment),
            own_model_dir=None,
        )
        self.architecture = self.space.largest() if method == "spider" else self.space.smallest()
        whole = self.space.initial_state(9)
        self.received: Arrays = {
            "local": {},
            "fedmd": {"pixels": np.zeros((4, 1, 8, 8), np.uint8)},
            "perfed_ckt": {
                "pixels": np.zeros((4, 1, 8, 8), np.uint8),
                "outputs": np.zeros((4, 10), np.float32),
            },
            "fedkemf": self.space.cut(whole, self.space.smallest()),
            "fml": self.space.cut(whole, self.space.smallest()),
        }.get(method, self.space.cut(whole, self.architecture))

    def task(self, round: int) -> Task:
        return Task(client="1", round=round, architecture=self.architecture, epochs=1, lr=0.01)

    def built(self) -> OwnModelClient[Any]:
        client: OwnModelClient[Any] = build_client(self.site.config, site=self.site)
        return client

    def arrays(self) -> Arrays:
        return {name: array.copy() for name, array in self.received.items()}

    def fit(self, round: int) -> float:
        """Train for a round; return what the client says of its state."""
        return float(self.built().fit(self.task(round), self.arrays()).metrics["state_restarted"])

    def model(self, round: int) -> Arrays:
        """Return the model that the client has after a round."""
        return to_arrays(self.built()._own(self.task(round), self.arrays(), after=True).model)

    def damage(self, round: int) -> None:
        (file,) = self.folder.rglob(f"round-{round:06d}.safetensors")
        file.write_bytes(file.read_bytes()[:-9])


def _same(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("method", quick(METHODS, "ditto", "spider"))
def test_a_damaged_model_goes_back_and_starts_anew_where_there_is_no_other(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = _Client(method, tmp_path)
    assert [client.fit(1), client.fit(2)] == [0, 0]
    first, second = client.model(1), client.model(2)
    assert not _same(first, second)
    client.damage(2)
    with caplog.at_level(logging.ERROR):
        assert _same(client.model(2), first)
        assert "GOES BACK to what it was after round 1" in caplog.text
        assert "round-000002" in caplog.text
        # As if the client had not been in round 2: the one of round 3 begins with round 1's.
        assert client.fit(3) == 0
        assert "STARTS ANEW" not in caplog.text
        for round in (1, 3):
            client.damage(round)
        lost = client.model(3)
        assert "its own model STARTS ANEW" in caplog.text
    start = client.received if method in GIVEN else None
    if start is None:
        start = client.space.cut(client.space.initial_state(0), client.architecture)
    assert _same(lost, start)
    assert client.fit(4) == 1
    assert client.fit(5) == 1  # it says so from then on


def test_pfedmes_damaged_model_is_solved_for_again(tmp_path: Path) -> None:
    """As one that never took part would."""
    client, stranger = (_Client("pfedme", tmp_path / name) for name in ("client", "stranger"))
    for round in (1, 2):
        client.built().fit(client.task(round), client.arrays())
    assert not _same(client.model(2), stranger.model(2))
    client.damage(2)
    assert _same(client.model(2), stranger.model(2))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e19])
def test_a_model_whose_training_diverged_is_not_gone_on_from(
    value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server refused that training; the client would be refused for ever after."""
    client, lost = (_Client("local", tmp_path / name) for name in ("client", "lost"))
    client.fit(1)
    first = client.model(1)
    for spoiled, round in ((client, 2), (lost, 1)):
        own = spoiled.built()._own(spoiled.task(round), {})
        torch.nn.init.constant_([*own.model.parameters()][-1], value)
        spoiled.built()._keep(spoiled.task(round), own)
    assert _same(client.model(2), first)
    assert "GOES BACK to what it was after round 1" in caplog.text
    assert client.fit(3) == 0
    assert lost.fit(2) == 1
    assert "its own model STARTS ANEW" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_a_state_of_another_experiment_is_refused_and_stays(method: str, tmp_path: Path) -> None:
    _Client(method, tmp_path, seed="0").fit(1)
    (file,) = tmp_path.rglob("round-*")
    content = file.read_bytes()
    with pytest.raises(RefusedError, match="another experiment: seed is '0' there, '5' here"):
        _Client(method, tmp_path, seed="5").fit(2)
    assert file.read_bytes() == content


def test_a_model_of_another_architecture_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = _Client("local", tmp_path)
    client.fit(1)
    client.architecture = client.space.largest()
    assert client.fit(2) == 1
    assert "cannot be used: is of [" in caplog.text
