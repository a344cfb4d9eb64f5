"""Scores subnets of a supernet on validation images: cut, BatchNorm recalibrated, evaluated."""

from __future__ import annotations

from torch import Tensor, nn

from corolla.data.images import Images
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.training.prior import fold
from corolla.training.results import Evaluation, NoBatchError
from corolla.training.torch_settings import order_generator
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays

_SEED = (0,)


class SubnetScorer:
    """Accuracy and loss of architectures, one subnet in memory at a time.

    Weights and statistics are copied out of the supernet, which is never written to. The images are
    brought to the device once.

    Args:
        space: the supernet's.
        supernet: all its arrays; held, not copied.
        trainer: for its device, loop and evaluation batch.
        validation: what is scored on; 1 or more.
        recalibration: images whose statistics BatchNorm gets anew for every subnet (labels are not
            read); None: the supernet's own statistics are used, which suit its subnets badly.
        batch_size: of the recalibration, in images.
        prior: added to every subnet's logits, (classes,), as `corolla.training.scoring` does where it is
            deployed; None: nothing.
        recalibration_images: at most this many of them, drawn once, the same for every subnet, as a
            set may be stored class by class; None: all.

    Raises:
        NoBatchError: no validation images; and, when a model with BatchNorm is scored, fewer than 2
            images to recalibrate on.

    """

    def __init__(
        self,
        space: Supernet,
        supernet: Arrays,
        trainer: LocalTrainer,
        *,
        validation: Images,
        recalibration: Images | None,
        batch_size: int,
        recalibration_images: int | None = None,
        prior: Tensor | None = None,
    ) -> None:
        if not len(validation):
            raise NoBatchError("nothing to score subnets on: 0 validation images")
        if recalibration_images is not None and recalibration_images < 2:
            raise ValueError(
                f"recalibration_images={recalibration_images}: need 2 or more, or None"
            )
        self._space, self._supernet, self._trainer = space, supernet, trainer
        self._batch_size = batch_size
        self._validation = trainer.floats(validation)
        self._recalibration = None
        if recalibration is not None:
            if recalibration_images is not None and recalibration_images < len(recalibration):
                order = order_generator(_SEED, 0).permutation(len(recalibration))
                recalibration = recalibration.select(order[:recalibration_images])
            self._recalibration = trainer.floats(recalibration)
        self._prior = prior
        self.scored = 0  # subnets so far

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Return the subnet's score; a subnet whose numbers overflow has a loss that is not finite."""
        arrays = self._space.cut(self._supernet, architecture)
        return self.score(self._space.load(architecture, arrays))

    def score(self, model: nn.Module) -> Evaluation:
        """Return the score of a subnet that was cut elsewhere; it becomes what would be deployed."""
        if self._recalibration is not None:
            self._trainer.recalibrate_on(model, self._recalibration, batch_size=self._batch_size)
        if self._prior is not None:
            fold(model, self._prior)
        self.scored += 1
        return self._trainer.evaluate_on(model, self._validation)
