"""The client of FML: its own model and the shared one learn from each other, each with its share of labels.

Shen et al., 2020, https://arxiv.org/abs/2006.16765. On each batch, v being the own model, w the shared:

    L_v = a CE(v) + (1 - a) KL(p_w || p_v),        L_w = b CE(w) + (1 - b) KL(p_v || p_w)

p of the other model is without gradient, KL the mean over the batch's images.
"""

from __future__ import annotations

from collections.abc import Sequence

from clients.fedkemf import FedKemfClient
from corolla.errors import Fault
from corolla.settings import NonNegative, Share, settings
from corolla.training.learner import Hook
from corolla.training.pull import Pull, overshoot
from corolla.training.settings import TrainerSettings
from corolla.types import Arrays


@settings
class FmlClientSettings:
    """What the two models learn from labels, and what from each other."""

    knowledge: str | Sequence[int]  # architecture of the shared network, the same for everybody
    labels_own: Share  # a: of the labels in the own model's loss; 1: Local
    labels_shared: Share  # b: of the labels in the shared network's loss; 1: FedAvg
    prox_mu: NonNegative  # mu of PFML's term mu/2 ||w - w_t||^2 in the shared network's loss

    def step_faults(self, trainer: TrainerSettings) -> list[Fault]:
        """Return what is wrong with the shared network's step along its pull."""
        return overshoot("prox_mu", self.prox_mu, trainer.gradient_lr)


class FmlClient(FedKemfClient):
    """FedKEMF's client with two shares, and perhaps a pull of the shared network."""

    settings: FmlClientSettings  # type: ignore[assignment]  # instead of one alpha

    def _shares(self) -> tuple[float, float]:
        return 1 - self.settings.labels_own, 1 - self.settings.labels_shared

    def _hook(self, received: Arrays) -> Hook | None:
        return Pull(strength=self.settings.prox_mu, targets=received)
