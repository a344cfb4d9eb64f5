"""Two models that learn from each other, and one that learns from given logits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.training.learner import Trainee
from corolla.training.logit_distillation import divergence, logit_distance, train_on_logits
from corolla.training.losses import LabelLoss
from corolla.training.mutual import mutual_losses, train_mutually
from corolla.training.results import DivergedError, TrainResult
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer
from tests.training.conftest import PLAIN, Affine, colourful, convolutional, dots, sgd, state_of

LN3 = math.log(3)
SETTINGS = [
    TrainerSettings(
        optimizer="sgd",
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-3,
        clip_norm=0.5,
        augment="crop_flip_cutout",
        loss="balanced_softmax_client",
    ),
    TrainerSettings(optimizer="adamw", lr=0.01, weight_decay=0.05, label_smoothing=0.1),
]


# --- mutual learning ------------------------------------------------------------------------------------


def test_mutual_losses_by_hand() -> None:
    first, second = torch.tensor([[LN3, 0.0]]), torch.tensor([[0.0, 0.0]])
    even = torch.tensor([0, 1])  # balanced: the loss on labels is plain cross-entropy
    label_loss = LabelLoss(even, SETTINGS[0], torch.device("cpu"))
    where = torch.tensor([0])
    losses = mutual_losses((first, second), where, alpha=0.25, label_loss=label_loss)
    # p = (3/4, 1/4) and (1/2, 1/2). KL(second || first) = ln(2/3)/2 + ln(2)/2 = 0.143841,
    # KL(first || second) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; CE = ln(4/3), ln 2.
    expected = [0.75 * 0.287682 + 0.25 * 0.143841, 0.75 * 0.693147 + 0.25 * 0.130812]
    assert [float(loss) for loss in losses] == pytest.approx(expected, abs=1e-5)


def test_a_step_of_both_by_hand_is_of_the_weights_before_either() -> None:
    models = [Affine((LN3, 0.0)), Affine((0.0, 0.0))]
    trainees = [Trainee(model=model, lr=1.0) for model in models]
    found = train_mutually(
        *trainees, dots([255], [0]), alpha=0.25, trainer=sgd(), epochs=1, batch_size=1, seed=(0,)
    )
    # Gradient of the logits: (1 - a) (p - label) + a (p - p_peer).
    # First: 0.75 * (-0.25) + 0.25 * 0.25 = -0.125; second: 0.75 * (-0.5) + 0.25 * (-0.25) = -0.4375.
    assert models[0].weights() == pytest.approx([LN3 + 0.125, -0.125], abs=1e-5)
    assert models[1].weights() == pytest.approx([0.4375, -0.4375], abs=1e-5)
    assert found[0].train_loss == pytest.approx(0.251722, abs=1e-5)
    assert found[1].train_loss == pytest.approx(0.552563, abs=1e-5)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("loop", [LoopSettings(), PLAIN])
def test_alpha_0_is_independent_training_bit_for_bit(
    kind: TrainerSettings, loop: LoopSettings
) -> None:
    trainer = LocalTrainer(settings=kind, loop=loop)
    common: dict[str, Any] = {"epochs": 2, "batch_size": 8, "seed": (0, 1, 2)}
    common["keep_optimizer_state"] = True
    builds = [partial(convolutional, 0, dropout=0.5), partial(convolutional, 1, dropout=0.2)]

    def trainees(models: list[nn.Module], states: list[Any]) -> list[Trainee]:
        pairs = zip(models, (0.05, 0.02), states, strict=True)
        return [Trainee(model=m, lr=lr, optimizer_state=state) for m, lr, state in pairs]

    found: list[tuple[list[nn.Module], list[TrainResult]]] = []
    for together in (True, False):
        models, states = [build() for build in builds], [None, None]
        for _ in range(2):  # the second training carries on with the optimisers' states
            pair = trainees(models, states)
            if together:
                results = trainer.train_together(pair, colourful(20), **common)
            else:
                results = list(
                    train_mutually(*pair, colourful(20), alpha=0.0, trainer=trainer, **common)
                )
            states = [result.optimizer_state for result in results]
        found.append((models, results))
    for index in range(2):
        left, right = (state_of(models[index]) for models, _ in found)
        assert all(torch.equal(left[name], right[name]) for name in left), index
        one, other = (results[index] for _, results in found)
        assert (one.train_loss, one.samples_processed) == (
            other.train_loss,
            other.samples_processed,
        )


def test_alpha_moves_models_towards_each_other() -> None:
    gaps = []
    for alpha in (0.0, 0.9):
        models = [convolutional(0), convolutional(1)]
        train_mutually(
            *[Trainee(model=model, lr=0.05) for model in models],
            colourful(32),
            alpha=alpha,
            trainer=sgd(),
            epochs=8,
            batch_size=8,
            seed=(0,),
        )
        images = colourful(32).pixels.float() / 255
        with torch.no_grad():
            first, second = (model(images) for model in models)
        gaps.append(float(divergence(first, second)))
    assert gaps[1] < 0.8 * gaps[0]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_must_be_a_share(alpha: float) -> None:
    pair = [Trainee(model=Affine(), lr=1.0) for _ in range(2)]
    with pytest.raises(ValueError, match=f"alpha={alpha}: need a number from 0 to 1"):
        train_mutually(
            *pair, dots([255], [0]), alpha=alpha, trainer=sgd(), epochs=1, batch_size=1, seed=(0,)
        )


# --- given logits -----------------------------------------------------------------------------------------


def _digest(model: nn.Module, images: Images, wanted: Any, **changes: Any) -> TrainResult:
    arguments: dict[str, Any] = {
        "distance": "mae",
        "trainer": sgd(),
        "epochs": 1,
        "batch_size": 4,
        "seed": (0,),
    }
    return train_on_logits(
        Trainee(model=model, lr=1.0), images, torch.as_tensor(wanted), **(arguments | changes)
    )


@pytest.mark.parametrize(
    ("distance", "temperature", "wanted", "loss", "weights"),
    [
        # |0 - 1| and |0 + 3|, over 2 classes; the gradient is a sign over 2.
        ("mae", 1.0, [1.0, -3.0], 2.0, [0.5, -0.5]),
        # Wanted (3/4, 1/4), said (1/2, 1/2): KL = 0.130812, its gradient said - wanted.
        ("kl", 1.0, [LN3, 0.0], 0.130812, [0.25, -0.25]),
        # The same distributions at T = 2; the gradient is half of it.
        ("kl", 2.0, [2 * LN3, 0.0], 0.130812, [0.125, -0.125]),
    ],
)
def test_a_digest_step_by_hand(
    distance: str, temperature: float, wanted: list[float], loss: float, weights: list[float]
) -> None:
    model = Affine()
    changes = {"distance": distance, "temperature": temperature}
    result = _digest(model, dots([255], [-1]), [wanted], **changes)
    assert result.train_loss == pytest.approx(loss, abs=1e-5)
    assert model.weights() == pytest.approx(weights, abs=1e-5)


def test_public_images_are_not_augmented() -> None:
    seen: list[Tensor] = []
    model, images = convolutional(), colourful(8)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    augmented = LocalTrainer(settings=SETTINGS[0], loop=PLAIN)
    _digest(model, images, torch.zeros(8, 4), trainer=augmented)
    plain = augmented.floats(images)
    wanted = plain.normalised(plain.pixels(slice(None)))
    found = torch.cat(seen)
    assert len(found) == 8
    assert all(any(torch.equal(image, other) for other in wanted) for image in found)


def test_logits_stay_with_their_images() -> None:
    """y = x: where every image's logit is its own pixel, the right weight moves no more."""
    values = [0, 51, 102, 153, 204, 255]
    wanted = [[value / 255, 0.0] for value in values]
    model = Affine((1.0, 0.0))
    images = dots(values, [-1] * 6)  # labels that no loss could read
    result = _digest(model, images, wanted, epochs=3, distance="kl")
    assert result.train_loss == pytest.approx(0.0, abs=1e-6)
    assert result.samples_processed == 18
    assert model.weights() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert _digest(Affine((1.0, 0.0)), images, wanted[::-1]).train_loss > 0.1


