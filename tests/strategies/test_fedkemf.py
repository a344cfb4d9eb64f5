"""FedKEMF: what it reduces to, and what the server fuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strategies.fedkemf
from corolla.data.images import Images
from corolla.launch import plan_run
from corolla.spaces.supernet import Supernet
from corolla.tasks import Reply
from corolla.training.results import TrainResult
from corolla.types import Arrays
from strategies.fedkemf import FedKEMF
from tests.strategies.conftest import (
    changed_replies,
    diverging,
    run,
    small,
    strategy_of,
    without_times,
)
from tests.strategies.test_reductions import weights_of

KEMF = "method=fedkemf"


def _strategy(*overrides: str) -> FedKEMF:
    config = plan_run(small(KEMF, "run_dir=unused", *overrides)).config
    strategy = strategy_of(config)
    assert isinstance(strategy, FedKEMF)
    return strategy


def _answer(strategy: FedKEMF, images: dict[str, int]) -> list[Reply]:
    """Return replies to the first round: client -> its images."""
    return changed_replies(strategy.orders(1, list(images)), images)


def test_the_knowledge_network_alone_travels(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", KEMF, "rounds=1", "method.fusion=average")
    whole = sum(array.nbytes for array in weights_of(directory, "strategy/model/").values())
    for row in directory.clients():
        assert row["bytes_up"] == row["bytes_down"] == whole


@pytest.mark.parametrize("recalibrate", [True, False])
def test_the_server_distils_the_weighted_ensemble_into_the_average(
    recalibrate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = _strategy(
        "method.distillation.temperature=2.5",
        "method.distillation.batch_size=20",
        f"method.distillation.recalibrate={recalibrate}",
    )
    average = _strategy("method.fusion=average")
    replies = _answer(strategy, {"0": 10, "2": 30})
    average.absorb(1, _answer(average, {"0": 10, "2": 30}))
    seen: dict[str, Any] = {}

    def spy(trainee: Any, images: Any, wanted: Any, **settings: Any) -> TrainResult:
        seen.update(settings, lr=trainee.lr, wanted=wanted, images=images)
        seen["start"] = {n: t.numpy().copy() for n, t in trainee.model.state_dict().items()}
        with torch.no_grad():
            for parameter in trainee.model.parameters():
                parameter.zero_()
        return TrainResult(
            train_loss=0.5, num_examples=50, samples_processed=50, train_s=0.0, peak_memory_mib=0.0
        )

    monkeypatch.setattr(strategies.fedkemf, "train_on_logits", spy)
    metrics = strategy.absorb(1, replies).metrics
    for name, array in average.state().part("model/").items():
        np.testing.assert_array_equal(seen["start"][name], array)
    batch_size = 20 if recalibrate else None
    said = [_logits(strategy.space, reply.arrays, seen, batch_size) for reply in replies]
    np.testing.assert_allclose(seen["wanted"], (10 * said[0] + 30 * said[1]) / 40, atol=1e-4)
    assert (seen["distance"], seen["temperature"], seen["lr"]) == ("kl", 2.5, 0.01)
    assert metrics["distillation_loss"] == 0.5
    assert 0 <= metrics["teacher_accuracy"] <= 1
    # What the training made is what clients are sent next; the replies were not written to.
    parameters = [n for n in seen["start"] if not n.endswith(("running_mean", "running_var"))]
    sent = strategy.orders(2, ["1"])[0].arrays
    assert all(not sent[name].any() for name in parameters)
    assert all(reply.arrays[parameters[0]].any() for reply in replies)


def _logits(space: Supernet, arrays: Arrays, seen: dict[str, Any], batch_size: int | None) -> Any:
    model = space.load(space.smallest(), {n: a.copy() for n, a in arrays.items()}).eval()
    if batch_size:
        seen["trainer"].recalibrate(model, seen["images"], batch_size=batch_size)
    images: Images = seen["images"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (images.mean, images.std))
    with torch.no_grad():
        return model((images.pixels / 255 - mean) / std).numpy()


def test_a_network_that_exploded_is_in_neither_ensemble_nor_average() -> None:
    strategy, without = _strategy(), _strategy()
    before = strategy.state().part("model/")
    replies = _answer(strategy, {"0": 10, "1": 20, "2": 30})
    for array in replies[1].arrays.values():
        array *= 1e30  # finite, as what is not is refused where it arrives
    metrics = without_times(strategy.absorb(1, replies).metrics)
    theirs = without_times(without.absorb(1, [replies[0], replies[2]]).metrics)
    assert metrics == pytest.approx(theirs, abs=1e-6)
    found, wanted = (s.state().part("model/") for s in (strategy, without))
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6, err_msg=name)
    # Nobody who can be heard: the network stays.
    strategy = _strategy()
    strategy.absorb(1, [replies[1]])
    found = strategy.state().part("model/")
    assert all(found[name].tobytes() == before[name].tobytes() for name in before)


def test_a_distillation_that_diverges_leaves_the_average(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(strategies.fedkemf, "train_on_logits", diverging)
    strategy = _strategy()
    average = _strategy("method.fusion=average")
    strategy.absorb(1, _answer(strategy, {"0": 10, "2": 30}))
    average.absorb(1, _answer(average, {"0": 10, "2": 30}))
    assert "round 1: the average is not distilled into: the loss is " in caplog.text
    found, wanted = (s.state().part("model/") for s in (strategy, average))
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def test_a_run_reports_both_networks(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", KEMF, "rounds=2")
    summary = directory.summary()
    assert sorted(summary["global"]["test_accuracy"]["per_client"]) == ["0", "1", "2", "3"]
    assert (
        summary["global"]["test_accuracy"]["per_client"] != summary["test_accuracy"]["per_client"]
    )
    last = directory.metrics()[-1]
    assert {"personalised", "global"} <= last["evaluation"].keys()
    assert last["distillation_loss"] >= 0
    assert len({tuple(entry["choices"]) for entry in summary["per_client"].values()}) > 1
    assert directory.saved_clients() == ["0", "1", "2", "3"]
