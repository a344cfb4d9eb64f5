"""A second classifier beside a network's own: it adds to the logits and leaves the network alone (FedRoD).

Chen & Chao, "On Bridging Generic and Personalized Federated Learning for Image Classification", ICLR 2022,
https://arxiv.org/abs/2107.00778. z is what the network's classifier reads:

    logits = classifier(z) + head(z)        z and classifier(z) without gradient

Both are linear, so their sum is one layer: the network with the second head added to its classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.spaces.model_parts import classifier_name
from corolla.spaces.supernet import to_arrays
from corolla.training.batch_loader import Passes
from corolla.training.learner import Trainee
from corolla.training.losses import LabelLoss
from corolla.training.results import TrainResult
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays


class SecondHead(nn.Module):
    """Answers with both heads' sum for the images that the network saw last, inside `beside`."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        weight = arrays["weight"]  # (classes, features)
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in arrays)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.linear.load_state_dict(tensors)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes); of ``images`` only their number is looked at."""
        if not self._seen or len(self._seen[0][0]) != len(images):
            raise ValueError("the network's classifier reads no vector per image")
        features, logits = self._seen.pop()
        total: Tensor = logits + self.linear(features)
        return total

    @contextmanager
    def beside(self, classifier: nn.Module) -> Iterator[None]:
        """Have what ``classifier`` reads and answers at hand, inside the ``with``."""

        def keep(module: nn.Module, inputs: tuple[Any, ...], logits: Tensor) -> None:
            self._seen[:] = [(inputs[0].detach(), logits.detach())]

        with classifier.register_forward_hook(keep):
            yield

    def arrays(self) -> Arrays:
        """Return copies of weight and, where there is one, bias."""
        return to_arrays(self.linear)


def blank_head(model: nn.Module, classes: int) -> Arrays:
    """Return a head of zeros for ``model``, with which the sum is what the network says.

    Raises:
        ValueError: the model has no classifier.

    """
    state = _classifier(model, classes).state_dict()
    return {name: np.zeros(tuple(tensor.shape), np.float32) for name, tensor in state.items()}


def add_head(model: nn.Module, arrays: Arrays, classes: int) -> None:
    """Add a head to the classifier of ``model`` for good: it then answers with both heads' sum."""
    with torch.no_grad():
        for name, parameter in _classifier(model, classes).named_parameters():
            parameter.add_(torch.from_numpy(arrays[name]).to(parameter))


def train_both(
    network: Trainee,
    head: SecondHead,
    images: Images,
    *,
    classes: int,
    trainer: LocalTrainer,
    **passes: Unpack[Passes],
) -> tuple[TrainResult, TrainResult]:
    """Train the network by the trainer's loss, and ``head`` by the sum's cross-entropy, on the same batches.

    The head takes the network's step size; neither's gradient reaches the other. Both step from the weights
    of before the batch. Other arguments, results and errors are those of `LocalTrainer.train_together`.
    """
    plain = replace(trainer.settings, loss="cross_entropy")
    of_own, of_total = (
        LabelLoss(images.labels, one, trainer.device) for one in (trainer.settings, plain)
    )

    def losses(logits: Sequence[Tensor], where: Tensor) -> Sequence[Tensor]:
        own, total = logits
        return [of_own(own, where), of_total(total, where)]

    with head.beside(_classifier(network.model, classes)):
        one, other = trainer.train_together(
            [network, Trainee(model=head, lr=network.lr)], images, losses=losses, **passes
        )
    return one, other


def _classifier(model: nn.Module, classes: int) -> nn.Module:
    name = classifier_name(model, classes)
    if name is None:
        raise ValueError(f"{type(model).__name__} has no linear layer with a row per class")
    return model.get_submodule(name)
