"""Tiny-ImageNet: Y. Le & X. Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N, Stanford, 2015.

The archive as it is published: ``root/wnids.txt`` names the classes, ``root/words.txt`` says what they
are called, ``root/train/<wnid>/images/*.JPEG`` (500 a class), ``root/val/images/*.JPEG`` with their
classes in ``root/val/val_annotations.txt`` (50 a class). Labels of ``root/test`` were never published:
``val`` is what papers test on. Images are 64x64; papers often scale them to 32x32.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from corolla.data.folder_listing import Listing
from corolla.data.image_decoding import SUFFIXES
from corolla.data.image_folder import Archive, ImageFolder
from corolla.data.official_parts import TRAIN_PART
from corolla.errors import RefusedError

PARTS = (TRAIN_PART, "val")
_ANNOTATIONS = "val/val_annotations.txt"


class TinyImageNet(ImageFolder):
    """100,000 training and 10,000 labelled validation images, RGB, 200 classes; there is no download.

    Labels count the classes' WordNet ids in alphabetical order.

    Args:
        root: the folder ``tiny-imagenet-200``; None is reported by ``check``.
        resolution: height and width that images are scaled to when they are decoded, in pixels.
        parts: those of ``train``, ``val`` that make the pool.
        cache_dir: folder for decoded images, as in ``block_cache.cache_folder``.
        cache_gib: most that ``cache_dir`` may hold.
        memory_mib: most decoded images that are kept in this process.
    """

    name = "tiny_imagenet"
    known_parts = PARTS
    fixed_classes = True
    layout = (
        "Tiny-ImageNet's folder tiny-imagenet-200: wnids.txt, train/<wnid>/images/*.JPEG, "
        "val/images/*.JPEG and val/val_annotations.txt"
    )

    def __init__(
        self,
        *,
        resolution: int,
        **archive: Unpack[Archive],
    ) -> None:
        super().__init__(
            resolution=resolution,
            channels=3,
            classes=None,
            sites=False,
            mean=(0.4802, 0.4481, 0.3975),  # of the training images at 64x64, as commonly published
            std=(0.2770, 0.2691, 0.2821),
            **archive,
        )

    def _listed(self) -> Listing:
        if self.root is None or self._part_faults():
            raise RefusedError(self._setting_faults())
        ids = self._ids(self.root)
        listings = [
            self._in_folders(self.root, ids, [part])
            if part == TRAIN_PART
            else self._validation(ids)
            for part in self.parts or PARTS
        ]
        labels = np.concatenate([each.labels for each in listings])
        # A folder of classes may lack one; here that is an archive half unpacked
        there = np.bincount(labels, minlength=len(ids))
        self._refuse("no images of", [i for i, count in zip(ids, there, strict=True) if not count])
        return Listing(
            root=self.root,
            paths=[path for each in listings for path in each.paths],
            labels=labels,
            bytes_=np.concatenate([each.bytes_ for each in listings]),
            mtimes_ns=np.concatenate([each.mtimes_ns for each in listings]),
            class_names=_names(self.root, ids),
            sites=None,
            train_size=sum(each.train_size or 0 for each in listings),
        )

    def _ids(self, root: Path) -> list[str]:
        """Return the classes' WordNet ids in alphabetical order."""
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "folder does not exist"
            raise self._refused(problem)
        ids = self._text("wnids.txt").split()
        self._refuse("wnids.txt names twice", [i for i, n in Counter(ids).items() if n > 1])
        if not ids:
            raise self._refused("wnids.txt names no class")
        return sorted(ids)

    def _validation(self, ids: list[str]) -> Listing:
        """Return the images of ``val/images``, by name, with the labels of the annotations."""
        lines = [line.split("\t") for line in self._text(_ANNOTATIONS).splitlines() if line.strip()]
        if not lines or any(len(line) < 2 for line in lines):
            raise self._refused(f"{_ANNOTATIONS} is not a table of file and wnid, with tabs")
        known = {line[0]: line[1].strip() for line in lines}
        self._refuse(
            f"wnids.txt does not name what is in {_ANNOTATIONS}:", set(known.values()) - set(ids)
        )
        try:
            with os.scandir(Path(str(self.root)) / "val" / "images") as entries:
                there = {e.name: e.stat() for e in entries if not e.name.startswith(".")}
        except OSError as error:
            raise self._refused(f"val/images cannot be read ({error.strerror})") from error
        self._refuse("val/images lacks", set(known) - set(there))
        spare = {name for name in set(there) - set(known) if Path(name).suffix.lower() in SUFFIXES}
        self._refuse(f"not in {_ANNOTATIONS}, but in val/images:", spare)
        files = [
            (f"val/images/{name}", there[name].st_size, there[name].st_mtime_ns)
            for name in sorted(known)
        ]
        label = {wnid: number for number, wnid in enumerate(ids)}
        labels = [label[known[name]] for name in sorted(known)]
        return Listing.of(Path(str(self.root)), files, labels, class_names=tuple(ids))

    def _text(self, file: str) -> str:
        try:
            return (Path(str(self.root)) / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise self._refused(f"{file} cannot be read ({reason})") from error


def _names(root: Path, ids: Sequence[str]) -> tuple[str, ...]:
    """Return what ``words.txt`` first calls each class, with the id where two are called the same.

    Classes that the file does not name, all of them if there is no file, are called by their ids.
    """
    try:
        lines = (root / "words.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() or wnid for wnid in ids]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return tuple(
        f"{name} ({wnid})" if name in repeated else name
        for name, wnid in zip(names, ids, strict=True)
    )
