"""Stage 1 of HAPFNAS at the server: who teaches, on which pictures, at which step, and what is carried on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import strategies.distiller as distiller
from corolla.config.build import build
from corolla.data.images import Images
from corolla.launch import plan_run
from corolla.tasks import Reply
from corolla.training.ensemble import Ensemble
from corolla.training.sandwich import SandwichSettings, SupernetResult, SupernetTrainer
from corolla.types import Arrays
from strategies.distilled_supernet import Distilled
from tests.strategies.conftest import changed_replies, diverging, federation_of, small

HAPFNAS = "method=hapfnas"
IMAGES = {"0": 10, "1": 30}  # client -> its training images


def _stage(*overrides: str) -> Distilled:
    values = [f"method.supernet_training.{override}" for override in ("rounds=3", *overrides)]
    config = plan_run(
        small(HAPFNAS, "run_dir=unused", "rounds=6", "trainer.augment=crop_flip", *values)
    ).config
    stage = config.method.settings["supernet_training"]
    made = build(stage, "supernet_training", federation=federation_of(config))
    assert isinstance(made, Distilled)
    return made


def _weights(training: Distilled) -> Arrays:
    return training.space.initial_state(0)


def _replies(training: Distilled, server_round: int = 1) -> list[Reply]:
    """Return the knowledge model, changed by every client in its own way."""
    orders = training.orders(_weights(training), server_round, list(IMAGES))
    return changed_replies(orders, IMAGES)


@dataclass
class Spy:
    """Stands in for the ensemble and for the supernet's training; keeps what each was called with."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    trained: list[dict[str, Any]] = field(default_factory=list)

    def ensemble_of(
        self, models: Iterable[tuple[float, nn.Module]], images: Images, **settings: Any
    ) -> Ensemble:
        weights = [weight for weight, _ in models]
        logits = torch.full((len(images), 10), float(len(self.asked)))
        self.asked.append({"weights": weights, "images": images, "logits": logits, **settings})
        return Ensemble(logits, ())

    def distil(
        self, state: Arrays, images: Images, teacher: Tensor, **settings: Any
    ) -> SupernetResult:
        self.trained.append({"images": images, "teacher": teacher, **settings})
        return SupernetResult(
            arrays=state,
            train_loss=0.5,
            losses={},
            samples_processed=0,
            train_s=0.0,
            peak_memory_mib=0.0,
            optimizer_state={"stem": {"momentum_buffer": torch.tensor(len(self.trained))}},
        )


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy()
    monkeypatch.setattr(distiller, "ensemble_of", found.ensemble_of)
    monkeypatch.setattr(
        SupernetTrainer, "distil", lambda _, *given, **named: found.distil(*given, **named)
    )
    return found


def _play(training: Distilled, rounds: Sequence[int]) -> None:
    for server_round in rounds:
        training.absorb(_weights(training), server_round, _replies(training, server_round))


def test_teacher_and_students_see_one_view_of_each_round(spy: Spy) -> None:
    training = _stage("score_every=0")
    server = training.federation.server
    assert server is not None
    _play(training, [1, 2])
    raw = server.images.images.pixels
    for asked, trained in zip(spy.asked, spy.trained, strict=True):
        assert trained["images"] is asked["images"]
        assert trained["teacher"] is asked["logits"]
        assert not torch.equal(asked["images"].pixels, raw)
    first, second = (asked["images"].pixels for asked in spy.asked)
    assert not torch.equal(first, second)
    _play(_stage("augment=false", "score_every=0"), [1])
    assert torch.equal(spy.asked[-1]["images"].pixels, raw)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("recalibrate=true", "recalibration_batch_size", 25),
        ("recalibrate=false", "recalibration_batch_size", None),
        ("weights=examples", "weights", [10.0, 30.0]),
        ("weights=uniform", "weights", [1.0, 1.0]),
    ],
)
def test_what_the_ensemble_is_asked_with(
    override: str, key: str, expected: object, spy: Spy
) -> None:
    _play(_stage(override), [1])
    assert spy.asked[0][key] == expected


def test_step_decay_and_batches_are_the_servers_own(spy: Spy) -> None:
    own = ["epochs=2", "lr=0.5", "warmup_epochs=1", "weight_decay=0.25", "batch_size=20"]
    _play(_stage(*own), [1, 2, 3])
    # Six epochs: one of warm-up at lr / 2, then lr / 2 (1 + cos(pi t)), t = 0, 1/5, ... 4/5.
    cosine = [0.25 * (1 + math.cos(math.pi * t / 5)) for t in range(5)]
    steps = [step for trained in spy.trained for step in trained["lr"]]
    assert steps == pytest.approx([0.25, *cosine])
    assert [trained["epochs"] for trained in spy.trained] == [2, 2, 2]
    assert {trained["weight_decay"] for trained in spy.trained} == {0.25}
    assert {trained["batch_size"] for trained in spy.trained} == {20}
    assert len({trained["seed"] for trained in spy.trained}) == 3


def test_the_sandwich_is_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SandwichSettings] = []

    def note(self: SupernetTrainer, space: Any, trainer: Any, settings: SandwichSettings) -> None:
        seen.append(settings)
        diverging()

    monkeypatch.setattr(SupernetTrainer, "__init__", note)
    _play(_stage("random_subnets=3", "temperature=2.5", "teach=all"), [1])
    (given,) = seen
    assert (given.random_subnets, given.temperature, given.teach) == (3, 2.5, "all")


def test_the_optimiser_goes_on_from_round_to_round_and_over_a_restart(spy: Spy) -> None:
    training = _stage()
    _play(training, [1, 2])
    restored = _stage()
    restored.load_state(training.state())
    _play(restored, [3])
    states = [trained["optimizer_state"] for trained in spy.trained]
    assert states[0] is None
    assert [int(state["stem"]["momentum_buffer"]) for state in states[1:]] == [1, 2]


# --- what goes wrong -------------------------------------------------------------------------------------


def test_a_model_that_exploded_is_in_neither_ensemble_nor_average() -> None:
    training, without = _stage(), _stage()
    replies = _replies(training)
    for array in replies[0].arrays.values():
        array *= 1e30  # finite, as what is not is refused where it arrives
    training.absorb(_weights(training), 1, replies)
    without.absorb(_weights(without), 1, replies[1:])
    found, wanted = (one.state().part("knowledge/") for one in (training, without))
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6, err_msg=name)


def test_without_a_teacher_everything_stays(caplog: pytest.LogCaptureFixture) -> None:
    training = _stage()
    before, weights, replies = training.state(), _weights(training), _replies(training)
    for reply in replies:
        for array in reply.arrays.values():
            array *= 1e30
    after, metrics = training.absorb(weights, 1, replies)
    assert (after is weights, metrics) == (True, {})
    assert "round 1: no client's model can teach" in caplog.text
    left, right = before.part("knowledge/"), training.state().part("knowledge/")
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_a_distillation_that_diverges_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SupernetTrainer, "distil", diverging)
    training = _stage()
    weights, replies = _weights(training), _replies(training)
    after, metrics = training.absorb(weights, 1, replies)
    assert (after is weights, metrics) == (True, {})
    assert "round 1: the supernet stays as it was: the loss is inf" in caplog.text
    name, array = next(iter(training.state().part("knowledge/").items()))
    expected = (10 * replies[0].arrays[name] + 30 * replies[1].arrays[name]) / 40
    np.testing.assert_allclose(array, expected, rtol=1e-5)  # clients go on from their average
