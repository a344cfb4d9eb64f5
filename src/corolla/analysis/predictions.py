"""What clients' own models answer on their own test images, and what follows from it per client."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, recall_score
from torch import Tensor

from corolla.config.build import build_trainer
from corolla.config.schema import RunConfig
from corolla.errors import Fault, RefusedError, nearest
from corolla.export import load_client_model
from corolla.gain.finished_run import federation_data
from corolla.records.run_directory import RunDirectory
from corolla.types import ClientId

_LOG = logging.getLogger(__name__)
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Per client the labels of its test images, (n,), and the classes that its model names, (n,)."""

    answers: Mapping[ClientId, tuple[Labels, Labels]]
    class_names: tuple[str, ...]
    recorded: Mapping[ClientId, float]

    @classmethod
    def of(cls, directory: RunDirectory, config: RunConfig) -> Predictions:
        """Ask every client's model.

        Raises:
            RefusedError: an unfinished run, one on real nodes (their images are not here), images that
                are gone or changed, or clients that kept their weights to themselves.

        """
        recorded = directory.summary()["test_accuracy"]["per_client"]
        if config.on_nodes:
            problem = "its clients are real nodes, whose images are not here"
            remedy = "Ask the nodes, or take a run in simulation"
            raise RefusedError(Fault("run_dir", str(directory.path), problem, remedy))
        data, trainer = federation_data(directory, config), build_trainer(config)
        found = {}
        for client in recorded:
            images = data.client(client).test
            model = load_client_model(directory.path, client)
            parts = trainer.answers(model, trainer.floats(images), _named_classes)
            found[client] = (images.labels.numpy(), np.concatenate(parts))
        names = tuple(config.images.classes if config.images else data.dataset.class_names)
        return cls(found, names, recorded)

    def scores(self) -> Iterator[dict[str, Any]]:
        """Yield a row per client; averages over classes are over those that it has test images of."""
        for client, (true, named) in self.answers.items():
            accuracy, present = float(np.mean(true == named)), np.unique(true)
            if abs(accuracy - self.recorded[client]) > 0.5 / len(true):
                _LOG.warning(
                    "client %s: its saved model alone is right on %.1f %% of its test images, the run "
                    "recorded %.1f %%: its method deploys more than one network",
                    *(client, 100 * accuracy, 100 * self.recorded[client]),
                )
            # Over the classes it has, so that the mean recall is the balanced accuracy.
            own: dict[str, Any] = {"labels": present, "average": "macro", "zero_division": 0}
            yield {
                "client": client,
                "images": len(true),
                "classes": len(present),
                "accuracy": accuracy,
                "balanced_accuracy": float(recall_score(true, named, **own)),
                "f1": float(f1_score(true, named, **own)),
                "recorded": self.recorded[client],
            }

    def confusion(self, client: ClientId) -> list[dict[str, int]]:
        """Return a row per true class: class named -> test images. RefusedError: no such client."""
        if client not in self.answers:
            raise RefusedError(
                Fault("client", client, "no such client", nearest(client, list(self.answers)))
            )
        count = len(self.class_names)
        matrix = confusion_matrix(*self.answers[client], labels=range(count))
        return [{str(i): int(row[i]) for i in range(count)} for row in matrix]


def _named_classes(logits: Tensor, where: slice) -> Labels:
    labels: Labels = logits.argmax(dim=1).cpu().numpy()
    return labels
