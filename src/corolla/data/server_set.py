"""Images of the server's own: what a method validates, searches or distils on without any client's.

Either a part of the pool that no client gets (`HeldOut`, in simulation), or images from elsewhere: a
folder, or another data set (`OtherImages`); pictures that nobody labelled are `unlabelled.py`'s.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from corolla.data.dataset import Dataset
from corolla.data.images import Images
from corolla.errors import Fault, RefusedError
from corolla.settings import AtLeastTwo, Seed, settings
from corolla.types import generator

FEWEST = 2  # images: BatchNorm takes a variance over a batch
DATASET_KEY = "server_set.dataset"
UNKNOWN = -1  # the label of images without one
_HELD_OUT = 0x5E7F0  # keeps this draw apart from the partition's, of the same seed


@dataclass(frozen=True, eq=False)
class ServerImages:
    """The server's images.

    Args:
        images: uint8 pixels, with labels that count as the clients' do, or all `UNKNOWN`; with the clients'
            mean and std, as it is their networks that are shown the images.
        class_names: name of each label.
        labelled: whether the labels say anything.
    """

    images: Images
    class_names: tuple[str, ...]
    labelled: bool


class ServerSet(Protocol):
    """Where the server's images come from. Classes are the ``_target_`` of ``conf/server_set/*.yaml``."""

    @property
    def labelled(self) -> bool:
        """Whether the images come with labels; known before any is read."""
        ...

    def held_out(self, pool: int, train_size: int | None = None) -> NDArray[np.int64]:
        """Return ascending positions that no client may get.

        Args:
            pool: number of images of the pool.
            train_size: how many at its start are official training images, where that is known.
        """
        ...

    def check(self, dataset: Dataset, *, pool: bool) -> list[Fault]:
        """Return all that is wrong, after decoding the images.

        Args:
            dataset: the run's.
            pool: whether its images are divided among the clients; real nodes have their own.
        """
        ...

    def load(self, dataset: Dataset) -> ServerImages:
        """Return the images, decoded; ``dataset`` is the run's."""
        ...


@settings
class HeldOut:
    """Images of the pool, drawn uniformly before the rest is divided among the clients.

    The draw depends on seed and size of the pool alone, so every process makes it again; for readers,
    ``partition.json`` lists the positions. A smaller set is part of a larger one of the same seed.
    """

    labelled: ClassVar[bool] = True

    images: AtLeastTwo  # how many
    seed: Seed  # of the draw
    # Of the pool that they are drawn from; train: its official training images, which leaves its test images
    # to be tested on. Runs that were started before there was this key can be resumed
    part: Literal["all", "train"] = "all"

    def held_out(self, pool: int, train_size: int | None = None) -> NDArray[np.int64]:
        """Return the positions; RefusedError where none would be left for the clients."""
        if self.part == "train":
            if train_size is None:
                problem = "the data set has no official training part"
                raise RefusedError(
                    Fault("server_set.part", "train", problem, "Use server_set.part=all")
                )
            pool = train_size
        if self.images >= pool:
            holds = "the pool holds" if self.part == "all" else "the pool's training part holds"
            problem = f"{holds} {pool} images: nothing would be left for the clients"
            raise RefusedError(
                Fault("server_set.images", self.images, problem, "Lower server_set.images")
            )
        drawn = generator(self.seed, _HELD_OUT).permutation(pool)[: self.images]
        return np.sort(drawn).astype(np.int64)

    def check(self, dataset: Dataset, *, pool: bool) -> list[Fault]:
        """Return which images cannot be decoded; without a pool there are no images to hold out."""
        if not pool:
            problem = "real nodes keep their own images: there is no pool to hold any out of"
            remedy = "Use server_set=dataset with images that are the server's own"
            return [Fault("server_set", "held_out", problem, remedy)]
        return dataset.check(self._positions(dataset))

    def load(self, dataset: Dataset) -> ServerImages:
        """Return the images out of the pool of ``dataset``."""
        return server_images(dataset.images(self._positions(dataset)), dataset, labelled=True)

    def _positions(self, dataset: Dataset) -> NDArray[np.int64]:
        return self.held_out(len(dataset.labels()), dataset.train_size())


class OtherImages:
    """All images of a data set that is not the clients': a folder, or any of ``conf/dataset``."""

    def __init__(
        self,
        *,
        dataset: Dataset,  # has the same channels and resolution as the run's; labelled, its classes too
        # Runs that were started before there was this key can be resumed
        labelled: bool = True,  # false drops the labels: images of whatever classes
    ) -> None:
        dataset.settings_key = DATASET_KEY
        self._own = dataset
        self.labelled = labelled

    def held_out(self, pool: int, train_size: int | None = None) -> NDArray[np.int64]:
        """Return nothing: the clients divide the whole pool."""
        return np.empty(0, np.int64)

    def check(self, dataset: Dataset, *, pool: bool) -> list[Fault]:
        """Return what is missing, does not fit the run's images, or cannot be decoded."""
        own = self._own
        faults = own.check()
        if faults:
            return faults
        if len(own.labels()) < FEWEST:
            problem = "holds no images" if not len(own.labels()) else "holds a single image"
            remedy = f"Give a data set with {FEWEST} images or more, or server_set=none"
            return [Fault(DATASET_KEY, own.name, problem, remedy)]
        for key in ("channels", "resolution"):
            mine, theirs = getattr(own, key), getattr(dataset, key)
            if mine != theirs:
                problem = f"the run's images have {theirs}"
                remedy = f"Give images of {theirs}; a folder takes {DATASET_KEY}.{key}={theirs}"
                faults.append(Fault(f"{DATASET_KEY}.{key}", mine, problem, remedy))
        if self.labelled and tuple(own.class_names) != tuple(dataset.class_names):
            mine, theirs = ", ".join(own.class_names[:20]), ", ".join(dataset.class_names[:20])
            remedy = (
                "Give images of the same classes, in the same order, or server_set.labelled=false "
                "to methods that read no labels"
            )
            problem = f"has the classes {mine}; the run's images have {theirs}"
            faults.append(Fault(DATASET_KEY, own.name, problem, remedy))
        if pool and own.fingerprint() == dataset.fingerprint():
            problem = "these are the clients' own images, including those they are tested on"
            remedy = "Use server_set=held_out to keep some of them from the clients"
            faults.append(Fault(DATASET_KEY, own.name, problem, remedy))
        return faults or own.check(np.arange(len(own.labels())))

    def load(self, dataset: Dataset) -> ServerImages:
        """Return all images; ``dataset`` says how the clients normalise theirs."""
        images = self._own.images(np.arange(len(self._own.labels())))
        return server_images(images, dataset, labelled=self.labelled)


def server_images(images: Images, dataset: Dataset, *, labelled: bool) -> ServerImages:
    """Return ``images`` for networks of the run's ``dataset``; not ``labelled``: without their labels."""
    images = dataclasses.replace(
        images,
        labels=images.labels if labelled else torch.full_like(images.labels, UNKNOWN),
        mean=tuple(dataset.mean),
        std=tuple(dataset.std),
    )
    return ServerImages(
        images=images,
        class_names=tuple(dataset.class_names),
        labelled=labelled,
    )
