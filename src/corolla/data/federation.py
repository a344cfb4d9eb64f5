"""A federation's data on one machine: each client's images, decoded when first asked for."""

from __future__ import annotations

from functools import cached_property

from corolla.data.byte_lru import ByteLru
from corolla.data.client_data import ClientData
from corolla.data.dataset import Dataset
from corolla.data.image_decoding import LISTED, UnreadableImagesError
from corolla.data.images import Images
from corolla.data.partition.partition import Partition
from corolla.errors import Fault, RefusedError, nearest
from corolla.records.phases import phase, step
from corolla.types import ClientId


class FederationData:
    """All clients of a simulation; at most ``memory_mib`` of decoded images stay in memory.

    Args:
        dataset: where the images come from.
        partition: who has which.
        memory_mib: least-recently-used clients are forgotten beyond this.
    """

    def __init__(
        self, dataset: Dataset, partition: Partition, *, memory_mib: float = 256.0
    ) -> None:
        self.dataset = dataset
        self.partition = partition
        self._kept: ByteLru[ClientData] = ByteLru(limit_mib=memory_mib)

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """Ids of all clients."""
        return tuple(self.partition.clients)

    def client(self, client: ClientId) -> ClientData:
        """Return the client's three splits, which must not be written to.

        Raises:
            RefusedError: no such client; another data set than the partition's; images that cannot
                be decoded.
        """
        kept = self._kept.get(client)
        if kept is not None:
            return kept
        if client not in self.partition.clients:
            known = nearest(client, self.clients)
            raise RefusedError(Fault("client", client, "the partition has no such client", known))
        if self._foreign:
            raise RefusedError(self._foreign)
        indices = self.partition.clients[client]
        # One block per client: decoded together, cached together, the splits are views of it
        block = self.dataset.images(indices.all())
        return self._kept.put(client, client_data(client, block, indices.sizes(), self.dataset))

    def check(self) -> list[Fault]:
        """Return all that is wrong, after decoding every client's images (which caches them)."""
        faults = self.dataset.check()
        if faults:
            return faults
        if self._foreign:
            return self._foreign
        unreadable: list[tuple[str, str]] = []
        key = remedy = ""
        with phase("decoding images of clients", len(self.clients)):
            for client in self.clients:
                try:
                    self.client(client)
                except UnreadableImagesError as error:
                    unreadable += error.unreadable
                    key, remedy = error.key, error.remedy
                except RefusedError as error:
                    faults += error.faults
                step()
        if unreadable:
            faults += UnreadableImagesError(key, unreadable, remedy).faults
        return faults[: LISTED + 1]

    @cached_property
    def _foreign(self) -> list[Fault]:
        """Tell a machine whose copy of the data differs: the positions would mean other images."""
        mine, theirs = self.dataset.fingerprint(), self.partition.fingerprint
        if mine == theirs:
            return []
        problem = f"fingerprint {mine}, but the partition was drawn for {theirs}"
        remedy = "Use the same files on every machine, or draw the partition again"
        return [Fault("dataset", self.dataset.name, problem, remedy)]


def client_data(
    client: ClientId, block: Images, sizes: tuple[int, int, int], dataset: Dataset
) -> ClientData:
    """Return a block of images (train, validation, test in turn) as one client's data."""
    train, validation, _ = sizes
    return ClientData(
        client=client,
        train=block.between(0, train),
        validation=block.between(train, train + validation),
        test=block.between(train + validation, len(block)),
        class_names=tuple(dataset.class_names),
    )
