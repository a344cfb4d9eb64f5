"""Dividing a pool of images among clients, reproducibly; one file per rule."""

from corolla.data.partition.partition import ClientIndices, Partition
from corolla.data.partition.partitioner import Partitioner

__all__ = ["ClientIndices", "Partition", "Partitioner"]
