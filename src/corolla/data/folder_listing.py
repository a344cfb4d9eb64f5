"""Which images a folder of class folders holds: names, labels, sites; nothing is decoded.

Layouts: ``root/<class>/image``; ``root/train/<class>/image`` with ``test`` or ``val`` beside it
(pooled, training images first, or some of the parts only); with sites, each ``root/<site>/`` is one
of these. Inside a class folder a single folder ``images`` may stand between, as in Tiny-ImageNet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corolla.data.image_decoding import SUFFIXES
from corolla.data.official_parts import TRAIN_PART
from corolla.errors import Fault, RefusedError, nearest, refuse

KNOWN_PARTS = (TRAIN_PART, "val", "valid", "validation", "test")
FOLDERS = "a folder of class folders"
_NAMED = 5  # of files that are left out


File = tuple[str, int, int]
"""Path relative to the root, with forward slashes; bytes; when it was last written, in ns."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder, in an order that depends on their names only.

    Args:
        root: the folder.
        paths: of each image, relative to ``root``, with forward slashes.
        labels: int64, (n,).
        bytes_: size of each file.
        mtimes_ns: when each file was last written.
        class_names: name of each label.
        sites: site of each image, if the folder was read by sites.
        train_size: length of the official training set, if the folder has one; it comes first.
        notes: what lies there and is no image of the pool, in sentences.
    """

    root: Path
    paths: list[str]
    labels: NDArray[np.int64]
    bytes_: NDArray[np.int64]
    mtimes_ns: NDArray[np.int64]
    class_names: tuple[str, ...]
    sites: list[str] | None = None
    train_size: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, files: Sequence[File], labels: Sequence[int], **more: Any) -> Self:
        """Return the listing of ``files`` with ``labels``; ``more``: the other fields."""
        return cls(
            root=root,
            paths=[path for path, _, _ in files],
            labels=np.array(labels, np.int64),
            bytes_=np.array([size for _, size, _ in files], np.int64),
            mtimes_ns=np.array([mtime for *_, mtime in files], np.int64),
            **more,
        )

    def without(self, positions: Sequence[int]) -> Listing:
        """Return the listing without these images."""
        gone = frozenset(positions)
        kept = [i for i in range(len(self.paths)) if i not in gone]
        first = self.train_size
        return replace(
            self,
            paths=[self.paths[i] for i in kept],
            labels=self.labels[kept],
            bytes_=self.bytes_[kept],
            mtimes_ns=self.mtimes_ns[kept],
            sites=None if self.sites is None else [self.sites[i] for i in kept],
            train_size=None if first is None else sum(i < first for i in kept),
        )

    def fingerprint(self) -> str:
        """Return a fingerprint of names, sizes and classes: the same for a copy on another machine."""
        rows = "\n".join(f"{p}\t{b}" for p, b in zip(self.paths, self.bytes_, strict=True))
        text = "\n".join(self.class_names) + "\n\n" + rows
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True)
class _ClassFolder:
    site: str
    part: str
    name: str
    files: list[File]


def list_images(
    root: Path,
    *,
    classes: Sequence[str] | None,
    sites: bool,
    key: str,
    settings_key: str,
    fixed_classes: bool = False,
    parts: Sequence[str] | None = None,
    layout: str = FOLDERS,
) -> Listing:
    """List the images under ``root``.

    Args:
        root: the folder.
        classes: names in label order; None takes the class folders' names in alphabetical order.
        sites: whether ``root`` holds one folder per site.
        key: setting that ``root`` came from, for error messages.
        settings_key: where the settings of the data set stand, for error messages.
        fixed_classes: ``classes`` is not a setting, for error messages.
        parts: folders in ``root`` that are pooled, in this order; None pools those there are.
        layout: what ``root`` should be, for error messages.

    Raises:
        RefusedError: folder missing or empty, class folders that ``classes`` does not name, class
            folders without images; all of them at once.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "folder does not exist"
        raise RefusedError(Fault(key, str(root), problem, f"Give {layout}"))
    ignored: list[str] = []
    try:
        folders = list(_class_folders(root, sites, parts, ignored))
    except OSError as error:
        reason = f"cannot be read ({error.strerror}: {error.filename})"
        raise RefusedError(Fault(key, str(root), reason, "Grant read permission")) from error
    there = {(folder.site, folder.part) for folder in folders}
    lacking = [
        f"{site}/{part}/".lstrip("/")
        for site in (_subfolders(root) if sites else [""])
        for part in parts or ()
        if (site, part) not in there
    ]
    if lacking:
        problem = f"no class folders in {', '.join(lacking)}"
        remedy = f"Give {layout}, or other {settings_key}.parts"
        raise RefusedError(Fault(key, str(root), problem, remedy))
    if not folders:
        arranged = "root/<site>/<class>/image.png" if sites else "root/<class>/image.png"
        remedy = f"Arrange as {arranged}"
        raise RefusedError(Fault(key, str(root), "holds no class folders", remedy))
    rename = "Rename or remove the folder"
    if not fixed_classes:
        rename = f"Rename the folder, or list it in {settings_key}.classes"
    fill = "Put images (JPEG, PNG, BMP, WEBP, GIF, TIFF, PNM) into it, or remove it"
    if key == f"{settings_key}.root":
        fill += f"; for root/<site>/<class>/ set {settings_key}.sites=true"
    faults = _class_faults(folders, classes, str(root), key, rename=rename, fill=fill)
    faults += _site_faults(folders, str(root), key)
    refuse(faults)
    names = tuple(classes) if classes is not None else tuple(sorted({f.name for f in folders}))
    rows = [(folder, file) for folder in folders for file in folder.files]
    label = {name: position for position, name in enumerate(names)}
    official = not sites and any(folder.part for folder in folders)
    return Listing.of(
        root,
        [file for _, file in rows],
        [label[folder.name] for folder, _ in rows],
        class_names=names,
        sites=[folder.site for folder, _ in rows] if sites else None,
        train_size=sum(folder.part == TRAIN_PART for folder, _ in rows) if official else None,
        notes=tuple(_said_of(root, sorted(ignored))),
    )


