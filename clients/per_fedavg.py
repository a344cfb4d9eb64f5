"""The client of Per-FedAvg: meta-trains what it receives, adapts it to its own images to predict.

Fallah et al., NeurIPS 2020; formulas and departures in `corolla.training.meta` and docs/baselines.md.
"""

from __future__ import annotations

from torch import nn

from clients.subnet import PersonalClient
from corolla.tasks import Task
from corolla.training.meta import MetaSettings, adapt, meta_train
from corolla.training.results import TrainResult

_ADAPTATION = 0xADA9  # keeps the adaptation's batch order apart from the rounds'


class PerFedAvgClient(PersonalClient):
    """The personalised model is w after SGD at alpha on the training images; it is not kept."""

    settings: MetaSettings

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        site = self._site
        return meta_train(
            model,
            site.data.train,
            settings=self.settings,
            trainer=site.trainer,
            lr=task.lr,
            **site.passes(task),
        )

    def _personal(self, model: nn.Module, task: Task) -> tuple[int, bool, str | None]:
        site = self._site
        result = adapt(
            model,
            site.data.train,
            settings=self.settings,
            trainer=site.trainer,
            batch_size=site.config.batch_size,
            seed=site.seed(task, _ADAPTATION),
        )
        return result.samples_processed, False, None
