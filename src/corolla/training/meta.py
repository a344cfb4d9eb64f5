"""Per-FedAvg's local training: find weights from which one gradient step fits a client; no Flower in it.

Fallah, Mokhtari, Ozdaglar, "Personalized Federated Learning with Theoretical Guarantees: A
Model-Agnostic Meta-Learning Approach", NeurIPS 2020, https://arxiv.org/abs/2002.07948. A client
minimises F(w) = f(w - alpha grad f(w)). A step takes three independent batches D, D', D'':

    w~ = w - alpha grad f(w; D),   g = grad f(w~; D')
    fo:     w <- w - beta g
    hf:     w <- w - beta (g - alpha [grad f(w + delta g; D'') - grad f(w - delta g; D'')] / (2 delta))
    exact:  w <- w - beta (g - alpha H g),   H = Hessian of f at w on D'', by double backward

Every step is plain: no momentum, no weight decay. The gradient that moves w is clipped as the
trainer's settings say; the inner step is not, since its derivative above is that of an unclipped one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from corolla.data.images import Images
from corolla.settings import Count, NonNegative, Positive, settings
from corolla.training.batches import has_batch_norm, shuffled_batches
from corolla.training.epochs import Epochs
from corolla.training.execution_mode import autocast
from corolla.training.learner import Trainee
from corolla.training.losses import classification_loss, split_counts
from corolla.training.results import NoBatchError, TrainResult
from corolla.training.torch_settings import augmentation_generator, configure_torch
from corolla.training.trainer import LocalTrainer

_PLAIN: dict[str, Any] = {  # settings of a step
    "optimizer": "sgd",
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "clip_norm": None,
}

Weights = list[Tensor]
Loss = Callable[[Weights], Tensor]
"""The loss of one batch at given weights."""

_BATCHES = {"fo": 2, "hf": 3, "exact": 3}  # per step
_PASSES = {"fo": (1, 1), "hf": (1, 1, 2), "exact": (1, 1, 2)}  # over each; a double backward is two


@settings
class MetaSettings:
    """Per-FedAvg's settings."""

    alpha: NonNegative  # step of the adaptation, in training and afterwards
    beta: Positive | None  # step of w; None: the round's learning rate
    variant: Literal["fo", "hf", "exact"]
    delta: Positive  # hf only: half the distance of the difference quotient, in multiples of g
    adapt_epochs: Count  # of SGD at alpha that make the personalised model of w


def meta_gradient(
    weights: Sequence[Tensor],
    *,
    probe: Loss,
    update: Loss,
    curvature: Loss | None,
    alpha: float,
    delta: float,
    variant: str,
) -> tuple[Weights, Tensor]:
    """Return the direction that moves w, and the loss at w~ on D'; ``weights`` stay as they are.

    ``probe``, ``update`` and ``curvature`` are the losses on D, D' and D'' (none for fo). ``update``
    is called once, ``curvature`` twice for hf: with the same draws, or the quotient means nothing.
    """
    here = [weight.detach() for weight in weights]
    _, slope = _gradient(probe, here)
    value, gradient = _gradient(update, _moved(here, slope, -alpha))
    if curvature is None:
        return gradient, value
    if variant == "hf":
        _, above = _gradient(curvature, _moved(here, gradient, delta))
        _, below = _gradient(curvature, _moved(here, gradient, -delta))
        product = [(a - b) / (2 * delta) for a, b in zip(above, below, strict=True)]
    else:
        product = _hessian_product(curvature, here, gradient)
    return _moved(gradient, product, -alpha), value


