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
from corolla.training.batch_loader import Batch
from corolla.training.batches import has_batch_norm
from corolla.training.epochs import Epochs
from corolla.training.learner import Trainee
from corolla.training.losses import LabelLoss
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
    strength = settings.lambda_prox
    local_lr = lr if settings.local_lr is None or lr == 0 else settings.local_lr

    def pull(model: nn.Module) -> None:
        with torch.no_grad():
            for theta, w in pairs.values():
                if theta.grad is None:  # not part of this pass: the pull is all it gets
                    theta.grad = torch.zeros_like(theta)
                theta.grad.add_(theta - w, alpha=strength)

    def step(batch: Batch) -> list[tuple[str, Tensor]]:
        for _ in range(settings.inner_steps):
            loss = learner.step(label_loss(learner.forward(batch.images), batch.where))
        with torch.no_grad():
            for theta, w in pairs.values():
                w.sub_(w - theta, alpha=local_lr * strength)
        return [("theta", loss)]

    plain = trainer.replaced(
        optimizer="sgd",
        momentum=0.0,
        nesterov=False,
        weight_decay=settings.mu,
        decay_norm_and_bias=True,
    )
    learner = plain.learner(Trainee(model=model, lr=settings.inner_lr, after_backward=pull))
    # theta and w_k, apart in memory. By name, behind the learner: it lays parameters out anew.
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    pairs = {name: (p, p.detach().clone()) for name, p in named.items()}
    drop_single = has_batch_norm(model)
    loader = trainer.loader(images, batch_size=batch_size, seed=seed, drop_single=drop_single)
    label_loss = LabelLoss(loader.floats.labels, trainer.settings, trainer.device)
    run = Epochs(loader, lambda _: step, models=[model], device=trainer.device, seed=seed)
    for epoch in range(epochs):
        total, count = run.run(epoch, lr=lambda _: settings.inner_lr)["theta"]
    result = TrainResult(
        train_loss=total / count,
        num_examples=len(images),
        samples_processed=run.images["theta"] * settings.inner_steps,
        train_s=time.perf_counter() - started,
        peak_memory_mib=learner.memory.peak_mib(),  # without w_k
    )
    local = {n: w.cpu().contiguous().numpy().copy() for n, (_, w) in pairs.items()}
    return result, {**to_arrays(model), **local}
