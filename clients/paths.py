"""The client of FedorAS: gets a few paths of the supernet at once and trains another one with every batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from clients.deploy import scores, training_metrics
from clients.subnet import SubnetClient
from corolla.aggregation.regions import cut, paste
from corolla.spaces.architecture import Architecture
from corolla.spaces.paths import PATHS, box, paths_of
from corolla.tasks import Answer, Task
from corolla.training.path_draws import PathDraws
from corolla.training.sandwich import SandwichSettings, SupernetTrainer
from corolla.types import Arrays

VISITS = "visits"
"""Note of a reply: for each array that came, in its order, the share of samples that went through it."""


class PathsClient(SubnetClient):
    """Trains paths where the task names some; else the subnet that came."""

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the task's paths; return all that came, scores of the first, and the shares of samples."""
        if PATHS not in task.extra:
            return super().fit(task, arrays)
        site, space, data = self._site, self._site.space, self._site.data
        paths = paths_of(space, task)
        held, passes = box(space, paths), site.passes(task)
        draws = PathDraws(
            space,
            paths,
            held=held,
            fits=site.fits(task),
            images=len(data.train),
            batch_size=passes["batch_size"],
            seed=passes["seed"],
        )
        # What did not come stays 0: no path goes through it.
        nothing = {n: np.zeros(s, dtype=np.float32) for n, s in space.supernet_shapes.items()}
        received = paste(nothing, arrays, held)
        metrics = self._scores_before(self._first(received, paths), task)
        result = SupernetTrainer(space, site.trainer, SandwichSettings(random_subnets=0)).train(
            received, data.train, lr=task.lr, draws=draws, **passes
        )
        trained = cut(result.arrays, held)
        metrics |= scores(site, self._first(result.arrays, paths), shared=False)
        metrics |= training_metrics(result) | {VISITS: draws.shares(trained)}
        return Answer(num_examples=len(data.train), arrays=trained, metrics=metrics)

    def _first(self, supernet: Arrays, paths: Sequence[Architecture]) -> nn.Module:
        """Return the first path's network, by which a reply is scored."""
        space = self._site.space
        model = space.load(paths[0], space.cut(supernet, paths[0]))
        return model.to(self._site.trainer.device)
