"""Co-distillation: training on labels, and towards given outputs on public images in the same steps.

COMET / PerFed-CKT: Cho, Wang, Chiruvolu & Joshi 2021. With s(x) what the model says of a public image x, as
probabilities or logits, s'(x) what it is to say, and P_b a fresh batch of public images in every step, added
to the loss on labels is

    lambda / 2 * mean over P_b of ||s(x) - s'(x)||^2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.settings import AtLeastTwo, NonNegative, settings
from corolla.training.batch_loader import Batch
from corolla.training.batches import has_batch_norm
from corolla.training.execution_mode import autocast
from corolla.training.statistics import batch_statistics
from corolla.training.trainer import LocalTrainer

Outputs = Literal["probabilities", "logits"]


@settings
class CoDistillationSettings:
    """How clients of PerFed-CKT learn from public images."""

    outputs: Outputs  # what is clustered, averaged and learnt: softmax of the logits, or these
    lambda_public: NonNegative  # lambda; 0: Local with the matched budget
    public_batch_size: AtLeastTwo | None  # |P_b|; None: the run's batch size
    recalibrate: bool  # clients answer with BN statistics of the public images, as they learn them


def outputs_of(logits: Tensor, outputs: Outputs) -> Tensor:
    """Return what is compared, (n, classes)."""
    return logits.softmax(1) if outputs == "probabilities" else logits


class CoDistillation:
    """An ``after_backward`` hook that adds the gradient of the term above; one batch per step.

    Public images are not augmented and go forward without dropout. BatchNorm normalises them by their own
    batch; its running statistics stay those of the labelled images.

    Args:
        images: public; labels are not read. With BatchNorm a last batch of a single image is left out.
        wanted: s', (n, classes), in their order.
        strength: lambda above 0.
        outputs: what s is.
        trainer: for its device and loop.
        batch_size: |P_b|.
        seed: of the batches' order.

    """

    def __init__(
        self,
        images: Images,
        wanted: Tensor,
        *,
        strength: float,
        outputs: Outputs,
        trainer: LocalTrainer,
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        self._images, self._trainer = images, trainer
        self._wanted = wanted.detach().float().to(trainer.device)
        self._strength, self._outputs = strength, outputs
        self._batch_size, self._seed = batch_size, seed
        self._batches: Iterator[Batch] | None = None
        self._distances: list[Tensor] = []
        self.samples_processed = 0

    @property
    def distance(self) -> float:
        """Mean over all steps of ||s - s'||^2."""
        return float(torch.stack(self._distances).mean()) if self._distances else 0.0

    def __call__(self, model: nn.Module) -> None:
        """Add to the gradients of ``model``."""
        if self._batches is None:
            loader = self._trainer.replaced(augment="none").loader(
                self._images,
                batch_size=self._batch_size,
                seed=self._seed,
                drop_single=has_batch_norm(model),
            )
            self._batches = loader.endless()
        batch = next(self._batches)
        with batch_statistics(model), autocast(self._trainer.loop, self._trainer.device):
            logits = model(batch.images)
        said = outputs_of(logits.float(), self._outputs)
        distance = (said - self._wanted.index_select(0, batch.where)).square().sum(1).mean()
        (self._strength / 2 * distance).backward()  # type: ignore[no-untyped-call]
        self._distances.append(distance.detach())
        self.samples_processed += len(batch.where)