@settings(max_examples=50)
@given(
    first=st.lists(st.floats(-8, 8), min_size=3, max_size=3),
    second=st.lists(st.floats(-8, 8), min_size=3, max_size=3),
    shift=st.floats(-5, 5),
    temperature=st.floats(0.5, 4),
)
def test_divergence_is_a_distance_of_distributions(
    first: list[float], second: list[float], shift: float, temperature: float
) -> None:
    own, peer = torch.tensor([first]).double(), torch.tensor([second]).double()
    found = float(divergence(own, peer, temperature))
    assert found >= -1e-9
    assert float(divergence(own + shift, peer, temperature)) == pytest.approx(found, abs=1e-6)
    assert float(divergence(own + shift, own, temperature)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("wanted", "changes", "text"),
    [
        ([[0.0, 0.0]] * 2, {}, r"logits of shape \(2, 2\) for 1 images: need finite numbers"),
        ([[0.0, math.nan]], {}, "need finite numbers, one row per image"),
        ([[0.0, 0.0]], {"distance": "mse"}, r"distance='mse' .* need one of \['mae', 'kl'\]"),
        ([[0.0, 0.0]], {"temperature": 0.0}, "a temperature above 0"),
        ([[0.0, 0.0]], {"epochs": 0}, "epochs=0: need 1 or more"),
    ],
)
def test_bad_arguments_are_refused(wanted: Any, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _digest(Affine(), dots([255], [0]), wanted, **changes)


def test_unknown_distance() -> None:
    with pytest.raises(ValueError, match="distance='l2'"):
        logit_distance(torch.zeros(1, 2), torch.zeros(1, 2), kind="l2")  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(DivergedError):
        _digest(Affine((math.inf, 0.0)), dots([255], [0]), [[0.0, 0.0]])
