"""The client that trains a model of its own beside the global one: Ditto (Li et al., ICML 2021).

Each batch is loaded once and makes two steps, one of the global model that came and goes, one of the local
model, which is pulled towards the received weights and stays with the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from clients.deploy import scores, training_metrics
from clients.own_model import OwnModel
from clients.own_model_client import BesideGlobalClient
from corolla.data.images import Images
from corolla.records.packing import pack_optimizer, unpack_optimizer
from corolla.spaces.supernet import Supernet, to_arrays
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.learner import Hook, Trainee
from corolla.training.pull import Pull, PullSettings
from corolla.training.results import OptimizerState
from corolla.types import Arrays


@dataclass(kw_only=True)
class Pair(OwnModel):
    """The local model, and what outlives a round of the global one's training."""

    global_optimizer: OptimizerState | None = None

    def to_state(self) -> State:
        """Return what goes to the disk."""
        state, other = (
            super().to_state(),
            pack_optimizer(self.global_optimizer, "global_optimizer/"),
        )
        return State(state.arrays | other.arrays, state.meta | {"global_optimizer": other.meta})

    @classmethod
    def _fields(cls, space: Supernet, state: State) -> dict[str, Any]:
        meta = state.meta["global_optimizer"]
        other = unpack_optimizer(state, "global_optimizer/", meta)
        return super()._fields(space, state) | {"global_optimizer": other}


Kept = TypeVar("Kept", bound=Pair)


class PairClient(BesideGlobalClient[Kept], Generic[Kept]):
    """Global model out of the message, local model out of the client's own files."""

    settings: PullSettings

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train both models, keep the local one, return the global one."""
        own = self._own(task, arrays)
        return self._trained(task, arrays, own, self._site.data.train)

    def _trained(self, task: Task, arrays: Arrays, own: Kept, images: Images) -> Answer:
        site = self._site
        pull = Pull(
            strength=self.settings.lambda_local, targets=arrays
        )  # before training writes to them
        model = self._received(task, arrays)
        outer, inner = site.trainer.train_together(
            [
                Trainee(model=model, lr=task.lr, optimizer_state=own.global_optimizer),
                Trainee(
                    model=own.model,
                    lr=task.lr * self.settings.local_lr_scale,
                    optimizer_state=own.optimizer,
                    after_backward=self._hook(task, own, pull),
                ),
            ],
            images,
            **site.passes(task),
            keep_optimizer_state=True,
        )
        own.optimizer = inner.optimizer_state
        own.global_optimizer = (
            outer.optimizer_state if self.settings.global_optimizer == "keep" else None
        )
        self._keep(task, own)
        metrics = scores(site, own.model, shared=False) | self._told(own)
        metrics |= training_metrics(inner, beside=outer)
        return Answer(num_examples=inner.num_examples, arrays=to_arrays(model), metrics=metrics)

    def _hook(self, task: Task, own: Kept, pull: Pull) -> Hook:
        """Return what is added to the local model's gradients."""
        return pull


class DittoClient(PairClient[Pair]):
    """Ditto's: the architecture stays."""

    kept = Pair
    sends_model = True
