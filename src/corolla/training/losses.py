"""Losses on labels and on a teacher's logits.

Balanced softmax: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020,
https://arxiv.org/abs/2007.10740. With n_c images of class c, training takes

    p(c) = n_c exp(l_c) / sum over k of n_k exp(l_k)

so the logits need not carry how frequent a class was; they are scored as they are. A class with n_c = 0
counts as ``absent_count`` images: the fewer, the less does training on others push its logit down.

Masked cross-entropy: Diao et al., "HeteroFL", ICLR 2021, https://arxiv.org/abs/2010.01264. Logits of classes
without an image in the training split are 0 (not minus infinity: they keep a share of the probability),
so their rows of the classifier get no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from corolla.training.settings import TrainerSettings

_OF_SPLIT = ("balanced_softmax_client", "masked_cross_entropy")  # losses that read class_counts


def classification_loss(
    logits: Tensor, labels: Tensor, *, settings: TrainerSettings, class_counts: Tensor | None
) -> Tensor:
    """Return the batch's mean loss as ``settings.loss`` says, with ``settings.label_smoothing``.

    Args:
        logits: (n, classes) float32.
        labels: (n,) int64.
        settings: ``cross_entropy``; ``balanced_softmax`` (n_c counted in this batch) or
            ``balanced_softmax_client`` (n_c from ``class_counts``), a count of 0 taken as ``absent_count``;
            ``masked_cross_entropy`` (classes with n_c = 0 in ``class_counts`` are masked).
        class_counts: images per class of the training split, up to the last class it has; as
            `split_counts` gives it. Read by the last two alone.

    Raises:
        ValueError: one of the last two without ``class_counts``.

    """
    if settings.loss == "balanced_softmax":
        logits = logits + _log_counts(_counts(labels, logits.shape[1]))
    elif settings.loss in _OF_SPLIT:
        if class_counts is None:
            raise ValueError(f"loss={settings.loss!r}: need class_counts, got None")
        counts = functional.pad(class_counts, (0, logits.shape[1] - len(class_counts)))
        if settings.loss == "masked_cross_entropy":
            logits = logits.masked_fill(counts == 0, 0.0)
        else:
            logits = logits + _log_counts(counts, absent=settings.absent_count)
    return functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)


def split_counts(labels: Tensor, settings: TrainerSettings, device: torch.device) -> Tensor | None:
    """Return what `classification_loss` needs to know of the training split; None: nothing."""
    if settings.loss not in _OF_SPLIT:
        return None
    return torch.bincount(labels).to(device)


class LabelLoss:
    """`classification_loss` of one training split, on its images at positions (n,).

    Args:
        labels: of the whole split.
        settings: see `classification_loss`.
        device: of the logits.

    """

    def __init__(self, labels: Tensor, settings: TrainerSettings, device: torch.device) -> None:
        self._labels, self._settings = labels.to(device), settings
        self._counts = split_counts(labels, settings, device)

    def __call__(self, logits: Tensor, where: Tensor) -> Tensor:
        """Return the mean loss of these images' logits, (n, classes)."""
        labels, counts = self._labels.index_select(0, where), self._counts
        return classification_loss(logits, labels, settings=self._settings, class_counts=counts)


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the batch's mean of -sum_c softmax(t / T)_c log softmax(l / T)_c.

    T^2, by which Hinton et al. (2015) multiply so that gradients keep their size as T changes, is
    NOT applied: with T = 1, the default everywhere, it is 1. Gradients flow into ``logits`` alone if
    ``teacher_logits`` are detached.

    Args:
        logits: (n, classes) of who learns.
        teacher_logits: (n, classes).
        temperature: T > 0.

    """
    wanted = (teacher_logits / temperature).softmax(1)
    return -(wanted * (logits / temperature).log_softmax(1)).sum(1).mean()


def _counts(labels: Tensor, classes: int) -> Tensor:
    # Compared, not torch.bincount: on a GPU that would wait for the queue at every batch.
    return (labels[:, None] == torch.arange(classes, device=labels.device)).sum(0)


def _log_counts(counts: Tensor, absent: float = 1.0) -> Tensor:
    return counts.float().masked_fill(counts == 0, absent).log()