def meta_batches(
    count: int, batch_size: int, parts: int, *, seed: Sequence[int], epoch: int, least: int
) -> list[tuple[Tensor, ...]]:
    """Return the indices of each step's ``parts`` disjoint batches; every image once an epoch.

    The order is that of `shuffled_batches`. It is divided into batches of nearly equal size, the
    fewest steps whose batches hold ``batch_size`` images at most; a batch has ``least`` at least,
    which may take it above ``batch_size``.

    Raises:
        NoBatchError: not one step can be made.

    """
    needed = parts * least
    if count < needed:
        reason = "of 2 images (BatchNorm) " if least > 1 else ""
        raise NoBatchError(
            f"no step: {count} images; a step takes {parts} batches {reason}and so {needed} images"
        )
    batches = shuffled_batches(count, batch_size, seed=seed, epoch=epoch, drop_single=False)
    steps = min(-(-count // (parts * batch_size)), count // needed)
    pieces = torch.tensor_split(torch.cat(batches), steps * parts)
    return [tuple(pieces[first : first + parts]) for first in range(0, len(pieces), parts)]


def meta_train(
    model: nn.Module,
    images: Images,
    *,
    settings: MetaSettings,
    trainer: LocalTrainer,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: Sequence[int],
) -> TrainResult:
    """Train ``model`` in place by Per-FedAvg's steps; arguments and errors as `LocalTrainer.train`.

    ``lr`` is beta where the settings give none. ``train_loss`` is that of w~ on D' in the last epoch.
    ``samples_processed`` counts an image as often as it went forward and backward.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: need 1 or more")
    configure_torch(trainer.loop)
    started = time.perf_counter()
    training = _MetaTraining(
        model,
        images,
        settings=settings,
        trainer=trainer,
        lr=lr if settings.beta is None else settings.beta,
        batch_size=batch_size,
        seed=seed,
    )
    for epoch in range(epochs):
        ((total, count),) = training.epochs.run(epoch, lr=lambda _: training.learner.lr).values()
    return TrainResult(
        train_loss=total / count,
        num_examples=len(images),
        samples_processed=training.samples_processed,
        train_s=time.perf_counter() - started,
        peak_memory_mib=training.learner.memory.peak_mib(),
    )


def adapt(
    model: nn.Module,
    images: Images,
    *,
    settings: MetaSettings,
    trainer: LocalTrainer,
    **common: Any,
) -> TrainResult:
    """Make the personalised model of w, in place: ``adapt_epochs`` of plain SGD at alpha.

    ``common``: batch_size and seed of `LocalTrainer.train`.
    """
    return trainer.replaced(**_PLAIN).train(
        model, images, epochs=settings.adapt_epochs, lr=settings.alpha, **common
    )


class _MetaBatch(NamedTuple):
    """Images and labels of D, D' and perhaps D''; and the positions of those of D', whose loss is told."""

    where: Tensor
    loaded: list[tuple[Tensor, Tensor]]


class _MetaTraining:
    """One model, its images and what stays from step to step."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        settings: MetaSettings,
        trainer: LocalTrainer,
        lr: float,
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        self._model, self._settings, self._trainer = model, settings, trainer
        self._batch_size, self._seed = batch_size, seed
        self._floats = trainer.floats(images)
        self._class_counts = split_counts(images.labels, trainer.settings, trainer.device)
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._names = list(named)
        clipped = {**_PLAIN, "clip_norm": trainer.settings.clip_norm}
        self.learner = trainer.replaced(**clipped).learner(Trainee(model=model, lr=lr))
        self._parameters = list(named.values())
        self.epochs = Epochs(
            self, lambda number: self._step, models=[model], device=trainer.device, seed=seed
        )
        self.samples_processed = 0

    def epoch(self, number: int) -> Iterator[_MetaBatch]:
        """Return each step's batches: what `corolla.training.epochs` asks for."""
        variant, device = self._settings.variant, self._trainer.device
        rng = augmentation_generator(self._seed, number)
        for batches in meta_batches(
            len(self._floats),
            self._batch_size,
            _BATCHES[variant],
            seed=self._seed,
            epoch=number,
            least=2 if has_batch_norm(self._model) else 1,
        ):
            passes = zip(batches, _PASSES[variant], strict=True)
            self.samples_processed += sum(len(batch) * times for batch, times in passes)
            loaded = [self._loaded(batch.to(device), rng) for batch in batches]
            yield _MetaBatch(batches[1], loaded)

    def _step(self, batch: _MetaBatch) -> list[tuple[str, Tensor]]:
        probe, update, *rest = batch.loaded
        gradient, loss = meta_gradient(
            self._parameters,
            probe=lambda weights: self._loss(weights, *probe, counts=False),
            update=lambda weights: self._loss(weights, *update, counts=True),
            curvature=(lambda weights: self._curvature(weights, *rest[0])) if rest else None,
            alpha=self._settings.alpha,
            delta=self._settings.delta,
            variant=self._settings.variant,
        )
        for parameter, direction in zip(self._parameters, gradient, strict=True):
            # In the weight's memory layout, which autograd.grad does not keep and fused kernels need.
            parameter.grad = torch.empty_like(parameter).copy_(direction)
        self.learner.update()
        return [("w", loss)]

    def _loaded(self, where: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        images = self._floats.augmented(where, self._trainer.settings.augment, rng)
        return images, self._floats.labels.index_select(0, where)

    def _loss(
        self,
        weights: Weights,
        images: Tensor,
        labels: Tensor,
        *,
        counts: bool,
        full_precision: bool = False,
    ) -> Tensor:
        """Return the batch's loss at ``weights``; buffers move only where the pass ``counts``."""
        tensors = dict(zip(self._names, weights, strict=True))
        if not counts:
            tensors |= {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        loop = self._trainer.loop
        precision = nullcontext() if full_precision else autocast(loop, self._trainer.device)
        # Counted is the largest pass: the last one here before the step is made.
        with self.learner.memory.first_forward(), precision:
            logits = functional_call(self._model, tensors, (images,))
        return classification_loss(
            logits.float(),
            labels,
            settings=self._trainer.settings,
            class_counts=self._class_counts,
        )

    def _curvature(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        # In float32: a difference quotient of bfloat16 is noise. With the same draws at every call.
        device = self._trainer.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return self._loss(weights, images, labels, counts=False, full_precision=True)


class _TwiceDifferentiable(TorchFunctionMode):
    """Composes what torch can differentiate only once of what it can differentiate twice."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("hardsigmoid", "hardsigmoid_"):  # squeeze and excite
            return functional.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


def _gradient(loss: Loss, weights: Weights) -> tuple[Tensor, Weights]:
    """Return loss and gradient at ``weights``; zeros for weights that the loss does not use."""
    leaves = [weight.detach().requires_grad_() for weight in weights]
    value = loss(leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves, materialize_grads=True))


def _hessian_product(loss: Loss, weights: Weights, direction: Weights) -> Weights:
    """Return the Hessian of ``loss`` at ``weights`` times ``direction``, by double backward."""
    leaves = [weight.detach().requires_grad_() for weight in weights]
    with _TwiceDifferentiable():
        value = loss(leaves)
    slopes = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
    along = [(s * d).sum() for s, d in zip(slopes, direction, strict=True) if s.requires_grad]
    if not along:  # the loss is linear
        return [torch.zeros_like(weight) for weight in weights]
    total = torch.stack(along).sum()
    return list(torch.autograd.grad(total, leaves, materialize_grads=True))


def _moved(weights: Weights, direction: Weights, step: float) -> Weights:
    return [w + step * d for w, d in zip(weights, direction, strict=True)]
