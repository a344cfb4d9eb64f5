"""CINIC-10: L. N. Darlow, E. J. Crowley, A. Antoniou & A. J. Storkey, 2018, https://arxiv.org/abs/1810.03505.

The archive as it is published: ``root/{train,valid,test}/<class>/*.png``, 90,000 images in each part.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np

from corolla.data.cifar10 import CLASSES
from corolla.data.folder_listing import Listing
from corolla.data.image_folder import Archive, ImageFolder

PARTS = ("train", "valid", "test")


class Cinic10(ImageFolder):
    """270,000 images, 32x32 RGB, CIFAR-10's classes; there is no download.

    Args:
        root: folder of the three parts; None is reported by ``check``.
        parts: those of ``train``, ``valid``, ``test`` that make the pool.
        cache_dir: folder for decoded images, as in ``block_cache.cache_folder``.
        cache_gib: most that ``cache_dir`` may hold.
        memory_mib: most decoded images that are kept in this process.
    """

    name = "cinic10"
    known_parts = PARTS
    fixed_classes = True
    layout = (
        "CINIC-10's folder: train/, valid/ and test/, in each airplane/ to truck/ with PNG files "
        "(see the data set's own page for the archive)"
    )

    def __init__(self, **archive: Unpack[Archive]) -> None:
        super().__init__(
            resolution=32,
            channels=3,
            classes=CLASSES.split(),
            sites=False,
            mean=(0.47889522, 0.47227842, 0.43047404),  # as the data set's own page gives them
            std=(0.24205776, 0.23828046, 0.25874835),
            **archive,
        )

    def _listed(self) -> Listing:
        listing = super()._listed()
        # Any other folder may lack a class; here that is an archive half unpacked.
        there = np.bincount(listing.labels, minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, there, strict=True) if not count]
        self._refuse("no images of", empty)
        return listing
