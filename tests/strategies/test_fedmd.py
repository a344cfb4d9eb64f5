"""FedMD: what is agreed, what travels, and what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clients.wire import from_record, to_record
from corolla.config.build import build_strategy
from corolla.config.schema import RunConfig
from corolla.data.images import Images
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.spaces.architecture import Architecture
from corolla.tasks import Reply
from strategies.fedmd import FedMD
from strategies.private_architectures import PrivateArchitectures
from tests.strategies.conftest import federation_of, own_models, reply_to, run, small
from tests.strategies.test_reductions import weights_of

MD = "method=fedmd"
LABELS = [0, 1, 0, 1, 0]


def _config(*overrides: str) -> RunConfig:
    return plan_run(small(MD, "run_dir=unused", *overrides)).config


def _strategy(*overrides: str, labelled: bool = True) -> FedMD:
    """Return a strategy whose server has five images, each of one grey."""
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 8, 8).contiguous()
    labels = torch.tensor(LABELS if labelled else [-1] * 5)
    images = Images(pixels, labels, (0.5,), (0.25,))
    server: Any = SimpleNamespace(images=SimpleNamespace(images=images, labelled=labelled))
    config = _config("method.subset_images=3", *overrides)
    strategy = build_strategy(config, federation=replace(federation_of(config), server=server))
    assert isinstance(strategy, FedMD)
    return strategy


def _answer(strategy: FedMD, round: int, said: dict[str, float]) -> list[Reply]:
    """Return replies whose logits are all one number: client -> that number."""
    return [
        reply_to(
            order.task, {"logits": np.full(order.returns["logits"], said[order.task.client], "f4")}
        )
        for order in strategy.orders(round, list(said))
    ]


# --- the server ---------------------------------------------------------------------------------------


def test_the_consensus_is_the_plain_mean_and_travels_with_its_pixels() -> None:
    strategy = _strategy()
    (first, second) = strategy.orders(1, ["0", "2"])
    assert sorted(first.arrays) == ["logits", "pixels"]  # nothing to digest yet
    assert first.arrays is second.arrays  # serialised once
    before = first.arrays["pixels"]
    assert (before.dtype, before.shape) == (np.uint8, (3, 1, 8, 8))
    assert dict(first.returns) == {"logits": (3, 10)}

    replies = _answer(strategy, 1, {"0": 1.0, "2": 4.0})
    outcome = strategy.absorb(1, replies[::-1])
    # By hand: (1 + 4) / 2; both are 1.5 away from it.
    assert outcome.metrics["disagreement"] == 1.5
    (order, *_) = strategy.orders(2, ["1"])
    np.testing.assert_array_equal(order.arrays["logits"], np.full((3, 10), 2.5))
    np.testing.assert_array_equal(order.arrays["digest_pixels"], before)
    assert order.arrays["pixels"].shape == before.shape

    strategy.absorb(2, [])  # nobody answered: what was agreed of the first subset stands
    (order, *_) = strategy.orders(3, ["1"])
    np.testing.assert_array_equal(order.arrays["digest_pixels"], before)
    restored = _strategy()
    restored.load_state(strategy.state())
    again = restored.orders(3, ["1"])[0].arrays
    assert all(np.array_equal(again[name], array) for name, array in order.arrays.items())


def test_subsets_differ_from_round_to_round_and_hold_distinct_images() -> None:
    strategy = _strategy()
    subsets = [
        tuple(strategy.orders(round, ["0"])[0].arrays["pixels"][:, 0, 0, 0].tolist())
        for round in range(1, 12)
    ]
    assert len(set(subsets)) > 3
    assert all(list(subset) == sorted(set(subset)) for subset in subsets)


def test_consensus_accuracy_by_hand() -> None:
    strategy = _strategy()
    replies = _answer(strategy, 1, {"0": 0.0})
    where = strategy.orders(1, ["0"])[0].arrays["pixels"][
        :, 0, 0, 0
    ]  # each image's grey is its place
    replies[0].arrays["logits"][:, 1] = 1.0  # says class 1 of everything
    found = strategy.absorb(1, replies).metrics["consensus_accuracy"]
    assert found == pytest.approx(np.mean([LABELS[position] == 1 for position in where]))
    unlabelled = _strategy(labelled=False)
    assert (
        "consensus_accuracy" not in unlabelled.absorb(1, _answer(unlabelled, 1, {"0": 0.0})).metrics
    )


def test_labels_travel_only_to_newcomers_and_only_for_pretraining() -> None:
    strategy = _strategy("method.pretrain_epochs=2")
    strategy.absorb(1, _answer(strategy, 1, {"0": 1.0}))
    old, new = strategy.orders(2, ["0", "1"])
    assert "labels" not in old.arrays
    assert new.arrays["labels"].tolist() == LABELS
    assert len(new.arrays["labelled_pixels"]) == 5
    plain = _strategy().orders(1, ["0"])[0]
    assert "labels" not in plain.arrays
    with pytest.raises(
        RefusedError, match="reads the labels of the server's images, which have none"
    ):
        _strategy("method.pretrain_epochs=2", labelled=False).orders(1, ["0"])


def test_bytes_survive_the_wire() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)
    found = from_record(to_record({"pixels": pixels}))["pixels"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


# --- architectures ----------------------------------------------------------------------------------------


def test_fitting_architectures_are_the_costliest_within_the_limits() -> None:
    federation = federation_of(_config())
    space = federation.space
    macs = {which: space.costs(space.named(which)).macs for which in ("smallest", "largest")}
    middle = (macs["smallest"] + macs["largest"]) // 2
    caps = {"0": float(macs["smallest"]), "1": float(middle), "2": float(macs["largest"])}
    federation = replace(federation, caps=caps)
    private = PrivateArchitectures(federation, "fitting", candidates=8)
    found = {client: private.of(federation, client) for client in ("0", "1", "2", "3")}
    assert found["0"] == space.smallest()
    assert found["2"] == found["3"] == space.largest()  # 3 has no limit
    assert macs["smallest"] < space.costs(found["1"]).macs <= middle
    drawn = PrivateArchitectures(federation, "random", candidates=0)
    assert len({drawn.of(federation, str(client)) for client in range(3, 9)}) > 3
    assert drawn.of(federation, "0") == space.smallest()


def test_what_a_client_has_trained_outlives_a_change_of_its_limits() -> None:
    strategy = _strategy("method.architectures=largest")
    smallest = strategy.space.smallest()
    (reply,) = _answer(strategy, 1, {"0": 1.0})
    strategy.absorb(1, [replace(reply, task=replace(reply.task, architecture=smallest))])
    assert strategy.deployed("0").architecture == smallest
    assert strategy.deployed("1").architecture == strategy.space.largest()
    other = _strategy("method.architectures=largest")
    other.load_state(strategy.state())
    assert other.orders(2, ["0"])[0].task.architecture == smallest


@pytest.mark.parametrize("which", ["largst", [0, 0]])
def test_unknown_architectures_are_refused(which: Any) -> None:
    federation = federation_of(_config())
    with pytest.raises(RefusedError, match="architectures="):
        PrivateArchitectures(federation, which, candidates=2)


# --- runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recalibrate", [True, False])
def test_answers_have_the_statistics_of_the_public_images_or_the_clients_own(
    recalibrate: bool, tmp_path: Path
) -> None:
    chosen = [
        f"method.recalibrate={recalibrate}",
        "method.architectures=smallest",
        "method.digest_batch_size=10",
    ]
    directory = run(tmp_path / "run", MD, "rounds=1", "clients_per_round=4", *chosen)
    config = _config(*chosen)
    federation = federation_of(config)
    strategy = build_strategy(config, federation=federation)
    pixels = torch.from_numpy(strategy.orders(1, ["0"])[0].arrays["pixels"])
    assert federation.server is not None
    server = federation.server
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    images = replace(server.images.images, pixels=pixels, labels=labels)
    answers = []
    for arrays in own_models(directory).values():
        model = federation.space.load(federation.space.smallest(), arrays).eval()
        if recalibrate:
            server.trainer.recalibrate(model, images, batch_size=10)
        floats = server.trainer.floats(images)
        with torch.no_grad():
            answers.append(model(floats.normalised(floats.pixels(slice(None)))).numpy())
    consensus = weights_of(directory, "strategy/")["consensus"]
    np.testing.assert_allclose(consensus, np.mean(answers, axis=0), atol=1e-5)


def test_a_run_digests_from_the_second_round_and_sends_logits_alone(tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run",
        MD,
        "rounds=2",
        "clients_per_round=4",
        "method.pretrain_epochs=1",
        "method.architectures=random",
    )
    rows = directory.clients()
    assert {row["bytes_up"] for row in rows} == {20 * 10 * 4}
    assert ["digest_loss" in row for row in rows] == [False] * 4 + [True] * 4
    for row in rows:
        images = row["num_examples"] + (50 if row["round"] == 1 else 20)  # pretraining; digest
        assert abs(row["samples_processed"] - images) <= 2  # rests of one image
        assert row["state_restarted"] == 0.0
    pixels = 20 * 64
    assert {row["bytes_down"] for row in rows if row["round"] == 2} == {2 * pixels + 20 * 10 * 4}
    summary = directory.summary()
    assert "global" not in summary
    entries = summary["per_client"].values()
    assert len({Architecture.of(entry["choices"]) for entry in entries}) > 1
    assert directory.saved_clients() == ["0", "1", "2", "3"]
