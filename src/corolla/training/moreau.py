"""pFedMe's local training: a personal model near the shared one, which moves towards it; no Flower in it.

T. Dinh, Tran & Nguyen, "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020,
https://arxiv.org/abs/2006.08848. A client minimises, over w,
F(w) = min over theta of f(theta) + lambda/2 ||theta - w||^2, whose gradient is lambda (w - theta(w)). On
every batch D, with theta and w_k equal to the received w at first,

    inner_steps times:  theta <- theta - inner_lr (grad f(theta; D) + lambda (theta - w_k) + mu theta)
    once:               w_k <- w_k - local_lr lambda (w_k - theta)

Steps are plain: no momentum, no weight decay but mu, which the authors' optimiser adds and the paper has not.
``clip_norm`` limits the whole inner gradient. Buffers are theta's: w_k sees no image.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.errors import Fault, RefusedError
from corolla.settings import Count, NonNegative, Positive, settings
from corolla.spaces.supernet import to_arrays
from corolla.training.batch_loader import Batch, BatchLoader
from corolla.training.batches import has_batch_norm
from corolla.training.epochs import Epochs
from corolla.training.learner import Learner, Trainee
from corolla.training.losses import classification_loss, split_counts
from corolla.training.pull import overshoot
from corolla.training.results import TrainResult
from corolla.training.settings import TrainerSettings
from corolla.training.torch_settings import configure_torch
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays


@settings
class MoreauSettings:
    """pFedMe's settings at the clients."""

    lambda_prox: Positive  # lambda: how near the personal model stays
    inner_steps: Count  # K, on the same batch
    inner_lr: Positive  # eta_p, of the personal model
    local_lr: Positive | None  # eta, of w_k; None: the round's learning rate
    mu: NonNegative  # weight decay of the personal model

    def __post_init__(self) -> None:
        if self.inner_lr * self.lambda_prox >= 2:
            problem = f"times lambda_prox={self.lambda_prox} is 2 or more: the inner steps diverge"
            remedy = f"Use less than {2 / self.lambda_prox:.3g}, or a smaller lambda_prox"
            raise RefusedError(Fault("inner_lr", self.inner_lr, problem, remedy))

    def step_faults(self, trainer: TrainerSettings) -> list[Fault]:
        """Return what is wrong with the step of w_k, which is plain whatever the trainer's are."""
        if self.local_lr is None:
            return overshoot("lambda_prox", self.lambda_prox, trainer.lr)
        return overshoot("lambda_prox", self.lambda_prox, self.local_lr, lr_key="method.local_lr")


def train_moreau(
    model: nn.Module,
    images: Images,
    *,
    settings: MoreauSettings,
    trainer: LocalTrainer,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: Sequence[int],
) -> tuple[TrainResult, Arrays]:
    """Make ``model``, the received one, the personal model, in place; return w_k beside the result.

    ``lr`` is the step of w_k where the settings give none; with 0 it stays. ``train_loss`` is that of the
    last inner step. ``samples_processed`` counts an image as often as it went forward and backward.
    Other arguments and errors as `LocalTrainer.train`.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: need 1 or more")
    configure_torch(trainer.loop)
    started = time.perf_counter()
    step = lr if settings.local_lr is None or lr == 0 else settings.local_lr
    training = _Training(
        model,
        images,
        settings=settings,
        trainer=trainer,
        local_lr=step,
        batch_size=batch_size,
        seed=seed,
    )
    for epoch in range(epochs):
        loss = training.run(epoch)
    result = TrainResult(
        train_loss=loss,
        num_examples=len(images),
        samples_processed=training.samples_processed,
        train_s=time.perf_counter() - started,
        peak_memory_mib=training.peak_memory_mib,
    )
    return result, {**to_arrays(model), **training.local()}


class _Training:
    """The two sets of weights, the images and what stays from step to step."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        settings: MoreauSettings,
        trainer: LocalTrainer,
        local_lr: float,
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        self._settings, self._trainer, self._local_lr = settings, trainer, local_lr
        self._class_counts = split_counts(images.labels, trainer.settings, trainer.device)
        plain = trainer.replaced(
            optimizer="sgd",
            momentum=0.0,
            nesterov=False,
            weight_decay=settings.mu,
            decay_norm_and_bias=True,
        )
        self._learner = Learner(
            Trainee(model=model, lr=settings.inner_lr, after_backward=self._pull),
            settings=plain.settings,
            loop=trainer.loop,
            device=trainer.device,
        )
        # theta and w_k, apart in memory. By name, behind the learner: it lays parameters out anew.
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._pairs = {name: (p, p.detach().clone()) for name, p in named.items()}
        self._loader = BatchLoader(
            floats=trainer.floats(images),
            augment=trainer.settings.augment,
            batch_size=batch_size,
            seed=tuple(seed),
            drop_single=has_batch_norm(model),
        )
        self._epochs = Epochs(
            self._loader,
            lambda number: self._step,
            models=[model],
            device=trainer.device,
            seed=seed,
        )

    def run(self, number: int) -> float:
        """Go through the images once; return the mean loss of the last inner steps."""
        ((total, count),) = self._epochs.run(number, lr=lambda part: self._learner.lr).values()
        return total / count

    def local(self) -> Arrays:
        """Return w_k's parameters, copied."""
        return {n: w.cpu().contiguous().numpy().copy() for n, (_, w) in self._pairs.items()}

    @property
    def samples_processed(self) -> int:
        """Images that went forward and backward."""
        return self._epochs.images["theta"] * self._settings.inner_steps

    @property
    def peak_memory_mib(self) -> float:
        """See `corolla.training.results.TrainResult`; w_k is not in it."""
        return self._learner.memory.peak_mib()

    def _step(self, batch: Batch) -> list[tuple[str, Tensor]]:
        labels = self._loader.floats.labels.index_select(0, batch.where)
        for _ in range(self._settings.inner_steps):
            logits = self._learner.forward(batch.images)
            loss = classification_loss(
                logits, labels, settings=self._trainer.settings, class_counts=self._class_counts
            )
            loss = self._learner.step(loss)
        with torch.no_grad():
            for theta, w in self._pairs.values():
                w.sub_(w - theta, alpha=self._local_lr * self._settings.lambda_prox)
        return [("theta", loss)]

    def _pull(self, model: nn.Module) -> None:
        with torch.no_grad():
            for theta, w in self._pairs.values():
                if theta.grad is None:  # not part of this pass: the pull is all it gets
                    theta.grad = torch.zeros_like(theta)
                theta.grad.add_(theta - w, alpha=self._settings.lambda_prox)
