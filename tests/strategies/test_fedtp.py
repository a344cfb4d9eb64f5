"""FedTP: what is written, what is averaged, and that a step is the mean of the clients'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corolla.launch import plan_run
from corolla.types import Arrays
from strategies import pfedhn
from tests.strategies.conftest import small
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.strategies.test_pfedhn import LINEAR, _features

QKV = {f"blocks.{block}.attention.qkv.weight" for block in (0, 1)}


def test_first_round_by_hand() -> None:
    """One step of lr 0.02 by the mean over 10 and 11 images; other layers are FedAvg's to the bit."""
    strategy: Any = _strategy(_config("fedtp", *LINEAR))
    space = [text for text in small("method=fedtp") if text.startswith("space")]
    fedavg = _strategy(_config("fedavg", *space))
    replies = _replies(strategy, 1, ["0", "1"])
    start = strategy.state().part("model/")
    f = {client: _features(strategy, client) for client in ("0", "1", "3")}
    fedavg.absorb(1, replies)
    strategy.absorb(1, replies)
    averaged = fedavg.deployed("3").arrays
    for client in ("0", "3"):  # client 3 never took part
        for name, array in strategy.deployed(client).arrays.items():
            if name not in QKV:
                assert array.tobytes() == averaged[name].tobytes()
                continue
            moves = [
                share * (1 + f[reply.client] @ f[client]) * (start[name] - reply.arrays[name])
                for share, reply in zip((10 / 21, 11 / 21), replies, strict=True)
            ]
            np.testing.assert_allclose(array - start[name], -0.02 * sum(moves), atol=1e-7)
    written = {name for name in strategy.state().arrays if name.startswith("hypernetwork/write.")}
    assert written == {f"hypernetwork/write.{n}.{part}" for n in QKV for part in ("weight", "bias")}


@pytest.mark.parametrize("method", ["fedtp", "pfedhn"])
def test_with_biases_alone_it_is_fedavg(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias writes the same for everybody: a step of 1 takes it to the mean of what came back."""
    plain = ("lr=1.0", "momentum=0.0", "weight_decay=0.0", "clip_norm=null")
    kept = [f"method.hypernetwork.{setting}" for setting in plain]
    alike = ("method.weights=examples", "method.steps=mean")
    ours = _strategy(_config(method, *alike, *kept))
    space = [text for text in small(f"method={method}") if text.startswith("space")]
    fedavg = _strategy(_config("fedavg", "rounds=3", *space))
    step = pfedhn.stepped

    def biases(values: Arrays, velocity: Arrays, gradient: Arrays, settings: Any) -> Any:
        moved = {
            n: g if n.startswith("write.") and n.endswith(".bias") else np.zeros_like(g)
            for n, g in gradient.items()
        }
        return step(values, velocity, moved, settings)

    monkeypatch.setattr(pfedhn, "stepped", biases)
    for round in (1, 2, 3):
        for each in (fedavg, ours):
            each.absorb(round, _replies(each, round, ["0", "1", "2"]))
        wanted, found = fedavg.deployed("3").arrays, ours.deployed("3").arrays
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)


def test_attention_of_its_own_layers_counts_too() -> None:
    """NASViT: query, key and value apart, of other shapes in every stage."""
    elsewhere = [text for text in small("method=fedtp") if not text.startswith("space")]
    elsewhere += ["space=nasvit_32", "space.supernet.resolution=[16]", "run_dir=unused"]
    strategy: Any = _strategy(plan_run(elsewhere).config)
    assert {name.split(".")[-2] for name in strategy._start} == {"query", "key", "value"}
    assert len({array.shape for array in strategy._start.values()}) > 1
