"""Weights of operations that are learned beside the network's: FedNAS's alpha, and Direct FedNAS's.

FedNAS (He, Annavaram & Avestimehr, 2020, https://arxiv.org/abs/2004.08546) mixes the outputs of all
operations by softmax(alpha) and moves alpha by both losses (MiLeNAS, first order). Direct FedNAS (Garg, Saha
& Dutta, 2020, https://arxiv.org/abs/2010.06223) runs one operation per edge, Z ~ softmax(alpha), as DSNAS
does: with gates z = 1 on what was drawn,

    gradient of alpha = (Z - softmax(alpha)) dL/dz

Both descend by Adam, with a state of its own in every training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corolla.search.decisions import LossOf
from corolla.settings import Betas, NonNegative, Positive, settings
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import KINDS, edge_pairs
from corolla.training.statistics import batch_statistics

Alphas = dict[str, Tensor]
"""Kind of cell -> (edges, operations of the space)."""


@settings
class ArchitectSettings:
    """How alpha moves on a client."""

    lr: Positive  # of Adam
    betas: Betas
    weight_decay: NonNegative
    train_weight: NonNegative  # of the training loss's gradient
    validation_weight: NonNegative  # of the validation loss's; Direct FedNAS has none


def shape_of(network: DartsNetwork) -> tuple[int, int]:
    """Return edges and operations of one kind of cell."""
    return len(edge_pairs(network.plan.nodes)), len(network.plan.operations)


class _Adam:
    """Makes Adam's steps of the alphas."""

    def __init__(self, alphas: Alphas, settings: ArchitectSettings) -> None:
        self.settings = settings
        self.alphas = {kind: alphas[kind].detach().clone().requires_grad_() for kind in KINDS}
        self._adam = torch.optim.Adam(
            list(self.alphas.values()),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )

    def _step(self, gradients: Mapping[str, Tensor]) -> None:
        for kind, alpha in self.alphas.items():
            alpha.grad = gradients[kind]
        self._adam.step()
        self._adam.zero_grad()


class Mixed(_Adam):
    """FedNAS: all operations, mixed by softmax(alpha). The network takes `mixture`; a hook of its training.

    Clipping of gradients is the weights' alone: alpha is no parameter of the network.
    """

    def __init__(
        self, alphas: Alphas, settings: ArchitectSettings, validation_loss: LossOf | None
    ) -> None:
        super().__init__(alphas, settings)
        self._validation_loss = validation_loss

    def mixture(self) -> Alphas:
        """Return the weights of the operations."""
        return {kind: alpha.softmax(1) for kind, alpha in self.alphas.items()}

    def __call__(self, network: nn.Module) -> None:
        """Move alpha; its gradient on the training loss is there already."""
        own, alphas = self.settings, list(self.alphas.values())
        gradients = {
            kind: own.train_weight * (torch.zeros_like(a) if a.grad is None else a.grad)
            for kind, a in self.alphas.items()
        }
        if own.validation_weight and self._validation_loss is not None:
            with batch_statistics(network):
                found = torch.autograd.grad(self._validation_loss(network), alphas)
            for kind, gradient in zip(self.alphas, found, strict=True):
                gradients[kind] = gradients[kind] + own.validation_weight * gradient
        self._step(gradients)


class Sampled(_Adam):
    """Direct FedNAS: one operation per edge and forward pass, drawn while the network trains.

    Otherwise the most probable ones run. Draws are torch's own, which every training seeds.
    """

    def __init__(self, network: DartsNetwork, alphas: Alphas, settings: ArchitectSettings) -> None:
        super().__init__(alphas, settings)
        self._network = network
        self._gates: Alphas = {}
        self._drawn: Alphas = {}  # one-hot

    def mixture(self) -> Alphas:
        """Draw what runs in this pass, and return its gates."""
        network, operations = self._network, self._network.plan.operations
        with torch.no_grad():
            for kind, alpha in self.alphas.items():
                p = alpha.softmax(1)
                index = torch.multinomial(p, 1) if network.training else p.argmax(1, keepdim=True)
                self._drawn[kind] = torch.zeros_like(p).scatter_(1, index, 1.0)
        chosen = {
            kind: [operations[i] for i in drawn.argmax(1).tolist()]
            for kind, drawn in self._drawn.items()
        }
        network.select(chosen)
        self._gates = {kind: drawn.clone().requires_grad_() for kind, drawn in self._drawn.items()}
        return self._gates

    def __call__(self, network: nn.Module) -> None:
        """Move alpha by the gates' gradients, of the training loss."""
        gradients = {}
        for kind, alpha in self.alphas.items():
            gate, drawn = self._gates[kind].grad, self._drawn[kind]
            if gate is None:  # no edge with an operation that carries anything was drawn
                gradients[kind] = torch.zeros_like(alpha)
                continue
            strength = (gate * drawn).sum(1, keepdim=True)
            gradients[kind] = (drawn - alpha.detach().softmax(1)) * strength
        self._step(gradients)
