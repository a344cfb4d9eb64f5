"""The client of Corolla's own method: trains the slice that comes, deploys it with a head fitted to itself.

What the server adds is in `strategies.corolla`; arithmetic in `corolla.training.inner_slices` and
`corolla.training.fitted_head`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from clients.deploy import deploy, scores
from clients.subnet import SubnetClient
from corolla.settings import Positive, Share, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.within import inside
from corolla.tasks import AS_IS, Answer, Task
from corolla.training.fitted_head import fit_head
from corolla.training.inner_slices import train_with_inner
from corolla.training.results import TrainResult
from corolla.types import Arrays

_LOSS = "cross_entropy"  # of the fitted classifier: it knows how frequent the client's classes are


@settings
class CorollaClientSettings:
    """Settings of the client of Corolla's own method."""

    inner_share: Share  # of the batches in which a smaller client's slice learns from the own one
    head_l2: Positive | None  # weight of the fitted head's penalty; None: no such head


class CorollaClient(SubnetClient):
    """Keeps nothing between rounds: the classifier is fitted to whatever weights are to be used."""

    settings: CorollaClientSettings

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        inner = slices_inside(task)
        if not inner or not self.settings.inner_share:
            return super()._train(model, task)
        site = self._site
        return train_with_inner(
            model,
            site.data.train,
            space=site.space,
            whole=task.architecture,
            inner=inner,
            share=self.settings.inner_share,
            trainer=site.trainer,
            lr=task.lr,
            **site.passes(task),
        )

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Evaluate the received slice with the fitted head, and as it came."""
        if task.extra.get(AS_IS):
            return super().evaluate(task, arrays)
        model = self._load(task, arrays)
        alone = scores(self._site, model, shared=True, prefix="global_")
        _, own, loss = self._personal(model)
        return self._answer(scores(self._site, model, shared=not own, loss=loss) | alone)

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy the received slice with the fitted head; the images that went into it are counted."""
        model = self._load(task, arrays)
        alone = scores(self._site, model, shared=True, prefix="global_")
        samples, own, loss = self._personal(model)
        told = task if loss is None else replace(task, extra={**task.extra, "loss": loss})
        answer = deploy(self._site, told, model, shared=not own)
        samples += answer.metrics.get("samples_processed", 0)
        return answer.saying(alone | {"samples_processed": samples})

    def _personal(self, model: nn.Module) -> tuple[int, bool, str | None]:
        """Fit the head; return the images used, whether the model is the client's own now, and its loss."""
        if self.settings.head_l2 is None:
            return 0, False, None
        site = self._site
        site.scoring.apply(model, shared=True)
        samples = fit_head(
            model,
            site.data.train,
            trainer=site.trainer,
            classes=site.space.num_classes,
            l2=self.settings.head_l2,
        )
        return samples, True, _LOSS


def slices_inside(task: Task) -> list[Architecture]:
    """Return the architectures of the round that lie inside the task's own."""
    flat, length = list(task.extra.get("slices", [])), len(task.architecture.choices)
    found = [Architecture.of(flat[at : at + length]) for at in range(0, len(flat), length)]
    return [one for one in found if inside(one, task.architecture)]
