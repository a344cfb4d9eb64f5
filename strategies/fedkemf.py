"""FedKEMF: private models of any architecture, and a small knowledge network that all clients share.

Yu et al., "Resource-aware federated learning using knowledge extraction and multi-model fusion",
https://arxiv.org/abs/2208.07978. Clients train both by mutual learning (`corolla.training.mutual`) and send
the knowledge network alone. The server averages these, and with ``fusion=distil`` trains the average
towards the mean of their logits on images of its own, without labels.

Departures: of the paper's ensembles only the (weighted) mean of logits is here, not maximum and vote; all
models start from cuts of one supernet's initial weights, as those of Local do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import nn

from corolla.aggregation.robust import robust_updates
from corolla.errors import Fault, gathered, refuse
from corolla.federation import Federation
from corolla.server_side import ServerSide
from corolla.settings import AtLeastTwo, Count, Positive, settings
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Reply
from corolla.training.ensemble import Ensemble, NoTeacherError, ensemble_of
from corolla.training.learner import Trainee
from corolla.training.logit_distillation import train_on_logits
from corolla.training.mutual import MutualSettings
from corolla.training.results import DivergedError
from corolla.types import client_order
from strategies.base import Outcome
from strategies.fml import FML, FMLSettings
from strategies.updates import updates_of

_LOG = logging.getLogger("corolla")
_DISTILLATION = 0xF051  # keeps the batch order apart from others of the same seed and round


@settings
class DistillationSettings:
    """The server's training of a round."""

    epochs: Count  # over the server's images
    batch_size: AtLeastTwo  # images
    lr: Positive  # step, the same in all rounds
    temperature: Positive  # T of ensemble and student
    # BN statistics of the ensemble's networks are recomputed on the server's images
    recalibrate: bool


@settings
class FedKEMFSettings(FMLSettings, MutualSettings):
    """FedKEMF's settings."""

    fusion: Literal[
        "average", "distil"
    ]  # the average; or that, then trained on the ensemble's logits
    distillation: DistillationSettings  # fusion=distil


class FedKEMF(FML):
    """FML's average of the knowledge networks, before their ensemble is distilled into it."""

    settings: FedKEMFSettings

    def __init__(self, *, federation: Federation, settings: FedKEMFSettings) -> None:
        faults = []
        if settings.fusion == "distil" and federation.server is None:
            problem = "fusion=distil trains on images of the server's own, and it has none"
            remedy = "Use server_set=held_out or server_set=dataset, or method.fusion=average"
            faults.append(Fault("server_set", "none", problem, remedy))
        if settings.fusion == "distil" and federation.private:
            problem = "fusion=distil trains the knowledge network as a whole at the server"
            remedy = "Use method.fusion=average, or private=[]"
            faults.append(Fault("private", list(federation.private), problem, remedy))
        with gathered(faults):
            super().__init__(federation=federation, settings=settings)
        refuse(faults)
        self._distils = settings.fusion == "distil"
        self._distillation = settings.distillation

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average the knowledge networks; then, where wanted, distil their ensemble into the average."""
        server = self.federation.server
        if not replies or not self._distils or server is None:
            return super().absorb(server_round, replies)
        self._private.settle(replies)  # all of them: some may be left out of the average
        started = time.perf_counter()
        replies = sorted(replies, key=lambda reply: client_order(reply.client))
        try:
            teacher = self._ensemble(server, replies)
        except NoTeacherError as error:
            _LOG.warning("round %d: the knowledge network stays as it was: %s", server_round, error)
            return Outcome()
        left_out = set(teacher.left_out)
        heard = [reply for place, reply in enumerate(replies) if place not in left_out]
        outcome = super().absorb(server_round, heard)
        try:
            metrics = self._distil(server, server_round, teacher)
        except DivergedError as error:
            _LOG.warning("round %d: the average is not distilled into: %s", server_round, error)
            return outcome
        metrics["distillation_s"] = time.perf_counter() - started
        return Outcome({**outcome.metrics, **metrics})

    def _ensemble(self, server: ServerSide, replies: Sequence[Reply]) -> Ensemble:
        own, settings = server.images, self._distillation
        return ensemble_of(
            self._members(replies),
            own.images,
            trainer=server.trainer,
            recalibration_batch_size=settings.batch_size if settings.recalibrate else None,
            rule=self.federation.robust,
        )

    def _distil(self, server: ServerSide, server_round: int, teacher: Ensemble) -> dict[str, float]:
        own, settings = server.images, self._distillation
        copies = {name: array.copy() for name, array in self._arrays.items()}
        student = self.space.load(self._architecture, copies)
        result = train_on_logits(
            Trainee(model=student, lr=settings.lr),
            own.images,
            teacher.logits,
            distance="kl",
            temperature=settings.temperature,
            trainer=server.trainer,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=(self.federation.seed, server_round, _DISTILLATION),
        )
        self._arrays = to_arrays(student)
        metrics = {"distillation_loss": result.train_loss}
        if own.labelled:  # for the records alone
            right = teacher.logits.argmax(1) == own.images.labels
            metrics["teacher_accuracy"] = float(right.double().mean())
        return metrics

    def _members(self, replies: Sequence[Reply]) -> Iterator[tuple[float, nn.Module]]:
        """Yield weight and knowledge network of one client after the other."""
        updates = updates_of(replies, self._regions, self.settings.weights)
        for update in robust_updates(self.federation.robust, self._arrays, updates):
            copies = {name: array.copy() for name, array in update.arrays.items()}
            yield update.weight, self.space.load(self._architecture, copies)
