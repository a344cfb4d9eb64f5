"""What training and evaluation give back, and how training fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corolla.errors import CorollaError

OptimizerState = dict[str, dict[str, Any]]
"""``{parameter's name: {entry: tensor}}``, so it outlives the deletion of other parameters."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """One client's training.

    ``train_loss`` is the mean over the images of the last epoch, each counted while the weights
    still moved; it includes label smoothing but nothing that an ``after_backward`` hook adds.
    ``peak_memory_mib``: on CUDA, the allocator's peak during training, less what other tensors held
    before it. On CPU, what the first (largest) batch was counted to hold: weights, buffers,
    gradients, optimiser state and the tensors kept for the backward pass. The process' resident
    memory is of no use for that: it holds all clients that the process ever trained, and libraries'
    memory.
    """

    train_loss: float
    num_examples: int  # images of the training split
    samples_processed: int  # images that went forward and backward
    train_s: float  # wall seconds
    peak_memory_mib: float
    optimizer_state: OptimizerState | None = None  # on the CPU; only when asked for


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's score. ``loss`` is the mean cross-entropy, without label smoothing."""

    accuracy: float  # fraction, 0..1
    loss: float
    num_examples: int


class NoBatchError(CorollaError, ValueError):
    """There are too few images to make a batch of."""


class DivergedError(CorollaError, ArithmeticError):
    """The loss became infinite or NaN."""

    def __init__(self, *, loss: float, epoch: int, batch: int, lr: float) -> None:
        self.epoch, self.batch, self.lr = epoch, batch, lr
        super().__init__(
            f"the loss is {loss} in epoch {epoch}, batch {batch} (both from 0) at lr={lr:g}. "
            "Lower trainer.lr, set trainer.clip_norm, or add trainer.warmup_rounds"
        )
