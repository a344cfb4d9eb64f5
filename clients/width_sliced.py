"""The client of HeteroFL and FedRolex: classes that it has no training image of are masked.

Their logits are 0, in training and in scoring, as in HeteroFL's public code: what a row of the classifier
with zero weights and bias gives. So the mask is part of the personalised model that is scored, fine-tuned
and kept, and no part of what a training sends back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from clients.deploy import deploy, scores, training_metrics
from clients.site import Site
from clients.subnet import SubnetClient
from corolla.settings import settings
from corolla.spaces.supernet import to_arrays
from corolla.spaces.width_sliced import require_width_sliced
from corolla.tasks import Answer, Task
from corolla.types import Arrays


@settings
class ClassSettings:
    """What clients of HeteroFL and FedRolex do with classes that they lack."""

    mask_absent: bool  # their logits are 0
    class_rows: bool  # tell the server which classes are here: it learns no more of the labels


class WidthSlicedClient(SubnetClient):
    """Trains the thin network it receives; keeps nothing between rounds."""

    settings: ClassSettings

    def __init__(self, *, site: Site, settings: ClassSettings) -> None:
        if settings.mask_absent:
            site = replace(site, trainer=site.trainer.replaced(loss="masked_cross_entropy"))
        super().__init__(site=site, settings=settings)
        space = require_width_sliced(site.space, type(self).__name__)
        self._classes = sorted(set(site.data.train.labels.tolist()))
        self._tell = settings.class_rows
        self._rows = space.parts["head"]
        here = set(self._classes) if settings.mask_absent else set(range(space.num_classes))
        self._absent = [one for one in range(space.num_classes) if one not in here]

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the received network."""
        site = self._site
        model = self._load(task, arrays)
        with self._masked(model):
            metrics = self._scores_before(model, task)
        result = self._train(model, task)
        with self._masked(model):
            metrics |= scores(site, model, shared=False)
        metrics |= training_metrics(result)
        if self._tell:
            metrics["classes"] = self._classes
        return Answer(num_examples=result.num_examples, arrays=to_arrays(model), metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the received network with the mask."""
        model = self._load(task, arrays)
        with self._masked(model):
            return self._answer(scores(self._site, model, shared=True))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the received network with the mask."""
        model = self._load(task, arrays)
        with self._masked(model):
            return deploy(self._site, task, model, shared=True)

    @contextmanager
    def _masked(self, model: nn.Module) -> Iterator[None]:
        """Zero the absent classes' rows inside the ``with``; put them back afterwards."""
        rows = [model.get_parameter(name) for name in self._rows] if self._absent else []
        before = [row.detach()[self._absent] for row in rows]  # indexing by a list copies
        with torch.no_grad():
            for row in rows:
                row[self._absent] = 0.0
        yield
        with torch.no_grad():
            for row, old in zip(rows, before, strict=True):
                row[self._absent] = old
