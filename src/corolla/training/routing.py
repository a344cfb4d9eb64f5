"""A routing network: from a summary of a client's images and labels, which modules are on.

FedMN: Wang et al. 2022, https://arxiv.org/abs/2210.14830. The router gives a logit per module. While it
learns, modules are drawn in every step, with u of the uniform distribution and temperature T (the relaxed
Bernoulli distribution of Maddison, Mnih & Teh, ICLR 2017):

    soft = sigmoid((logit + log u - log(1 - u)) / T),    on = 1 where soft > 1/2, else 0

The network has on + (soft - stop_gradient(soft)): the forward pass has zeros and ones, and the gradient is
that of soft. A layer with none on has the one of the largest logit + noise. Chosen without a draw, a module
is on where its logit is above 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corolla.data.images import Images
from corolla.settings import Count, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.modular import ModularSpace
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays


@settings
class RouterSettings:
    """What server and clients of FedMN must know alike."""

    router_hidden: Count  # units of the router's hidden layer


class Router(nn.Module):
    """Linear, ReLU, linear: (features + classes,) to (layers, modules)."""

    def __init__(
        self, *, features: int, classes: int, layers: int, modules: int, hidden: int
    ) -> None:
        super().__init__()
        self._shape = (layers, modules)
        self.hidden = nn.Linear(features + classes, hidden)
        self.out = nn.Linear(hidden, layers * modules)

    def forward(self, summary: Tensor) -> Tensor:
        """Return a logit per module."""
        logits: Tensor = self.out(self.hidden(summary).relu())
        return logits.view(self._shape)


def router_of(space: ModularSpace, hidden: int) -> Router:
    """Return a fresh router for the space's pools."""
    return Router(
        features=features_of(space),
        classes=space.num_classes,
        layers=len(space.layers),
        modules=space.modules,
        hidden=hidden,
    )


def features_of(space: ModularSpace) -> int:
    """Return the channels that enter the first pool."""
    network = space.subnet(space.smallest()).eval()
    seen: list[Tensor] = []
    _note_inputs(space, network, seen)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        network(torch.zeros(1, space.in_channels, space.resolution, space.resolution))
    return seen[0].shape[1]


def summary_of(
    space: ModularSpace, network: nn.Module, images: Images, *, trainer: LocalTrainer
) -> Tensor:
    """Return what is told of a client: mean features, and how frequent its classes are.

    Features are what enters the first pool of ``network`` in evaluation mode, averaged over pixels and
    standardised over channels. Of each of C classes it is C times its share, less 1: 0 where all are alike
    frequent. As shares they would be C times smaller than features, and no client's choice its own.
    """
    seen: list[Tensor] = []
    with _note_inputs(space, network, seen):
        sums = trainer.answers(
            network, trainer.floats(images), lambda *_: _pooled(seen.pop()).sum(0).cpu()
        )
    features = torch.stack(sums).sum(0) / len(images)
    spread = features.std(unbiased=False).clamp(min=1e-6)
    shares = torch.bincount(images.labels, minlength=space.num_classes) / len(images)
    return torch.cat([(features - features.mean()) / spread, space.num_classes * shares - 1])


def drawn(logits: Tensor, temperature: float) -> Tensor:
    """Return the gates of a step (layers, modules): zeros and ones, with the gradient of the relaxation."""
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    noisy = logits + uniform.log() - (-uniform).log1p()
    soft = (noisy / temperature).sigmoid()
    return switched_on(noisy) + (soft - soft.detach())  # exactly 0 and 1


def switched_on(logits: Tensor) -> Tensor:
    """Return 1 where a logit is above 0, and for the largest of a layer that has none; else 0."""
    on = (logits > 0).to(logits.dtype)
    best = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(on.dtype)
    none = on.sum(1, keepdim=True) == 0
    return torch.where(none, best, on)


def chosen(space: ModularSpace, router: Router, summary: Tensor) -> Architecture:
    """Return the modules that a client runs: without a draw."""
    with torch.inference_mode():
        on = switched_on(router(summary))
    return space.of([row.nonzero()[:, 0].tolist() for row in on])


class RoutedNetwork(nn.Module):
    """A network with all modules, and its router: trained together, in place.

    Args:
        space: of the network.
        network: with all modules.
        router: which are on.
        summary: what the router reads; fixed during a training.
        temperature: T; None: the router's choice without a draw, and it does not learn.

    """

    def __init__(
        self,
        space: ModularSpace,
        network: nn.Module,
        router: Router,
        summary: Tensor,
        *,
        temperature: float | None,
    ) -> None:
        super().__init__()
        self.network, self.router = network, router
        self._pools, self._temperature = space.pools(network), temperature
        self.register_buffer("summary", summary, persistent=False)
        used = torch.zeros(len(space.layers), space.modules, dtype=torch.bool)
        self.register_buffer("used", used, persistent=False)  # by any step

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits = self.router(self.get_buffer("summary"))
        on = switched_on(logits) if self._temperature is None else drawn(logits, self._temperature)
        self.get_buffer("used").logical_or_(on.detach() > 0.5)
        try:
            for pool, gates in zip(self._pools, on, strict=True):
                pool.gates = gates
            found: Tensor = self.network(images)
        finally:
            for pool in self._pools:
                pool.gates = None
        return found


def load_router(router: Router, arrays: Arrays) -> None:
    """Put received weights into the router. RuntimeError where they are another's."""
    router.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def _pooled(features: Tensor) -> Tensor:
    """Return (n, channels) of images' or vectors' features."""
    return features if features.ndim == 2 else features.flatten(2).mean(2)


def _note_inputs(
    space: ModularSpace, network: nn.Module, seen: list[Tensor]
) -> torch.utils.hooks.RemovableHandle:
    (first, *_) = space.pools(network)
    return first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
