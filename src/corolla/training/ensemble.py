"""What several models say together, as a teacher's logits; and the pictures that they say it of."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from corolla.aggregation.robust import RobustRule
from corolla.data.images import Images
from corolla.training.augmentation import augment
from corolla.training.results import NoBatchError
from corolla.training.settings import TrainerSettings
from corolla.training.torch_settings import augmentation_generator, configure_torch
from corolla.training.trainer import LocalTrainer

_LOG = logging.getLogger("corolla")
_CHUNK = 1024  # images augmented at once; the draws of a view depend on it


class NoTeacherError(ValueError):
    """No model of an ensemble can teach."""


@dataclass(frozen=True)
class Ensemble:
    """What models said together."""

    logits: Tensor  # (n, classes) float32 on the CPU
    left_out: tuple[int, ...]  # places, from 0, of models with logits or statistics not finite


def ensemble_of(
    models: Iterable[tuple[float, nn.Module]],
    images: Images,
    *,
    trainer: LocalTrainer,
    recalibration_batch_size: int | None,
    rule: RobustRule | None = None,
) -> Ensemble:
    """Return sum_i a_i f_i(x) / sum_i a_i for every image; with ``rule``, as it averages.

    Models run in evaluation mode and in float32, whatever the loop's autocast says. They are taken
    from ``models`` one by one and let go of before the next is asked for, so that a generator that
    builds them keeps one in memory at a time. Sums are made in float64: their order shows in
    the last bit of float32 at most.

    Args:
        models: weights a_i, 0 or more (such as numbers of training images), and models, which are
            moved to the trainer's device and memory layout.
        images: 1 or more; labels are not read.
        trainer: for its device, loop settings and evaluation batch size.
        recalibration_batch_size: BN statistics of the models are first recomputed on ``images``, in
            batches of this size, and stay so: whoever learns from the logits in training mode sees
            the images normalised by such batches. None: the models' own statistics.
        rule: where it leaves extremes out, the logits of all models are kept until the last has
            answered, and models of weight 0 have no say.

    Raises:
        NoBatchError: there are no images; or one, to recalibrate BN on.
        NoTeacherError: no models of weight above 0 whose logits are finite; others are left out.
        ValueError: weights that are negative or not finite, or logits of different
            shapes.

    """
    if not len(images):
        raise NoBatchError("no images for an ensemble to answer on: 0 images")
    configure_torch(trainer.loop)
    floats = trainer.floats(images)
    total, weights, place, left_out = None, 0.0, -1, []
    said_by: list[tuple[float, Tensor]] = []
    for weight, model in models:  # enumerate() would hold on to a model while the next one is built
        place += 1
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"an ensemble's weight is {weight}: need a finite number, 0 or more")
        if recalibration_batch_size is not None:
            trainer.recalibrate_on(model, floats, batch_size=recalibration_batch_size)
        logits = torch.cat(trainer.answers(model, floats, lambda said, where: said))
        # Recomputed statistics that overflowed turn whatever a model says into a constant.
        finite = all(bool(torch.isfinite(said).all()) for said in (logits, *model.buffers()))
        del model  # or it would live on likewise
        if not finite:
            _LOG.warning(
                "a model is left out of the ensemble: its logits or statistics are not finite"
            )
            left_out.append(place)
            continue
        part = logits.double().mul_(weight)
        if total is not None and total.shape != part.shape:
            shapes = f"{tuple(total.shape)} and {tuple(part.shape)}"
            raise ValueError(f"an ensemble's models give logits of shapes {shapes}: need one")
        total = part if total is None else total.add_(part)
        weights += weight
        if rule is not None and rule.trims and weight > 0:
            said_by.append((weight, logits.cpu()))
    if total is None or weights == 0:
        raise NoTeacherError("an ensemble needs a model of weight above 0 and with finite logits")
    robust = None if rule is None else _robust_mean(rule, said_by)
    agreed = total.div_(weights).float().cpu() if robust is None else robust
    return Ensemble(agreed, tuple(left_out))


def _robust_mean(rule: RobustRule, said_by: Sequence[tuple[float, Tensor]]) -> Tensor | None:
    if not said_by:
        return None
    values = np.stack([logits.numpy() for _, logits in said_by])
    mean = rule.mean(values, [weight for weight, _ in said_by])
    return None if mean is None else torch.from_numpy(mean).float()


def augmented_view(images: Images, *, settings: TrainerSettings, seed: Sequence[int]) -> Images:
    """Return one augmented copy of ``images``, as ``settings.augment`` says, for teacher and students.

    The draws follow from ``seed`` and the number of images alone. Without augmentation ``images``
    themselves come back; labels are shared in any case.
    """
    if settings.augment == "none":
        return images
    rng = augmentation_generator(seed, 0)
    views = [
        augment(pixels, settings.augment, rng, mean=images.mean)
        for pixels in torch.split(images.pixels, _CHUNK)
    ]
    return replace(images, pixels=torch.cat(views))
