"""How a client's models are scored and deployed: the one path of every method, for every model.

Two things stand between weights and a fair score. Running BN statistics lag behind the weights, and are
averages of other clients' images in what was received: they are recomputed on the client's training
images. A model that was taught to ignore how frequent classes are is told it again
(`corolla.training.prior`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.errors import Fault, RefusedError
from corolla.training.prior import classifier_of, fold, log_prior
from corolla.training.settings import BALANCED
from corolla.training.trainer import LocalTrainer

Prior = Literal["auto", "client", "none"]
Statistics = Literal["aggregate", "recalibrate"]


def takes_prior(prior: Prior, *, loss: str, shared: bool) -> bool:
    """Tell whether a client's class frequencies are added to a model's logits.

    ``auto``: where the model was last trained by a balanced ``loss``, whoever trained it. ``client``: there,
    and to every ``shared`` model, one averaged over clients: what plain cross-entropy taught it of
    frequencies is the clients' mean. A client's own model that it trained by plain cross-entropy knows
    them: never twice.
    """
    if prior == "none":
        return False
    return loss in BALANCED or (prior == "client" and shared)


def require_bias(model: nn.Module, *, prior: Prior, loss: str, classes: int) -> None:
    """Raise RefusedError where ``model`` would need a bias to carry the class prior and has none."""
    needed = takes_prior(prior, loss=loss, shared=True)
    if needed and classifier_of(model, classes) is None:
        problem = f"{type(model).__name__} has no linear layer with a bias per class to carry it"
        remedy = "Give the space's classifier a bias, or use evaluation.prior=none"
        raise RefusedError(Fault("evaluation.prior", prior, problem, remedy))


class Scoring:
    """Puts a client's BN statistics and class prior into models.

    Args:
        trainer: for its device, loop and loss.
        train: the client's training images: of their statistics, and of their classes' counts.
        batch_size: of the recalibration, in images.
        classes: of the model.
        statistics: ``recalibrate``, or ``aggregate``: as they came.
        prior: see `takes_prior`.
        keep: names of statistics that are never recalibrated: those that are private to the client.

    """

    def __init__(
        self,
        *,
        trainer: LocalTrainer,
        train: Images,
        batch_size: int,
        classes: int,
        statistics: Statistics,
        prior: Prior,
        keep: Container[str] = (),
    ) -> None:
        self._keep = keep
        self._trainer, self._train, self._batch_size = trainer, train, batch_size
        self._classes, self._statistics, self._prior = classes, statistics, prior

    def offset(self, *, shared: bool, loss: str | None = None) -> Tensor | None:
        """Return what is added to the logits of a model, (classes,); None: nothing.

        ``loss``: what it was last trained by, None: the trainer's. ``shared``: it came from the server.
        """
        if not takes_prior(self._prior, loss=loss or self._trainer.settings.loss, shared=shared):
            return None
        return log_prior(self._train.labels, self._classes)

    def apply(self, model: nn.Module, *, shared: bool, loss: str | None = None) -> None:
        """Change ``model`` into what its client runs, for good.

        Raises:
            ValueError: it has no bias that could carry the prior.

        """
        if self._statistics == "recalibrate":
            self._trainer.recalibrate(
                model, self._train, batch_size=self._batch_size, keep=self._keep
            )
        self._fold(model, self.offset(shared=shared, loss=loss))

    @contextmanager
    def applied(self, model: nn.Module, *, shared: bool, loss: str | None = None) -> Iterator[None]:
        """Do as `apply` inside the ``with``; afterwards ``model`` is what it was, to the bit.

        For models that are trained on, or sent.
        """
        with (
            _put_back(model, [name for name, _ in model.named_buffers()]),
            self._bias_put_back(model),
        ):
            self.apply(model, shared=shared, loss=loss)
            yield

    @contextmanager
    def with_prior(
        self, model: nn.Module, *, shared: bool, loss: str | None = None
    ) -> Iterator[None]:
        """Have the prior alone in ``model`` inside the ``with``, for scores by batch statistics."""
        with self._bias_put_back(model):
            self._fold(model, self.offset(shared=shared, loss=loss))
            yield

    @contextmanager
    def _bias_put_back(self, model: nn.Module) -> Iterator[None]:
        layer = classifier_of(model, self._classes)
        with nullcontext() if layer is None else _put_back(layer, ["bias"]):
            yield

    def _fold(self, model: nn.Module, offset: Tensor | None) -> None:
        if offset is not None:
            fold(model, offset)


@contextmanager
def _put_back(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    # By name: a model that moves to its device meanwhile has other tensors.
    before = {name: _named(module, name).detach().clone() for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, old in before.items():
                _named(module, name).copy_(old)


def _named(module: nn.Module, name: str) -> Tensor:
    *path, last = name.split(".")
    tensor: Tensor = getattr(module.get_submodule(".".join(path)), last)
    return tensor
