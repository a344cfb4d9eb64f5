"""Training a model towards given logits on given images, without labels.

The digest step of FedMD (Li & Wang 2019, https://arxiv.org/abs/1910.03581), and the distillation of an
ensemble into one model. l are the model's logits, t the given ones, n images, C classes:

    mae:  1 / (n C) sum |l - t|                                     the distance of the paper
    kl:   1 / n sum over images of KL(softmax(t / T) || softmax(l / T))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor
from torch.nn import functional

from corolla.data.images import Images
from corolla.settings import AtLeastTwo, CountOrNone, Positive, settings
from corolla.training.batch_loader import Passes
from corolla.training.learner import Trainee
from corolla.training.losses import soft_cross_entropy
from corolla.training.results import TrainResult
from corolla.training.trainer import LocalTrainer

Distance = Literal["mae", "kl"]
DISTANCES: tuple[str, ...] = get_args(Distance)


def divergence(logits: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the batch's mean KL(softmax(wanted / T) || softmax(logits / T)), (n, classes) both.

    As in `corolla.training.losses.soft_cross_entropy`, from which it differs by a constant, there is no T^2.
    """
    entropy = soft_cross_entropy(wanted, wanted, temperature).detach()
    return soft_cross_entropy(logits, wanted, temperature) - entropy


def logit_distance(
    logits: Tensor, wanted: Tensor, *, kind: Distance, temperature: float = 1.0
) -> Tensor:
    """Return the batch's mean distance of ``logits`` from ``wanted``, (n, classes) both.

    Raises:
        ValueError: an unknown kind.

    """
    if kind == "mae":
        return functional.l1_loss(logits, wanted)
    if kind == "kl":
        return divergence(logits, wanted, temperature)
    raise ValueError(f"distance={kind!r}: need one of {list(DISTANCES)}")


@settings
class DigestSettings:
    """How clients of FedMD learn from public images."""

    digest_loss: Distance  # of logits
    # over the subset; 0: no digest, which is Local with the matched budget
    digest_epochs: CountOrNone
    digest_batch_size: AtLeastTwo | None  # None: the run's
    digest_lr: Positive | None  # None: the round's
    # of a client's first participation, on all public images with labels
    pretrain_epochs: CountOrNone
    recalibrate: bool  # clients answer with BN statistics of the public images, as they digest them


def train_on_logits(
    trainee: Trainee,
    images: Images,
    wanted: Tensor,
    *,
    distance: Distance,
    temperature: float = 1.0,
    trainer: LocalTrainer,
    **passes: Unpack[Passes],
) -> TrainResult:
    """Train a model in place towards ``wanted``; images are not augmented, labels are not read.

    Args:
        trainee: the model.
        images: 1 or more; with BatchNorm 2 or more, and a last batch of a single image is left out.
        wanted: logits of these images, (n, classes), in their order.
        distance: ``mae`` or ``kl``; the result's ``train_loss``.
        temperature: T > 0 of ``kl``; not used by ``mae``.
        trainer: for its optimiser, clipping and device.

    Other arguments, results and errors are those of `LocalTrainer.train_together`.

    Raises:
        ValueError: logits that are not finite or not one row per image, or arguments out of range.

    """
    if distance not in DISTANCES or not temperature > 0:
        known = f"one of {list(DISTANCES)}, and a temperature above 0"
        raise ValueError(f"distance={distance!r} temperature={temperature}: need {known}")
    if wanted.ndim != 2 or len(wanted) != len(images) or not bool(torch.isfinite(wanted).all()):
        given = f"logits of shape {tuple(wanted.shape)} for {len(images)} images"
        raise ValueError(f"{given}: need finite numbers, one row per image")
    answers = wanted.detach().float().to(trainer.device)

    def losses(logits: Sequence[Tensor], where: Tensor) -> Sequence[Tensor]:
        (own,) = logits
        target = answers.index_select(0, where)
        return [logit_distance(own, target, kind=distance, temperature=temperature)]

    plain = trainer.replaced(augment="none")
    (result,) = plain.train_together([trainee], images, losses=losses, **passes)
    return result
