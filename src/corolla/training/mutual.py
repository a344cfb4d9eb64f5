"""Deep mutual learning of two models on one client's labels.

Zhang, Xiang, Hospedales & Lu, CVPR 2018, https://arxiv.org/abs/1706.00384, as FedKEMF uses it (Yu et al.,
https://arxiv.org/abs/2208.07978) and with HAPFNAS's share alpha. On every batch, p being softmax(logits):

    loss_a = (1 - alpha) CE(a) + alpha KL(p_b || p_a)        p_b without gradient
    loss_b = (1 - alpha) CE(b) + alpha KL(p_a || p_b)        p_a without gradient

Both divergences are of the weights before either step (the paper's algorithm steps in turns), and of the
plain logits, whatever balance CE has. alpha = 0 is independent training of both, alpha = 1 reads no labels.
FML (Shen et al., https://arxiv.org/abs/2006.16765) has a share for either model: ``alpha`` may be two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Unpack

from torch import Tensor

from corolla.data.images import Images
from corolla.settings import Share, settings
from corolla.training.batch_loader import Passes
from corolla.training.learner import Trainee
from corolla.training.logit_distillation import divergence
from corolla.training.losses import LabelLoss
from corolla.training.results import TrainResult
from corolla.training.trainer import LocalTrainer


def mutual_losses(
    logits: Sequence[Tensor],
    where: Tensor,
    *,
    alpha: float | tuple[float, float],
    label_loss: LabelLoss,
) -> tuple[Tensor, Tensor]:
    """Return the batch's mean loss of both models.

    Args:
        logits: of either model, (n, classes).
        where: positions of the images, (n,).
        alpha: share of the divergence, 0..1, in both losses; or of either.
        label_loss: of the images at these positions.

    """
    first, second = logits
    shares = _shares(alpha)

    def loss(own: Tensor, peer: Tensor, share: float) -> Tensor:
        return (1 - share) * label_loss(own, where) + share * divergence(own, peer.detach())

    return loss(first, second, shares[0]), loss(second, first, shares[1])


def _shares(alpha: float | tuple[float, float]) -> tuple[float, float]:
    return alpha if isinstance(alpha, tuple) else (alpha, alpha)


@settings
class MutualSettings:
    """What a client's own model and the shared knowledge network learn from each other."""

    knowledge: str | Sequence[int]  # architecture of the knowledge network, the same for everybody
    alpha: Share  # of the mutual divergence in both losses; 0: Local beside FedAvg


def train_mutually(
    first: Trainee,
    second: Trainee,
    images: Images,
    *,
    alpha: float | tuple[float, float],
    trainer: LocalTrainer,
    keep_optimizer_state: bool = False,
    **passes: Unpack[Passes],
) -> tuple[TrainResult, TrainResult]:
    """Train both models in place on the same batches; each result's ``train_loss`` is its loss above.

    Other arguments, results and errors are those of `LocalTrainer.train_together`.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].

    """
    if not all(0 <= share <= 1 for share in _shares(alpha)):
        raise ValueError(f"alpha={alpha}: need a number from 0 to 1")
    label_loss = LabelLoss(images.labels, trainer.settings, trainer.device)
    one, other = trainer.train_together(
        [first, second],
        images,
        losses=partial(mutual_losses, alpha=alpha, label_loss=label_loss),
        keep_optimizer_state=keep_optimizer_state,
        **passes,
    )
    return one, other
