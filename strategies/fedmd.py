"""FedMD: clients of different architectures agree on what they say of public images.

Li & Wang 2019, https://arxiv.org/abs/1910.03581. Every client has a model of its own that is never sent. In
round t the server sends pixels of a public subset S_t, drawn by seed and round, and those of the subset
before with their consensus, the mean of the participants' logits. A client trains towards that consensus
(digest), then on its own images (revisit), and returns its logits on S_t.

Departures: digest and revisit come before the logits of a round, not after them, so that a round is one
exchange; a client that was not in the round before digests the consensus of those that were; transfer
learning on labelled public images is off unless ``pretrain_epochs`` is set; all models start from cuts of one
supernet's initial weights, as those of Local do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from corolla.data.server_set import ServerImages
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.settings import AtLeastTwo, settings
from corolla.state import Keeps, State
from corolla.tasks import Reply
from corolla.training.logit_distillation import DigestSettings
from corolla.types import Arrays, ClientId, client_order, generator
from strategies.base import Outcome
from strategies.exchange import Order
from strategies.metrics import LOSS, Metrics
from strategies.private_architectures import PrivateArchitecturesSettings
from strategies.public_images import PublicImages

_SUBSET = 0x5B5E7  # keeps the subset's draws apart from others of the same seed and round


@settings
class FedMDSettings(PrivateArchitecturesSettings, DigestSettings):
    """FedMD's settings."""

    subset_images: AtLeastTwo  # public images of a round; all where the server has fewer


class FedMD(PublicImages):
    """State: the latest consensus, the round whose subset it is of, which client has which architecture."""

    settings: FedMDSettings
    keeps: ClassVar[Keeps] = {"_agreed_in": "agreed_in", "_private": "architectures/"}
    reply_metrics: ClassVar[Metrics] = {"digest_loss": LOSS}

    def __init__(self, *, federation: Federation, settings: FedMDSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        self._subset_images = settings.subset_images
        self._digests, self._pretrains = settings.digest_epochs > 0, settings.pretrain_epochs > 0
        self._consensus: NDArray[np.float32] | None = None  # (images, classes)
        self._agreed_in = 0  # the round of the consensus

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send this round's public pixels, and the last ones with what was agreed of them."""
        public = self._public()
        arrays: Arrays = {"pixels": self._pixels(public, server_round)}
        shape = (len(arrays["pixels"]), self.space.num_classes)
        if self._consensus is None:
            arrays["logits"] = np.zeros(shape, np.float32)  # no consensus yet; not digested
        else:
            arrays["logits"] = self._consensus
            if self._digests:
                arrays["digest_pixels"] = self._pixels(public, self._agreed_in)
        first = arrays
        if self._pretrains and not all(self._private.knows(client) for client in cohort):
            images = public.images
            labelled = {"labelled_pixels": images.pixels.numpy(), "labels": images.labels.numpy()}
            first = {**arrays, **labelled}
        return [
            Order(
                task=self.task(server_round, client, self._private.of(self.federation, client)),
                arrays=arrays if self._private.knows(client) else first,
                returns={"logits": shape},
                of=None,
            )
            for client in cohort
        ]

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Take the mean of the logits, as the run averages. Without an answer the last consensus stands."""
        if not replies:
            return Outcome()
        public = self._public()
        replies = sorted(replies, key=lambda reply: client_order(reply.client))
        said = np.stack([reply.arrays["logits"].astype(np.float64) for reply in replies])
        mean = self._mean(said)
        self._consensus, self._agreed_in = mean.astype(np.float32), server_round
        self._private.settle(replies)
        metrics = {"disagreement": float(np.abs(said - mean).mean())}  # mean distance of a logit
        if public.labelled:  # for the records alone
            labels = public.images.labels.numpy()[self._subset(public, server_round)]
            metrics["consensus_accuracy"] = float((mean.argmax(1) == labels).mean())
        return Outcome(metrics)

    def state(self) -> State:
        """Return the consensus, if there is one, and the rest."""
        arrays = {} if self._consensus is None else {"consensus": self._consensus}
        return State(dict(arrays), super().state().meta)

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        super().load_state(state)
        self._consensus = state.arrays.get("consensus")

    def _public(self) -> ServerImages:
        """Return the server's images. RefusedError where they cannot be used."""
        public = super()._public()
        if self._pretrains and not public.labelled:
            problem = "transfer learning reads the labels of the server's images, which have none"
            remedy = "Use 0, or a server_set with labels"
            key = "method.pretrain_epochs"
            raise RefusedError(Fault(key, "above 0", problem, remedy))
        return public

    def _subset(self, public: ServerImages, server_round: int) -> NDArray[np.int64]:
        """Return ascending positions of a round's public images, by seed and round alone."""
        count = min(self._subset_images, len(public.images))
        rng = generator(self.federation.seed, server_round, _SUBSET)
        return np.sort(rng.choice(len(public.images), count, replace=False))

    def _pixels(self, public: ServerImages, server_round: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = public.images.pixels.numpy()
        return pixels[self._subset(public, server_round)]
