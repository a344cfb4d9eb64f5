"""The client of FedProx: a proximal term keeps its model near the received one.

Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127, eq. 2: F_k(w) + mu/2 ||w - w_t||^2.
"""

from __future__ import annotations

from torch import nn

from clients.subnet import SubnetClient
from corolla.errors import Fault
from corolla.settings import NonNegative, settings
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Task
from corolla.training.pull import Pull, overshoot
from corolla.training.results import TrainResult
from corolla.training.settings import TrainerSettings


@settings
class ProxSettings:
    """FedProx's settings beside FedAvg's."""

    mu: NonNegative  # weight of the proximal term; 0: FedAvg

    def step_faults(self, trainer: TrainerSettings) -> list[Fault]:
        """Return what is wrong with a step along the pull."""
        return overshoot("mu", self.mu, trainer.gradient_lr)


class FedProxClient(SubnetClient):
    """FedAvg's client with another gradient."""

    settings: ProxSettings

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        pull = Pull(strength=self.settings.mu, targets=to_arrays(model))
        return self._site.train(model, task, loss=task.extra.get("loss"), hook=pull)
