"""What the server distils into a supernet on images of its own: the ensemble of what clients trained.

HAPFNAS: Yang & Liu, Entropy 27(7) 759, 2025, Algorithm 1 (`strategies.distilled_supernet`); as a rule for any
supernet: `strategies.training_rules.Distilled`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from corolla.aggregation.robust import robust_updates
from corolla.aggregation.updates import Update
from corolla.data.images import Images
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.records.packing import pack_optimizer, unpack_optimizer
from corolla.server_side import ServerSide
from corolla.settings import AtLeastTwo, Count, CountOrNone, NonNegative, Positive, settings
from corolla.spaces.architecture import Architecture
from corolla.state import State, Stateful
from corolla.training.ensemble import NoTeacherError, augmented_view, ensemble_of
from corolla.training.results import DivergedError, OptimizerState
from corolla.training.sandwich import SandwichSettings, SupernetTrainer
from corolla.training.subnet_scorer import SubnetScorer
from corolla.types import Arrays, ClientId, generator

_LOG = logging.getLogger("corolla")
_VIEW = 0x71E3  # keeps the augmentation's draws apart from others of the same seed
_DRAW = 0x5A4D


@settings
class DistillerSettings(SandwichSettings):
    """The server's training, per round."""

    epochs: Count  # over the server's images
    batch_size: AtLeastTwo  # images of the server
    lr: Positive  # cosine over all epochs
    warmup_epochs: CountOrNone
    weight_decay: NonNegative
    augment: bool  # every round sees an augmented copy of the server's images
    recalibrate: bool  # BN statistics of the clients' models are recomputed on the server's images
    score_every: CountOrNone  # rounds between scorings of the supernet, for the records; 0: never


class Teacher(NamedTuple):
    """What a round's models say together."""

    heard: Sequence[Update]  # those whose models are part of it
    view: Images  # of the server's images
    logits: Tensor  # (images, classes)


class Distiller(Stateful):
    """State: the optimiser that trains the supernet.

    Raises:
        RefusedError: the server has no images.

    """

    def __init__(self, *, settings: DistillerSettings, federation: Federation, rounds: int) -> None:
        if federation.server is None:
            problem = "knowledge is distilled on images of the server's own, and it has none"
            remedy = "Use server_set=held_out, server_set=unlabelled or server_set=dataset"
            raise RefusedError(Fault("server_set", "none", problem, remedy))
        self.settings, self.federation, self.space = settings, federation, federation.space
        self.rounds = rounds
        self._server: ServerSide = federation.server
        self._schedule = replace(
            federation.trainer,
            lr=settings.lr,
            lr_schedule="cosine",
            lr_min=0.0,
            warmup_rounds=settings.warmup_epochs,
            weight_decay=settings.weight_decay,
        )
        self._optimizer: OptimizerState | None = None

    def teacher(
        self,
        server_round: int,
        sent: Arrays,
        updates: Sequence[Update],
        architectures: Mapping[ClientId, Architecture],
    ) -> Teacher | None:
        """Return what the clients' models, trained from ``sent``, say together; None where none can teach."""
        view = self._view(server_round)
        kept = robust_updates(self.federation.robust, sent, updates)
        try:
            ensemble = ensemble_of(
                self._models(kept, architectures),
                view,
                trainer=self._server.trainer,
                # Statistics of what it answers on: the students' are those of its batches.
                recalibration_batch_size=self.settings.batch_size
                if self.settings.recalibrate
                else None,
                rule=self.federation.robust,
            )
        except NoTeacherError as error:
            _LOG.warning("round %d: no client's model can teach: %s", server_round, error)
            return None
        heard = [update for n, update in enumerate(updates) if n not in ensemble.left_out]
        return Teacher(heard, view, ensemble.logits)

    def distilled(
        self, weights: Arrays, server_round: int, teacher: Teacher
    ) -> tuple[Arrays, dict[str, float]]:
        """Return the supernet as the teacher taught it, and entries for the records.

        Where its training diverges, ``weights`` as they are and no entries.
        """
        try:
            return self._distil(weights, server_round, teacher.view, teacher.logits)
        except DivergedError as error:
            _LOG.warning("round %d: the supernet stays as it was: %s", server_round, error)
            return weights, {}

    def _view(self, server_round: int) -> Images:
        """Return the server's images as teacher and students of this round see them."""
        server = self._server
        if not self.settings.augment:
            return server.images.images
        return augmented_view(
            server.images.images,
            settings=server.trainer.settings,
            seed=(self.federation.seed, server_round, _VIEW),
        )

    def _distil(
        self, weights: Arrays, server_round: int, view: Images, logits: Tensor
    ) -> tuple[Arrays, dict[str, float]]:
        own, trainer, seed = self._server.images, self._server.trainer, self.federation.seed
        first = (server_round - 1) * self.settings.epochs + 1
        total = self.rounds * self.settings.epochs
        result = SupernetTrainer(self.space, trainer, self.settings).distil(
            weights,
            view,
            logits,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            lr=[
                self._schedule.learning_rate(first + e, total) for e in range(self.settings.epochs)
            ],
            weight_decay=self.settings.weight_decay,
            seed=(seed, server_round, _DRAW),
            optimizer_state=self._optimizer,
        )
        self._optimizer = result.optimizer_state
        metrics = {"distillation_loss": result.train_loss}
        metrics |= {f"distillation_loss_{who}": loss for who, loss in result.losses.items()}
        if own.labelled:  # for the records alone: nothing is chosen or trained on these labels
            right = logits.argmax(1) == own.images.labels
            metrics["teacher_accuracy"] = float(right.double().mean())
            if self._scores(server_round):
                metrics |= self._accuracies(result.arrays, server_round)
        return result.arrays, metrics

    def _scores(self, server_round: int) -> bool:
        every = self.settings.score_every
        return every > 0 and (server_round % every == 0 or server_round == self.rounds)

    def _models(
        self, updates: Sequence[Update], architectures: Mapping[ClientId, Architecture]
    ) -> Iterator[tuple[float, nn.Module]]:
        """Yield weight and model of one client after the other, in the order of their clients."""
        for update in updates:
            copies = {name: array.copy() for name, array in update.arrays.items()}
            yield update.weight, self.space.load(architectures[update.client], copies)

    def _accuracies(self, weights: Arrays, server_round: int) -> dict[str, float]:
        """Return the accuracy of the smallest, a random and the largest subnet on the server's images."""
        own = self._server.images
        scorer = SubnetScorer(
            self.space,
            weights,
            self._server.trainer,
            validation=own.images,
            recalibration=own.images,
            batch_size=self.settings.batch_size,
            recalibration_images=None,
        )
        rng = generator(self.federation.seed, server_round, _DRAW)
        return {
            f"supernet_accuracy_{who}": scorer(architecture).accuracy
            for who, architecture in (
                ("smallest", self.space.smallest()),
                ("random", self.space.sample(rng)),
                ("largest", self.space.largest()),
            )
        }

    def state(self) -> State:
        """Return the optimiser's state."""
        packed = pack_optimizer(self._optimizer, "optimizer/")
        return State(packed.arrays, {"optimizer": packed.meta})

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        self._optimizer = unpack_optimizer(state, "optimizer/", state.meta["optimizer"])
