"""The client of Corolla's own method: trains the slice that comes, deploys it with a head fitted to itself.

What the server adds is in `strategies.corolla`; arithmetic in `corolla.training.inner_slices` and
`corolla.training.fitted_head`.
"""

from __future__ import annotations

from torch import nn

from clients.subnet import PersonalClient
from corolla.settings import Positive, Share, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.spaces.within import inside
from corolla.tasks import Task
from corolla.training.fitted_head import fit_head
from corolla.training.inner_slices import train_with_inner
from corolla.training.results import TrainResult

_LOSS = "cross_entropy"  # of the fitted classifier: it knows how frequent the client's classes are


@settings
class CorollaClientSettings:
    """Settings of the client of Corolla's own method."""

    inner_share: Share  # of the batches in which a smaller client's slice learns from the own one
    head_l2: Positive | None  # weight of the fitted head's penalty; None: no such head


class CorollaClient(PersonalClient):
    """Keeps nothing between rounds: the classifier is fitted to whatever weights are to be used."""

    settings: CorollaClientSettings

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        site = self._site
        inner = slices_inside(task, site.space) if self.settings.inner_share else []
        if not inner:
            return super()._train(model, task)
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

    def _personal(self, model: nn.Module, task: Task) -> tuple[int, bool, str | None]:
        if self.settings.head_l2 is None:
            return 0, True, None
        site = self._site
        site.scoring.apply(model, shared=True)
        samples = fit_head(
            model,
            site.data.train,
            trainer=site.trainer,
            classes=site.space.num_classes,
            l2=self.settings.head_l2,
        )
        return samples, False, _LOSS


def slices_inside(task: Task, space: Supernet) -> list[Architecture]:
    """Return the architectures of the round that lie inside the task's own."""
    flat, length = list(task.extra.get("slices", [])), len(task.architecture.choices)
    found = [Architecture.of(flat[at : at + length]) for at in range(0, len(flat), length)]
    return [one for one in found if inside(space, one, task.architecture)]
