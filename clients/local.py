"""The client that trains a model of its own and never sends it during the rounds."""

from __future__ import annotations

from torch import nn

from clients.deploy import scores, training_metrics
from clients.own_model import OwnModel
from clients.own_model_client import OwnModelClient
from clients.site import Site
from corolla.tasks import Answer, Task
from corolla.training.results import Evaluation
from corolla.types import Arrays


class LocalClient(OwnModelClient[OwnModel]):
    """Model and optimiser state are files of the client's own."""

    kept = OwnModel
    sends_model = True

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train on from where the client stopped; with a patience, until validation stops improving."""
        site, own = self._site, self._own(task, arrays)
        if "patience_epochs" in task.extra:
            result = site.trainer.train_until_converged(
                own.model,
                site.data.train,
                validate=self._validate,
                patience_epochs=int(task.extra["patience_epochs"]),
                lr=task.lr,
                **site.passes(task),
            )
        else:
            result = site.train(
                own.model, task, optimizer_state=own.optimizer, keep_optimizer_state=True
            )
        own.optimizer = result.optimizer_state
        self._keep(task, own)
        metrics = scores(site, own.model, shared=False) | training_metrics(result)
        return Answer(num_examples=result.num_examples, metrics=metrics | self._told(own))

    def _deploying(self, own: OwnModel) -> Site:
        return self._site  # the server writes what it is sent

    def _validate(self, model: nn.Module) -> Evaluation:
        """Return the validation score of what ``model`` would be, were it deployed."""
        site = self._site
        with site.scoring.applied(model, shared=False):
            return site.trainer.evaluate(model, site.data.validation)
