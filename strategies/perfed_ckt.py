"""PerFed-CKT: clients of any architecture learn what similar clients say of public images.

COMET: Cho, Wang, Chiruvolu & Joshi, "Personalized Federated Learning for Heterogeneous Clients with
Clustered Knowledge Transfer", 2021, https://arxiv.org/abs/2109.08119. Every client has a model of its own
that is never sent. All say something of the same public images; the server clusters those that answered in
a round by it (k-means), and each is taught the mean of its cluster, its own outputs included, when it next
takes part (`corolla.training.codistillation`).

Departures: a client trains first and answers then, so that a round is one exchange; pixels travel in every
round, since a client may have lost them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from clients.perfed_ckt import OUTPUTS, TAUGHT
from corolla.aggregation.clusters import clusters_of
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.settings import AtLeastTwo, Count, settings
from corolla.state import Keeps
from corolla.tasks import Reply
from corolla.training.codistillation import CoDistillationSettings, outputs_of
from corolla.types import Arrays, ClientId, client_order, generator
from strategies.base import Outcome
from strategies.exchange import Order
from strategies.metrics import LOSS, Metrics
from strategies.private_architectures import PrivateArchitecturesSettings
from strategies.public_images import PublicImages

_IMAGES, _CLUSTERS = 0x1A6E5, 0xC105  # keep these draws apart from others of the same seed


@settings
class PerFedCKTSettings(PrivateArchitecturesSettings, CoDistillationSettings):
    """PerFed-CKT's settings."""

    public_images: AtLeastTwo  # |P|, the same in all rounds; all where the server has fewer
    clusters: Count  # of a round's clients; 1: all are taught the same


class PerFedCKT(PublicImages):
    """State: the targets that somebody still has, who has which, which client has which architecture."""

    settings: PerFedCKTSettings
    keeps: ClassVar[Keeps] = {
        "_targets": "targets/",
        "_taught": "taught",
        "_private": "architectures/",
    }
    reply_metrics: ClassVar[Metrics] = {"public_distance": LOSS}

    def __init__(self, *, federation: Federation, settings: PerFedCKTSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        if 1 < settings.clusters >= federation.participants:
            problem = (
                f"every one of {federation.participants} participants would be alone in its cluster"
            )
            remedy = "Use fewer clusters than clients_per_round, or 1"
            raise RefusedError(Fault("clusters", settings.clusters, problem, remedy))
        self._targets: dict[str, NDArray[np.float32]] = {}  # round and cluster -> (images, classes)
        self._taught: dict[ClientId, str] = {}  # what each client was given last

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send the public pixels, and to each what its cluster said of them when it last took part."""
        pixels = self._pixels()
        shape = (len(pixels), self.space.num_classes)
        sent: dict[str | None, Arrays] = {}  # those of one target get the same: serialised once
        orders = []
        for client in cohort:
            key = self._taught.get(client)
            if key not in sent:
                nothing = np.zeros(shape, np.float32)
                sent[key] = {
                    "pixels": pixels,
                    OUTPUTS: nothing if key is None else self._targets[key],
                }
            architecture, extra = (
                self._private.of(self.federation, client),
                {TAUGHT: key is not None},
            )
            task = self.task(server_round, client, architecture, extra=extra)
            orders.append(Order(task=task, arrays=sent[key], returns={OUTPUTS: shape}, of=None))
        return orders

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Cluster the answers; each cluster's mean is what its clients are taught from now on."""
        if not replies:
            return Outcome()
        replies = sorted(replies, key=lambda reply: client_order(reply.client))
        said = np.stack([self._said(reply) for reply in replies])
        drawn = generator(self.federation.seed, server_round, _CLUSTERS).integers(2**32)
        groups = clusters_of(said.reshape(len(said), -1), self.settings.clusters, seed=int(drawn))
        targets, taught = dict(self._targets), dict(self._taught)
        distances, columns = [], {}
        for number, members in enumerate(groups):
            mean, key = self._mean(said[members]), f"{server_round}.{number}"
            targets[key] = mean.astype(np.float32)
            distances.append(np.abs(said[members] - mean).sum())
            for member in members:
                taught[replies[member].client] = key
                columns[replies[member].client] = {"cluster": number}
        needed = set(taught.values())
        self._targets = {key: array for key, array in targets.items() if key in needed}
        self._taught = {client: taught[client] for client in sorted(taught, key=client_order)}
        self._private.settle(replies)
        disagreement = float(
            np.sum(distances) / said.size
        )  # mean distance of a number from its target
        return Outcome({"disagreement": disagreement, "clusters": len(groups)}, columns)

    def _said(self, reply: Reply) -> NDArray[np.float64]:
        """Return a client's outputs. Of logits, so that probabilities are some, whoever answers."""
        logits = torch.from_numpy(reply.arrays[OUTPUTS].astype(np.float64))
        return outputs_of(logits, self.settings.outputs).numpy()

    def _pixels(self) -> NDArray[np.uint8]:
        images = self._public().images
        count = min(self.settings.public_images, len(images))
        rng = generator(self.federation.seed, _IMAGES)
        chosen = np.sort(rng.choice(len(images), count, replace=False))
        pixels: NDArray[np.uint8] = images.pixels.numpy()[chosen]
        return pixels
