"""Nearest neighbours in a model's features, mixed with the model's own prediction; no Flower in it.

Marfoq et al., "Personalized Federated Learning through Local Memorization" (kNN-Per), ICML 2022,
https://arxiv.org/abs/2111.09360. Features phi(x) are what the classifier reads, in evaluation mode;
the datastore holds those of a client's training images and their labels. With the k images i
that are nearest to x, d_i = ||phi(x) - phi(x_i)||_2 and dim the number of features

    p_knn(c) ~ sum over i of class c of exp(-d_i^2 / (dim * scale))
    p = lambda * p_knn + (1 - lambda) * softmax(model(x))

The squared distance over dim * scale is that of the authors' code, where the paper writes exp(-d).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.data.images import Images
from corolla.errors import Fault, RefusedError
from corolla.settings import Count, Positive, settings
from corolla.spaces.model_parts import classifier_name
from corolla.training.batches import consecutive_batches
from corolla.training.results import Evaluation, NoBatchError
from corolla.training.trainer import LocalTrainer

_CHUNK = 256  # images whose distances to the whole datastore exist at once
# Log of the smallest probability: losses stay finite.
_LEAST = math.log(torch.finfo(torch.float64).tiny)


@settings
class KnnSettings:
    """kNN-Per's settings."""

    k: Count  # neighbours; a client with fewer training images uses them all
    scale: Positive  # sigma: distances are worth 1 / (dim * scale)
    lambda_step: Positive  # of the grid 0, step, ..., 1 from which a client takes its lambda

    def __post_init__(self) -> None:
        step = self.lambda_step
        if step > 1 or not math.isclose(1 / step, round(1 / step)):
            remedy = "Use 1 divided by a whole number, such as 0.1"
            raise RefusedError(
                Fault("lambda_step", step, "does not divide the range from 0 to 1 evenly", remedy)
            )

    def grid(self) -> list[float]:
        """Return the lambdas to choose from, ascending."""
        steps = round(1 / self.lambda_step)
        return [index / steps for index in range(steps + 1)]


@dataclass(frozen=True)
class Embedded:
    """What a model makes of images."""

    features: Tensor  # (n, dim) float64: distances are differences of large numbers
    logits: Tensor  # (n, classes) float32
    labels: Tensor  # (n,) int64


@dataclass(frozen=True)
class Mixture:
    """Both predictions for the same images, to be weighed against each other."""

    logits: Tensor  # (n, classes)
    neighbours: Tensor  # (n, classes) float64: log p_knn, -inf where no neighbour has the class
    labels: Tensor  # (n,)

    def log_probabilities(self, weight: float) -> Tensor:
        """Return log p, (n, classes) float64, for lambda = ``weight``; never below log(2.2e-308)."""
        model = self.logits.double().log_softmax(1)
        if weight == 0:
            return model
        mixed = self.neighbours + math.log(weight)
        if weight < 1:
            mixed = torch.logaddexp(mixed, model + math.log1p(-weight))
        return mixed.clamp(min=_LEAST)

    def score(self, weight: float) -> Evaluation:
        """Return accuracy and mean negative log-likelihood for lambda = ``weight``.

        With 0 the predicted classes are exactly the model's own: the logits' largest, which a
        softmax may round to a tie.
        """
        mixed = self.log_probabilities(weight)
        predicted = (self.logits if weight == 0 else mixed).argmax(1)
        count = len(self.labels)
        return Evaluation(
            accuracy=int((predicted == self.labels).sum()) / count,
            loss=float(functional.nll_loss(mixed, self.labels)),
            num_examples=count,
        )


def embed(
    model: nn.Module,
    images: Images,
    *,
    trainer: LocalTrainer,
    classes: int,
) -> Embedded:
    """Run ``model`` over ``images`` as `LocalTrainer.evaluate` does, and keep features and logits.

    Raises:
        NoBatchError: there are no images.
        ValueError: the model calls no classifier, or it reads no vectors.

    """
    if not len(images):
        raise NoBatchError("nothing to embed: 0 images")
    floats = trainer.floats(images)

    def both(logits: Tensor, where: slice) -> tuple[Tensor, Tensor]:
        if not seen or seen[0].shape[:-1] != logits.shape[:1]:
            kind = type(model).__name__
            raise ValueError(f"{kind} has no classifier that reads a vector per image")
        return seen.pop().double(), logits

    with _classifier_input(model, classes) as seen:
        features, logits = zip(*trainer.answers(model, floats, both), strict=True)
    return Embedded(torch.cat(features), torch.cat(logits), floats.labels)


def mixture(images: Embedded, store: Embedded, settings: KnnSettings) -> Mixture:
    """Return both predictions for ``images``, the neighbours taken from ``store``.

    Neighbours at equal distance are taken as torch's top-k orders them: the same on every call.
    """
    with torch.inference_mode():
        size = (store.features**2).sum(1)  # (m,)
        known = functional.one_hot(store.labels, images.logits.shape[1]).double()  # (m, classes)
        neighbours = []
        for where in consecutive_batches(len(images.features), _CHUNK):
            queries = images.features[where]
            # ||q - s||^2 = ||q||^2 + ||s||^2 - 2 q s, which rounding may take below 0.
            squared = (queries**2).sum(1, keepdim=True) + size - 2 * queries @ store.features.T
            nearest = squared.clamp(min=0).topk(min(settings.k, len(size)), largest=False)
            # A softmax divides by the sum without underflow when all neighbours are far.
            shares = (-nearest.values / (queries.shape[1] * settings.scale)).softmax(1)  # (q, k)
            neighbours.append((shares[:, :, None] * known[nearest.indices]).sum(1).log())
        return Mixture(images.logits, torch.cat(neighbours), images.labels)


def choose_lambda(validation: Mixture, grid: Sequence[float]) -> float:
    """Return the lambda of highest accuracy; of those, of lowest loss; of those, the smallest."""
    scores = {weight: validation.score(weight) for weight in grid}
    return min(grid, key=lambda weight: (-scores[weight].accuracy, scores[weight].loss, weight))


@contextmanager
def _classifier_input(model: nn.Module, classes: int) -> Iterator[list[Tensor]]:
    """Hold what the classifier was given last."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = inputs[:1]

    name = classifier_name(model, classes)
    if name is None:
        yield seen
        return
    with model.get_submodule(name).register_forward_pre_hook(keep):
        yield seen
