"""The client of SFL: it trains from its smoothed model, and stays near it and near everybody's.

Chen et al., IJCAI 2022, https://arxiv.org/abs/2203.00829. From v = u_k, SGD on
f_k(v) + lambda_global/2 ||v - w||^2 + lambda_graph/2 ||v - u_k||^2; it keeps nothing between rounds.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from clients.deploy import scores
from clients.subnet import SubnetClient
from corolla.errors import Fault
from corolla.settings import NonNegative, settings
from corolla.spaces.supernet import to_arrays
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.pull import Pull, overshoot
from corolla.training.results import TrainResult
from corolla.training.settings import TrainerSettings
from corolla.types import Arrays

READOUT = "readout/"
"""Before the names of w, the mean of all smoothed models, which travels beside the client's own."""


@settings
class PullsSettings:
    """What clients are pulled to."""

    lambda_global: NonNegative  # lambda_1: towards w
    lambda_graph: NonNegative  # lambda_2: towards u_k

    def step_faults(self, trainer: TrainerSettings) -> list[Fault]:
        """Return what is wrong with a step along both pulls."""
        both = {name: getattr(self, name) for name in ("lambda_graph", "lambda_global")}
        larger = max(both, key=lambda name: both[name])
        lr, strength = trainer.gradient_lr, sum(both.values())
        return overshoot(larger, both[larger], lr, strength=strength)


class SflClient(SubnetClient):
    """FedAvg's client with two pulls, and the read-out's scores beside its own's."""

    settings: PullsSettings
    _readout: Arrays

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the smoothed model."""
        own, self._readout = _parted(arrays)
        return super().fit(task, own)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the smoothed model, and the read-out."""
        own, readout = _parted(arrays)
        return super().evaluate(task, own).saying(self._global_scores(task, readout))

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the smoothed model; score the read-out."""
        own, readout = _parted(arrays)
        known = self._global_scores(task, readout)
        return super().deploy(task, own).saying(known)

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        targets = (
            (self.settings.lambda_global, self._readout),
            (self.settings.lambda_graph, to_arrays(model)),
        )
        pulls = [Pull(strength=strength, targets=arrays) for strength, arrays in targets]

        def hook(trained: nn.Module) -> None:
            for pull in pulls:
                pull(trained)

        return self._site.train(model, task, loss=task.extra.get("loss"), hook=hook)

    def _global_scores(self, task: Task, readout: Arrays) -> dict[str, Any]:
        model = self._load(task, readout)
        return scores(self._site, model, shared=True, prefix="global_")


def _parted(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Return u_k and w."""
    own = {name: array for name, array in arrays.items() if not name.startswith(READOUT)}
    return own, State(arrays).part(READOUT)