def _said_of(root: Path, ignored: Sequence[str]) -> Iterator[str]:
    """Say what is left out: images in folders further down, and files that are no images by their names."""
    for folder in (name for name in ignored if name.endswith("/")):
        names = [name for *_, files in os.walk(root / folder) for name in files]
        number = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)  # noqa: PTH122
        if number:
            yield f"Images left out in {folder}: {number} (class folders are read one level deep)."
    files = [name for name in ignored if not name.endswith("/")]
    if files:
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        listed = ", ".join(files[:_NAMED])
        yield f"Files left out, no images by their names: {len(files)} ({listed}{more})."


def _class_folders(
    root: Path, sites: bool, parts: Sequence[str] | None, ignored: list[str]
) -> Iterator[_ClassFolder]:
    for site in _subfolders(root) if sites else [""]:
        for part in _parts(root / site) if parts is None else parts:
            if not (root / site / part).is_dir():
                continue  # the caller tells what is nowhere
            for name in _subfolders(root / site / part):
                prefix = "/".join(step for step in (site, part, name) if step)
                yield _ClassFolder(site, part, name, sorted(_files(root, prefix, ignored)))


def _parts(folder: Path) -> list[str]:
    """Return the train/test folders in ``folder`` if it is divided so, else the folder itself."""
    names = _subfolders(folder)
    parts = [name for name in KNOWN_PARTS if name in names]
    divided = TRAIN_PART in parts and len(parts) > 1
    # A class may be called "train": then it holds images, not class folders.
    return parts if divided and all(_subfolders(folder / part) for part in parts) else [""]


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(root: Path, prefix: str, ignored: list[str]) -> Iterator[File]:
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 (a hot loop)
                status = entry.stat()
                yield f"{prefix}/{entry.name}", status.st_size, status.st_mtime_ns
            elif entry.name == "images" and entry.is_dir() and not prefix.endswith("/images"):
                yield from _files(root, f"{prefix}/images", ignored)
            else:
                ignored.append(f"{prefix}/{entry.name}" + ("/" if entry.is_dir() else ""))


def _class_faults(
    folders: list[_ClassFolder],
    classes: Sequence[str] | None,
    root: str,
    key: str,
    *,
    rename: str,
    fill: str,
) -> list[Fault]:
    """Return what is wrong with class folders; ``rename`` and ``fill`` are remedies."""

    def empty(names: str) -> Fault:
        return Fault(key, root, f"class folder {names!r} holds no images", fill)

    names = sorted({folder.name for folder in folders})
    if classes is not None:
        faults = [
            Fault(
                key,
                root,
                f"class folder {name!r} is unknown",
                f"{rename}. {nearest(name, classes)}",
            )
            for name in names
            if name not in classes
        ]
        if not faults and not any(folder.files for folder in folders):
            faults.append(empty(", ".join(names)))
        return faults
    faults = []
    trained = {folder.name for folder in folders if folder.part == TRAIN_PART}
    for name in names:
        if not any(folder.files for folder in folders if folder.name == name):
            faults.append(empty(name))
        elif trained and name not in trained and not any(f.site for f in folders):
            problem = f"class folder {name!r} is missing in {TRAIN_PART}/"
            faults.append(Fault(key, root, problem, "Rename or remove it where it is"))
    return faults


def _site_faults(folders: list[_ClassFolder], root: str, key: str) -> list[Fault]:
    filled = {folder.site for folder in folders if folder.files}
    return [
        Fault(key, root, f"site {site!r} holds no images", "Fill the site's folder or remove it")
        for site in sorted({folder.site for folder in folders} - filled)
        if site
    ]
