"""Pictures of the server's own without labels: what a method distils on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from corolla.data.dataset import Dataset
from corolla.data.folder_listing import File, Listing
from corolla.data.image_decoding import SUFFIXES
from corolla.data.image_folder import Capacity, ImageFolder
from corolla.data.server_set import FEWEST, UNKNOWN, ServerImages, server_images
from corolla.errors import Fault, RefusedError
from corolla.settings import AtLeastTwo, Seed
from corolla.types import generator

KEY = "server_set.root"
_CHOICE = 0x0AB5E7  # keeps the draw of `max_images` apart from others of the same seed


class UnlabelledImages:
    """All pictures below a folder, at any depth, scaled to the run's images. Their labels are -1.

    Hidden files and folders (".name") are left out, and so are files that are no images.

    Args:
        root: the folder; None is reported by ``check``.
        max_images: with more pictures than these, so many are drawn uniformly; None takes all.
        seed: of that draw.
        cache_dir: folder for decoded images, as in ``block_cache.cache_folder``.
        cache_gib: most that ``cache_dir`` may hold.
    """

    labelled: ClassVar[bool] = False

    def __init__(
        self,
        *,
        root: str | Path | None,
        max_images: AtLeastTwo | None,
        seed: Seed,
        cache_dir: str | None,
        cache_gib: Capacity,
    ) -> None:
        self.root = None if root is None else Path(root).expanduser().absolute()
        self._max_images, self._seed = max_images, seed
        self._cache_dir, self._cache_gib = cache_dir, cache_gib

    def held_out(self, pool: int, train_size: int | None = None) -> NDArray[np.int64]:
        """Return nothing: the clients divide the whole pool."""
        return np.empty(0, np.int64)

    def check(self, dataset: Dataset, *, pool: bool) -> list[Fault]:
        """Return what is missing, the clients' own, or cannot be decoded."""
        try:
            pictures = self._pictures(dataset)
            faults = _shared(pictures, dataset) if pool else []
            if not faults and len(pictures.labels()) < FEWEST:
                remedy = f"Put {FEWEST} or more there"
                faults = [Fault(KEY, str(self.root), "holds a single picture", remedy)]
            if not faults:
                pictures.images(self._chosen(pictures))
        except RefusedError as error:
            return error.faults
        return faults

    def load(self, dataset: Dataset) -> ServerImages:
        """Return the pictures with the channels and resolution of ``dataset``, the run's.

        Raises:
            RefusedError: no folder, no pictures, or some that cannot be decoded, each named.
        """
        pictures = self._pictures(dataset)
        return server_images(pictures.images(self._chosen(pictures)), dataset, labelled=False)

    def _pictures(self, dataset: Dataset) -> _Pictures:
        if self.root is None:
            remedy = f"Set {KEY}=PATH, a folder of pictures"
            raise RefusedError(Fault(KEY, None, "no folder given", remedy))
        return _Pictures(
            root=self.root,
            resolution=dataset.resolution,
            channels=dataset.channels,
            classes=(),
            sites=False,
            mean=dataset.mean,
            std=dataset.std,
            cache_dir=self._cache_dir,
            cache_gib=self._cache_gib,
            memory_mib=0,
            root_key=KEY,
        )

    def _chosen(self, pictures: _Pictures) -> NDArray[np.int64]:
        there = len(pictures.labels())
        if self._max_images is None or there <= self._max_images:
            return np.arange(there)
        drawn = generator(self._seed, _CHOICE).permutation(there)[: self._max_images]
        return np.sort(drawn).astype(np.int64)


class _Pictures(ImageFolder):
    """Pictures below a folder, in the order of their paths; read and cached as those of class folders."""

    def _listed(self) -> Listing:
        root = Path(str(self.root))
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "folder does not exist"
            raise RefusedError(Fault(KEY, str(root), problem, "Give a folder of pictures"))
        try:
            pictures = sorted(_below(root, ""))
        except OSError as error:
            reason = f"cannot be read ({error.strerror}: {error.filename})"
            raise RefusedError(Fault(KEY, str(root), reason, "Grant read permission")) from error
        if not pictures:
            remedy = "Put images (JPEG, PNG, BMP, WEBP, GIF, TIFF, PNM) into it or folders below"
            raise RefusedError(Fault(KEY, str(root), "holds no pictures", remedy))
        return Listing.of(root, pictures, [UNKNOWN] * len(pictures), class_names=())


def _below(root: Path, prefix: str) -> Iterator[File]:
    """Yield path relative to ``root``, bytes and mtime of each picture; no folder link is followed."""
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):  # links may lead round in circles
                yield from _below(root, f"{path}/")
            elif Path(path).suffix.lower() in SUFFIXES and entry.is_file():
                status = entry.stat()
                yield path, status.st_size, status.st_mtime_ns


def _shared(pictures: _Pictures, dataset: Dataset) -> list[Fault]:
    """Tell pictures that are the clients' too: some may be what these are tested on."""
    own = set(dataset.files()) if isinstance(dataset, ImageFolder) else set()
    shared = [path for path in pictures.files() if path in own]
    if not shared:
        return []
    problem = f"{len(shared)} of its pictures are the clients' own, {shared[0]} the first"
    remedy = "Give a folder apart from dataset.root, or use server_set=held_out"
    return [Fault(KEY, str(pictures.root), problem, remedy)]
